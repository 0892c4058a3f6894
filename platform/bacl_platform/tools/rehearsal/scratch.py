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
    place = f"{REHEARSING}/{uuid.uuid4().hex}"
    inner: Store | None = None
    try:
        with disk_errors(store.root):
            (store.root / place).mkdir(parents=True)
        inner = Store(f"{store.url}/{place}")
        with disk_errors(inner.root):
            inner.datasets.mkdir(parents=True, exist_ok=True)
            (inner.root / WEIGHTS).symlink_to(store.root / WEIGHTS, target_is_directory=True)
        inner.write_note(".probe", "")
        if store.bucket is not None:  # of addresses, which content they had
            for name in store.notes(WEIGHTS):
                if name.endswith(".json"):
                    inner.write_note(name, store.note(name) or "")
        yield inner
    finally:
        _remove(store, place, inner)


def give(entry: str, store: Store, inner: Store) -> None:
    """Let a rehearsal start from a finished job."""
    if not inner.entry(entry).exists():
        inner.entry(entry).symlink_to(store.entry(entry), target_is_directory=True)
        if inner.bucket is not None:
            inner.push_folder(store.entry(entry), entry)


def _remove(store: Store, place: str, inner: Store | None) -> None:
    folders = [store.root / place, *([inner.root] if inner else [])]
    deadline = time.monotonic() + PATIENCE
    while any(folder.exists() for folder in folders) and time.monotonic() < deadline:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
    with contextlib.suppress(OSError):  # another rehearsal is in it
        (store.root / REHEARSING).rmdir()
    if store.bucket is not None:
        with contextlib.suppress(RunError):  # a bucket that refuses has been told of
            store.bucket.remove(store.bucket.sizes(f"{place}/"))


def size(folder: Path, pattern: str = "*") -> int:
    """Bytes of the files in a folder, at any depth, whose names fit a pattern."""
    return sum(path.stat().st_size for path in folder.rglob(pattern) if path.is_file())
