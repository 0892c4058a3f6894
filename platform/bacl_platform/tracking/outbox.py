"""Events that MLflow has not received yet: in order, in memory and on disk.

On disk is what cannot be recovered from the store: rows (all that is left of jobs that a sweep
stops, and of a machine's metrics) and failures. A driver that ends before all is sent leaves them
there, and the next one with the same digest sends them. Rows that are sent twice do no harm: the
tracker logs each step once.
"""

import json
import threading
import time
import uuid
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from bacl_platform.plan.job import Job

KEPT = ("log", "fail")
"""Kinds of events that are on disk; the others follow from the store."""


def _now() -> int:
    return int(time.time() * 1000)


@dataclass(frozen=True)
class Event:
    """An event to send: `open`, `start`, `log`, `finish`, `fail`, `report` or `end`."""

    kind: str
    job: Job | None = None
    content: Any = None
    at: int = field(default_factory=_now)
    """When it happened, in milliseconds since 1970, however late it is sent."""


class Outbox:
    """Events of one digest, oldest first.

    Args:
        folder: where the drivers of a store keep theirs; each has a file and holds its lock.
        digest: of the plan or sweep.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{digest}-{uuid.uuid4().hex[:8]}.jsonl"
        self._events: deque[Event] = deque()
        self._news = threading.Condition()
        self._closed = False
        self._known: set[str] = set()
        """Keys of the jobs that the file describes."""
        self._described: dict[str, str] = {}
        self._lock = FileLock(self.path.with_suffix(".lock"), thread_local=False)
        self._lock.acquire()
        self._file: IO[str] = self.path.open("w", encoding="utf-8")
        for left in sorted(folder.glob(f"{digest}-*.jsonl")):
            if left != self.path:
                self._take_over(left)

    def put(self, event: Event) -> None:
        """Add an event."""
        with self._news:
            self._events.append(event)
            if event.kind in KEPT:
                self._write(event)
            self._news.notify_all()

    def oldest(self) -> list[Event]:
        """The next events to send: all rows up to an event of another kind, or one such; waits for
        it.

        Empty when the outbox is closed and empty.
        """
        with self._news:
            self._news.wait_for(lambda: self._events or self._closed)
            events: list[Event] = []
            for event in self._events:
                if events and event.kind != "log":
                    break
                events.append(event)
                if event.kind != "log":
                    break
            return events

    def forget(self, events: list[Event]) -> None:
        """Remove the oldest events, which MLflow has; the file is emptied with the last of them."""
        with self._news:
            for _ in events:
                self._events.popleft()
            if not self._events:
                self._file.seek(0)
                self._file.truncate()
                self._known.clear()

    def close(self) -> None:
        """Close the outbox: nothing more is added."""
        with self._news:
            self._closed = True
            self._news.notify_all()

    def release(self) -> int:
        """Release the file, for the next driver if events are left; returns how many are."""
        with self._news:
            self._file.close()
            if not self._events:
                self.path.unlink(missing_ok=True)
            self._lock.release()
            if not self._events:
                self.path.with_suffix(".lock").unlink(missing_ok=True)
            return len(self._events)

    def _write(self, event: Event) -> None:
        assert event.job is not None
        key = event.job.key
        if key not in self._known:
            if key not in self._described:
                self._described[key] = json.dumps({"job": event.job.model_dump(mode="json")})
            self._known.add(key)
            self._file.write(self._described[key] + "\n")
        line = {"kind": event.kind, "key": key, "content": event.content, "at": event.at}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()  # to the system, which outlives this process

    def _take_over(self, left: Path) -> None:
        lock = FileLock(left.with_suffix(".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return  # its driver runs
        try:
            jobs: dict[str, Job] = {}
            for line in left.read_text(encoding="utf-8").splitlines():
                try:
                    found = json.loads(line)
                except ValueError:
                    break  # the line that its driver was killed in
                if "job" in found:
                    job = Job.model_validate(found["job"])
                    jobs[job.key] = job
                else:
                    job = jobs[found["key"]]
                    self.put(Event(found["kind"], job, found["content"], found["at"]))
            left.unlink()
        finally:
            lock.release()
        left.with_suffix(".lock").unlink(missing_ok=True)
