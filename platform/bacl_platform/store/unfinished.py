"""Unfinished jobs of a store: their folders, and their copies in a bucket.

A job works in a local folder. With a bucket, a thread of the job's process copies its checkpoints
there while training goes on; a process that continues the job on another machine downloads them
first. Shards of features have copies of their own, of `bacl_platform.train.shard_copies`.
"""

import contextlib
import logging
import queue
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from bacl.errors import RunError
from bacl_platform.store.checkpoints import checkpoints
from bacl_platform.store.disk import write_text
from bacl_platform.store.manifest import broken
from bacl_platform.store.names import (
    CHECKPOINTS,
    JOB,
    KEY,
    LOG,
    MANIFEST,
    MOVES,
    SCALARS,
    SHARDS,
    STOPPED,
)
from bacl_platform.store.store import Store

logger = logging.getLogger(__name__)

SMALL = (JOB, SCALARS, MOVES, STOPPED, LOG)
"""Files that resuming needs besides checkpoints, and those that show why a job failed."""
PATIENCE = 60.0
"""Seconds that a job which ends waits for what is being copied."""


def keys(store: Store) -> list[str]:
    """The keys of unfinished jobs, and of finished ones whose work was left behind."""
    found = {path.name for path in (store.root / ".work").glob("*") if path.is_dir()}
    if store.bucket is not None:
        found |= set(store.bucket.folders(".work/"))
    return sorted(key for key in found if KEY.fullmatch(key))


def read(store: Store, key: str, name: str) -> str | None:
    """One of a job's small files, from this machine or the bucket, whichever has the later
    checkpoint; None where there is none."""
    if store.bucket is not None and _is_behind(store, key):
        return store.bucket.read_text(f".work/{key}/{name}")
    path = store.work(key) / name
    return path.read_text(encoding="utf-8") if path.exists() else None


def newest_step(store: Store, key: str) -> int | None:
    """Step of a job's newest checkpoint by name, or how many shards of features it has, unverified:
    for display."""
    return max(_steps_here(store, key) | _steps_there(store, key), default=_shards(store, key))


def _shards(store: Store, key: str) -> int | None:
    folder = f".work/{key}/entry/{SHARDS}/"
    names = {path.name for path in (store.root / folder).glob("*.json")}
    if store.bucket is not None:
        names |= {Path(name).name for name in store.bucket.sizes(folder) if name.endswith(".json")}
    return len(names) or None


def quiet(store: Store, key: str) -> float:
    """Seconds since a job last logged, by what this machine and the bucket have."""
    if store.bucket is not None and _is_behind(store, key):
        names = (f".work/{key}/{name}" for name in (SCALARS, JOB))
        return next((found.age for found in map(store.bucket.read, names) if found), 0.0)
    scalars = store.work(key) / SCALARS
    return time.time() - (scalars if scalars.exists() else scalars.with_name(JOB)).stat().st_mtime


def push(store: Store, key: str, over: Callable[[], bool] = lambda: False) -> None:
    """Copy a job's small files and checkpoints to the bucket, the newest first.

    Checkpoints that are no longer kept here leave the bucket. `over` is called between files, and
    ends the copying where it returns true. Raises RunError where the bucket stays away, or the lock
    was lost.
    """
    if store.bucket is None:
        return
    store.check_lease(key)
    work = store.work(key)
    for name in SMALL:
        with contextlib.suppress(FileNotFoundError):
            store.bucket.write(f".work/{key}/{name}", (work / name).read_text(encoding="utf-8"))
    there, kept = _steps_there(store, key), checkpoints(work / CHECKPOINTS)
    for step, path in kept:
        name = f".work/{key}/{CHECKPOINTS}/step_{step}"
        if over():
            return
        with contextlib.suppress(FileNotFoundError):  # newer ones have taken its place meanwhile
            manifest = (path / MANIFEST).read_text(encoding="utf-8")
            if step not in there or store.bucket.read_text(f"{name}/{MANIFEST}") != manifest:
                store.push_folder(path, name)
    for step in there - {step for step, _ in kept} if kept else ():
        name = f".work/{key}/{CHECKPOINTS}/step_{step}/"
        store.bucket.remove([name + MANIFEST])
        store.bucket.remove(store.bucket.sizes(name))


def pull(store: Store, key: str) -> None:
    """Download what the bucket has of a job and this machine lacks, because the job may have run
    elsewhere."""
    if store.bucket is None:
        return
    if _is_behind(store, key):
        store.work(key).mkdir(parents=True, exist_ok=True)
        for name in SMALL:
            text = store.bucket.read_text(f".work/{key}/{name}")
            if text is not None:
                write_text(store.work(key) / name, text)
    for step in sorted(_steps_there(store, key)):
        name = f".work/{key}/{CHECKPOINTS}/step_{step}"
        manifest = store.bucket.read_text(f"{name}/{MANIFEST}")
        if manifest is not None and broken(store.root / name):
            store.pull_folder(name, manifest)


def drop_finished(store: Store) -> None:
    """Remove what this machine has of jobs that have ended on others, which cannot remove it."""
    if store.bucket is None:
        return
    here = {path.name for path in (store.root / ".work").glob("*") if path.is_dir()}
    for key in filter(KEY.fullmatch, here):
        # one that is held is being made anew
        if store.bucket.sizes(f"{key}/{MANIFEST}") and not store.held(key):
            shutil.rmtree(store.work(key), ignore_errors=True)


def _is_behind(store: Store, key: str) -> bool:
    """Whether the bucket has a newer checkpoint than this machine, or this one has no work."""
    here, there = _steps_here(store, key), _steps_there(store, key)
    return max(there, default=0) > max(here, default=0) or not (store.work(key) / JOB).exists()


def _steps_here(store: Store, key: str) -> set[int]:
    return {step for step, _ in checkpoints(store.work(key) / CHECKPOINTS)}


def _steps_there(store: Store, key: str) -> set[int]:
    if store.bucket is None:
        return set()
    prefix = f".work/{key}/{CHECKPOINTS}/step_"
    names = (name.removeprefix(prefix) for name in store.bucket.sizes(prefix))
    steps = (name.removesuffix(f"/{MANIFEST}") for name in names if name.endswith(MANIFEST))
    return {int(step) for step in steps if step.isdecimal()}


class Uploads(AbstractContextManager[Any]):
    """Copies a running job's work to the store's bucket while it trains; does nothing where the
    store is a folder.

    Requests during a copy are carried out together after it. A copy that fails is logged and tried
    again with the next request; the newest local checkpoint stays valid.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.store, self.key = store, key
        self._requests: queue.Queue[bool] = queue.Queue(maxsize=1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)

    def request(self) -> None:
        """Ask for a copy, because there is something new."""
        if self.store.bucket is None:
            return
        if not self._thread.is_alive():
            self._thread.start()
        with contextlib.suppress(queue.Full):  # the one that waits will find this too
            self._requests.put_nowait(True)

    def __exit__(self, *_: object) -> None:
        """Copy what is new, and wait for that a limited time."""
        self.request()
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                self._requests.put(False, timeout=PATIENCE)
                self._thread.join(PATIENCE)
            self._over.set()

    def _run(self) -> None:
        while self._requests.get() and not self._over.is_set():
            try:
                push(self.store, self.key, self._over.is_set)
            except (RunError, OSError) as error:
                logger.warning("training goes on, but not all of it is stored yet: %s", error)
