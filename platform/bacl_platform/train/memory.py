"""How much memory this process and those that it started have held."""

import contextlib
import resource
import sys
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil

STATUS = Path("/proc/self/status")
EVERY = 0.25
"""Seconds between looks."""
_GROUPS = (
    ("/sys/fs/cgroup", "memory.max", "memory.current"),
    ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
)
"""A container's limit and its use, in either version of Linux's control groups."""


def resident() -> float:
    """The most MiB that this process has held."""
    if STATUS.exists():  # where there is /proc, a child's ru_maxrss begins with its parent's
        fields = dict(
            line.split(":", 1) for line in STATUS.read_text(encoding="utf-8").splitlines()
        )
        return int(fields["VmHWM"].removesuffix("kB")) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def own(process: Any) -> int:
    """Bytes of a process; what it shares with others counts in parts where the system tells."""
    info = process.memory_full_info()
    return int(getattr(info, "pss", 0) or info.rss)


def available() -> int:
    """Bytes that this machine, or the container that this process is in, has free."""
    free: int = psutil.virtual_memory().available
    for folder, limit, used in _GROUPS:
        with contextlib.suppress(OSError, ValueError):  # without a limit, it is a word
            most = int(Path(folder, limit).read_text(encoding="utf-8"))
            held = int(Path(folder, used).read_text(encoding="utf-8")) - _cached(Path(folder))
            free = min(free, max(most - held, 0))
    return free


def _cached(group: Path) -> int:
    """Bytes of files that a container would give up for other memory."""
    lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
    known = dict(line.split() for line in lines)
    return int(known.get("total_inactive_file", known.get("inactive_file", 0)))


class MemoryWatch(AbstractContextManager["MemoryWatch"]):
    """Looks at this process's memory and its children's while it is entered.

    A peak between two looks counts for the process itself, which the system remembers, not for its
    children.
    """

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.most, self.children, self.child_count = 0, 0, 0
        """Bytes at the look that found the most: in all, and of how many children."""
        self._resident = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> "MemoryWatch":
        self.look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()

    @property
    def peak(self) -> int:
        """The most bytes so far, of the process and its children together."""
        missed = int(resident() * 2**20) - self._resident
        return self.most + max(missed, 0)

    def look(self) -> int:
        """Bytes that the process and its children hold now."""
        mine, of_children, count = own(self.process), 0, 0
        self._resident = max(self._resident, self.process.memory_info().rss)
        for child in self.process.children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                of_children, count = of_children + own(child), count + 1
        if mine + of_children > self.most:
            self.most, self.children, self.child_count = mine + of_children, of_children, count
        return mine + of_children

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            self.look()
