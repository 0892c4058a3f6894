"""Files of the local disk: durable writes, and sentences for the disk's errors."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from bacl.errors import RunError


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Raise errors of a full disk or of missing permissions within as a RunError of one
    sentence."""
    try:
        yield
    except OSError as error:
        if sentence := disk_sentence(error, place):
            raise RunError(sentence) from error
        raise


def disk_sentence(error: OSError, place: Path) -> str | None:
    """The error message for an operating system's error that is about the disk, else None."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left for {place}: free some, or choose another --store, then run the same "
            "command again; it goes on from the last complete checkpoint"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{_barred(Path(error.filename or place))}: {error.strerror}"
    return None


def _barred(path: Path) -> str:
    """Which file or folder this user may not do what with, of a path that could not be used."""
    for folder in [*reversed(path.parents), path]:
        if os.path.isdir(folder) and not os.access(folder, os.X_OK, effective_ids=True):
            return f"{folder}: expected a folder that may be entered"
    if os.path.exists(path) and not os.access(path, os.R_OK, effective_ids=True):
        what = "folder" if os.path.isdir(path) else "file"
        return f"{path}: expected a {what} that may be read"
    return f"{path}: expected a writable place"


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is on the disk when this returns."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_text(path: Path) -> str | None:
    """The content of a small file; None where it is not there."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def link(source: Path | str, target: Path | str) -> None:
    """A second name for a file; or a copy, because not every file system has them."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def sync(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def now() -> str:
    """The time in UTC, in ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
