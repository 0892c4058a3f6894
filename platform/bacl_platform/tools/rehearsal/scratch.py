"""A store for a rehearsal's jobs, inside the one that they would run in; removed at the end."""

import contextlib
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from bacl.errors import RunError
from bacl_platform.store.disk import disk_errors
from bacl_platform.store.names import REHEARSING
from bacl_platform.store.store import Store
from bacl_platform.store.weights import FOLDER as WEIGHTS

PATIENCE = 10.0
"""Seconds in which processes of a cluster that are ending may write once more."""


@contextlib.contextmanager
def scratch(store: Store) -> Iterator[Store]:
    """Within, an empty store inside another, which has its weights; then nothing is left of it.

    Raises RunError where the store cannot be written.
    """
    inner = Store(f"{store.url}/{REHEARSING}/{uuid.uuid4().hex}")
    try:
        _make(inner, store)
        yield inner
    finally:
        _remove(inner)


def _make(inner: Store, store: Store) -> None:
    try:
        with disk_errors(store.root):
            inner.datasets.mkdir(parents=True)
            (inner.root / WEIGHTS).symlink_to(store.root / WEIGHTS, target_is_directory=True)
    except OSError as error:
        problem = f"{store.url}: expected a store that can be written: {error.strerror}"
        raise RunError(problem) from error
    inner.write_note(".probe", "")
    if store.bucket is not None:  # of addresses, which content they had
        for name in store.notes(WEIGHTS):
            if name.endswith(".json"):
                inner.write_note(name, store.note(name) or "")


def give(entry: str, store: Store, inner: Store) -> None:
    """Let a rehearsal start from a finished job."""
    if not inner.entry(entry).exists():
        inner.entry(entry).symlink_to(store.entry(entry), target_is_directory=True)
        if inner.bucket is not None:
            inner.push_folder(store.entry(entry), entry)


def _remove(inner: Store) -> None:
    deadline = time.monotonic() + PATIENCE
    while inner.root.exists() and time.monotonic() < deadline:
        shutil.rmtree(inner.root, ignore_errors=True)
        time.sleep(0.05)
    if inner.bucket is not None:
        with contextlib.suppress(RunError):  # a bucket that refuses has been told of
            inner.bucket.remove(inner.bucket.sizes(""))
    elif inner.root.parent.exists():
        with contextlib.suppress(OSError):  # another rehearsal is in it
            inner.root.parent.rmdir()


def size(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files in a folder, at any depth, whose names fit a pattern."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())
