"""Opens a page in a browser once its server answers: `python -m bacl_platform.tracking.opening`.

A process of its own, because the one that wants the page becomes the server.
"""

import os
import socket
import subprocess
import sys
import time
import webbrowser

PATIENCE = 60.0
"""Seconds that a server may take to answer."""


def start(page: str, host: str, port: int) -> None:
    """Open a page as soon as something answers at `host` and `port`, without waiting for it here.

    It has no terminal: where there is no browser but one for terminals, nothing is opened.
    """
    command = [sys.executable, "-m", __name__, page, host, str(port), str(os.getpid())]
    quiet = subprocess.DEVNULL
    subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def main(page: str, host: str, port: int, starter: int) -> None:
    """Wait for the server, as long as its patience lasts and the process that wants it lives."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), 1).close()
        except OSError:
            if os.getppid() != starter:
                return
            time.sleep(0.2)
        else:
            webbrowser.open(page)
            return


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
