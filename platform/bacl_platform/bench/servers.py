"""Servers that benches start on this machine."""

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bacl.errors import RunError

PATIENCE = 120.0
"""Seconds until a server answers, at most."""


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def serving(
    what: str, command: Sequence[str], port: int, log: Path, env: Mapping[str, str]
) -> Iterator[None]:
    """Within, the server that a command starts answers at a port of 127.0.0.1.

    what: for the message of the RunError where it does not, such as `an S3 server`. log: takes what
    it says. env: all variables of its environment.
    """
    with log.open("w", encoding="utf-8") as file:
        server = subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _answers(port):
            if time.monotonic() > deadline or server.poll() is not None:
                said = log.read_text(encoding="utf-8")
                raise RunError(f"expected {what} at port {port}: {said}")
            time.sleep(0.1)
        yield
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
