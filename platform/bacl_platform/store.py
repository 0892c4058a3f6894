"""The store: finished jobs by key, unfinished ones in `.work`, and what makes either trustworthy.

A folder is complete when its `manifest.json`, written last, lists every file with size and SHA-256
and all of them hold. Everything is written beside its place and renamed into it, so a crash at any
moment leaves something that is either complete or not trusted.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bacl.errors import RunError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
CHECKPOINT = "checkpoint.pth"
JOB = "job.json"
SCALARS = "scalars.jsonl"
MOVES = "moves.json"
"""Which variants of a population went on from which others, and with which values."""
FAILURE = "failure.txt"
"""How an unfinished job failed, until it is started again."""
KEPT_CHECKPOINTS = 2


class Store:
    """A local folder with one entry per key."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()
        self._verified: dict[str, list[tuple]] = {}

    @property
    def datasets(self) -> Path:
        """Where prepared datasets are cached."""
        return self.root / ".datasets"

    def entry(self, key: str) -> Path:
        """The folder of a finished job, whether or not it is there yet."""
        return self.root / key

    def work(self, key: str) -> Path:
        """The folder of an unfinished job; it outlives the processes that write in it."""
        return self.root / ".work" / key

    def complete(self, key: str) -> bool:
        """Whether the entry can be relied on: manifest present, sizes and digests as it says.

        Digests are computed once per process for as long as sizes and times stay the same.
        """
        folder = self.entry(key)
        if not (folder / MANIFEST).is_file():
            return False
        state = _fingerprint(folder)
        if self._verified.get(key) != state:
            if problem := broken(folder):
                logger.warning("%s is not trusted: %s", folder, problem)
                return False
            self._verified[key] = state
        return True

    def variants(self) -> dict[str, str]:
        """The entry that says it holds each variant, by the variant's key."""
        found: dict[str, str] = {}
        for description in sorted(self.root.glob(f"*/{JOB}")):
            # a damaged or foreign description holds nothing that can be relied on
            with contextlib.suppress(ValueError, KeyError):
                keys = json.loads(description.read_text())["variant_keys"]
                found |= dict.fromkeys(keys.values(), description.parent.name)
        return found

    def publish(self, key: str, folder: Path) -> Path:
        """Turn a folder of results into the entry of `key`, atomically, and drop the job's work.

        Raises RunError when the disk is full; then no entry exists and the work is still there.
        """
        entry = self.entry(key)
        with disk_errors(self.root):
            write_manifest(folder, key=key)
            if entry.exists():  # incomplete, or the job would not have run
                shutil.rmtree(entry)
            folder.rename(entry)
            _sync(self.root)
        shutil.rmtree(self.work(key), ignore_errors=True)
        return entry

    @contextlib.contextmanager
    def lock(self, key: str, patience: float = 60) -> Iterator[None]:
        """Hold the right to build `key`, against other processes on this file system.

        The lock is the operating system's: it ends with the process, however that ends. Waits
        `patience` seconds for a holder (a killed predecessor may still be dying), then raises
        RunError that names it.
        """
        path = self.root / ".work" / f"{key}.lock"
        holder = path.with_suffix(".holder")
        with disk_errors(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            who = holder.read_text() if holder.exists() else "another process"
            raise RunError(
                f"job {key} is being built by {who}: wait for it or stop it, then run the same "
                "command again"
            ) from None
        try:
            with disk_errors(self.root):
                holder.write_text(f"process {os.getpid()} on {socket.gethostname()} since {_now()}")
            yield
        finally:
            lock.release()


def write_manifest(folder: Path, **facts: Any) -> None:
    """Declare a folder complete: list its files with size and SHA-256, last of all writes."""
    files = {
        str(path.relative_to(folder)): {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in _files(folder)
    }
    write_text(
        folder / MANIFEST, json.dumps({**facts, "created": _now(), "files": files}, indent=1)
    )


def read_manifest(folder: Path) -> dict:
    """The manifest of a complete folder."""
    return json.loads((folder / MANIFEST).read_text())


def broken(folder: Path) -> str | None:
    """Why a folder cannot be relied on, in words, or None when it can."""
    try:
        files = read_manifest(folder)["files"]
    except FileNotFoundError:
        return "its manifest is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return "its manifest cannot be read"
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
    for name, expected in files.items():
        if sha256(folder / name) != expected["sha256"]:
            return f"{name} is not what was written: its SHA-256 differs"
    return None


def write_checkpoint(folder: Path, step: int, save: Callable[[Path], None]) -> Path:
    """Write `folder/step_<step>` through `save(file)`; keep the newest two.

    Raises RunError when the disk is full; the partial checkpoint is removed.
    """
    final, partial = folder / f"step_{step}", folder / f".step_{step}.partial"
    with disk_errors(folder):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            save(partial / CHECKPOINT)
            write_manifest(partial, step=step)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync(folder)
    for _, old in _checkpoints(folder)[KEPT_CHECKPOINTS:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """Step and file of the newest checkpoint that can be relied on; older ones stand in for it."""
    for step, path in _checkpoints(folder):
        problem = broken(path)
        if problem is None:
            return step, path / CHECKPOINT
        logger.warning("checkpoint %s is not used: %s", path, problem)
    return None


def newest_step(folder: Path) -> int | None:
    """Step of the newest checkpoint by name, unverified: for display."""
    found = _checkpoints(folder)
    return found[0][0] if found else None


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    found = [(path.name.removeprefix("step_"), path) for path in folder.glob("step_*")]
    return sorted(((int(step), path) for step, path in found if step.isdecimal()), reverse=True)


@contextlib.contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Tell a full or unwritable disk in a sentence (RunError)."""
    try:
        yield
    except OSError as error:
        if sentence := disk_sentence(error, place):
            raise RunError(sentence) from error
        raise


def disk_sentence(error: OSError, place: Path) -> str | None:
    """What to tell about an operating system error that is about the disk, else None."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left for {place}: free some, or choose another --store, then run the same "
            "command again; it goes on from the last complete checkpoint"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.filename or place}: expected a writable place: {error.strerror}"
    return None


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a small file so that it is on the disk when this returns."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)


def _fingerprint(folder: Path) -> list[tuple]:
    stats = ((str(p), p.stat()) for p in [*_files(folder), folder / MANIFEST])
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _sync(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
