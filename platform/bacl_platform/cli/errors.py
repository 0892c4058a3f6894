"""Errors of commands, as sentences and exit codes."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from bacl.errors import BaclError
from bacl_platform.redaction import redacted


@contextlib.contextmanager
def report_errors(debug: bool) -> Iterator[None]:
    """Turn an error into sentences on stderr and an exit code; with `debug`, let it through."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped: the same command goes on from the last checkpoints", file=sys.stderr)
        raise typer.Exit(130) from None
    except (BaclError, OSError) as error:
        if debug:
            raise
        for line in (_disk_sentence(error) or str(error)).splitlines():
            print(f"error: {redacted(line)}", file=sys.stderr)
        raise typer.Exit(getattr(error, "exit_code", 1)) from None


def _disk_sentence(error: Exception) -> str | None:
    """The error message for an operating system's error that is about the disk, else None."""
    from bacl_platform.store.disk import disk_sentence

    if not isinstance(error, OSError):
        return None
    return disk_sentence(error, Path(error.filename or "the store"))
