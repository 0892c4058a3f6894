"""What is done in a folder of predictions, so that the same command goes on after an interruption.

A line of JSON for each image or video, written when its picture is there. A first line says what
made them; what another detector or threshold has made does not count.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from bacl.errors import RunError

JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class _Place:
    """Where an entry is in the file, and what tells whether it still holds."""

    offset: int
    stamp: Any
    picture: str | None
    objects: int


class Journal:
    """Entries by the name of their input; only where they are is in memory."""

    def __init__(self, file: IO[bytes], folder: Path, key: Mapping[str, Any]) -> None:
        self._file, self._folder = file, folder
        self._places: dict[str, _Place] = {}
        self._owners: dict[str, str] = {}
        """The input of each picture."""
        self.begun_anew = not self._read(key)
        """Whether there were entries which other settings have made."""

    @classmethod
    @contextmanager
    def opened(cls, folder: Path, key: Mapping[str, Any]) -> "Iterator[Journal]":
        """The journal of a folder, which no other process writes to meanwhile.

        key: what the entries depend on besides their inputs. Raises RunError where another process
        writes there.
        """
        try:
            with FileLock(folder / ".lock", timeout=0):
                path = folder / JOURNAL
                path.touch()
                with path.open("r+b") as file:
                    yield cls(file, folder, key)
        except Timeout:
            raise RunError(
                f"{folder}: another process is writing there: wait for it or give another --out"
            ) from None

    def _read(self, key: Mapping[str, Any]) -> bool:
        """Find the entries; False where there were some of another key, which are dropped."""
        lines = iter(self._file.readline, b"")
        first, end = next(lines, b""), 0
        fits = not first or _parsed(first) == dict(key)
        if first and fits:
            end = len(first)
            for line in lines:
                if (entry := _parsed(line)) is None:
                    break
                self._note(end, entry)
                end += len(line)
        self._file.seek(end)
        self._file.truncate()
        if not end:
            self._write(dict(key))
        return fits

    def _note(self, offset: int, entry: Mapping[str, Any]) -> None:
        name, picture = entry["name"], entry["picture"]
        self._places[name] = _Place(offset, entry["stamp"], picture, entry["objects"])
        if picture is None:
            return
        before = self._owners.get(picture, name)
        if before != name:  # its picture is overwritten
            self._places.pop(before, None)
        self._owners[picture] = name

    def _write(self, entry: Mapping[str, Any]) -> int:
        """Append a line and return where it begins."""
        offset = self._file.seek(0, os.SEEK_END)
        self._file.write(json.dumps(entry).encode() + b"\n")
        self._file.flush()
        return offset

    def holds(self, name: str, stamp: Any, picture: str | None) -> bool:
        """Whether an input is done as it is now, and with this picture, if one is wanted."""
        place = self._places.get(name)
        if place is None or place.stamp != stamp:
            return False
        return picture is None or (place.picture == picture and (self._folder / picture).is_file())

    def add(
        self,
        name: str,
        stamp: Any,
        picture: str | None,
        objects: int,
        content: Mapping[str, Any],
    ) -> None:
        """Note an input as done. stamp: what changes with it, as plain values. objects: how many
        were found."""
        facts = {"name": name, "stamp": stamp, "picture": picture, "objects": objects}
        self._note(self._write({**facts, **content}), facts)

    def objects(self, name: str) -> int:
        """How many were found in an input."""
        return self._places[name].objects

    def __getitem__(self, name: str) -> dict[str, Any]:
        """An input's entry."""
        self._file.seek(self._places[name].offset)
        entry: dict[str, Any] = json.loads(self._file.readline())
        return entry


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line's object; None of one that a process which was killed has not written to its end."""
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return entry if line.endswith(b"\n") else None
