"""The store: finished jobs by key, unfinished ones in `.work`, and what makes either reliable.

A folder is complete when its `manifest.json`, written last, lists every file with size and SHA-256
and all of them hold. Everything is written beside its place and renamed into it, so a crash at any
moment leaves something that is either complete or not trusted. In a bucket, where nothing can be
renamed, the manifest comes last as well.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bacl.errors import RunError, UsageError
from bacl_platform.store.bucket import SCHEME, Bucket
from bacl_platform.store.disk import disk_errors, now, read_text, sync, write_text
from bacl_platform.store.lease import VOID_AFTER, Lease, being_built, is_held
from bacl_platform.store.manifest import (
    broken,
    fingerprint,
    listed,
    read_manifest,
    write_manifest,
)
from bacl_platform.store.names import JOB, KEY, MANIFEST
from bacl_platform.texts import is_text

logger = logging.getLogger(__name__)


class Store:
    """Finished jobs by key, one folder for each.

    The store is a local folder, or a bucket (`s3://bucket/prefix`). A bucket has a local folder
    too, on every machine one: below its $BACL_CACHE, or else that of the machine which plans, or
    ~/.cache/bacl. It is a cache of what the bucket has, and where a running job works. What counts
    is the bucket: an entry is published there before it gets its name here, so that whoever finds
    it here can rely on it there.
    """

    def __init__(self, place: str | Path) -> None:
        text = str(place)
        self.bucket = Bucket(text) if text.startswith(SCHEME) else None
        if self.bucket is not None:
            self.bucket.check()
            self._cache = os.environ.get("BACL_CACHE")
            self.root = _cache_of(self.bucket.url, self._cache)
        else:
            self.root = Path(place).expanduser().resolve()
            if not is_text(str(self.root)):  # Arrow ends the process on such a path
                raise UsageError(f"--store {place}: expected a path that is text in UTF-8")
        self.planned_in = self.root
        """Where the folder is on the machine that plans, whose jobs name files in it."""
        self._verified: dict[str, list[tuple[Any, ...]]] = {}
        self._leases: dict[str, Lease] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_verified": {}, "_leases": {}}  # what is this process's own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.bucket is not None:
            self.root = _cache_of(self.bucket.url, os.environ.get("BACL_CACHE") or self._cache)

    def localised(self, value: Any) -> Any:
        """A job's configuration, or a part of it, with the paths that the store's files have on
        this machine."""
        if isinstance(value, dict):
            return {key: self.localised(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.localised(item) for item in value)
        if isinstance(value, str) and value.startswith(f"{self.planned_in}{os.sep}"):
            return str(self.root / Path(value).relative_to(self.planned_in))
        return value

    @property
    def url(self) -> str:
        """The store as `--store` takes it."""
        return self.bucket.url if self.bucket else str(self.root)

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

        Digests are computed once per process for as long as sizes and times stay the same. An
        entry that only the bucket has is brought here first.
        """
        if self.bucket is None:
            return self._holds(key)
        if key in self._verified and self._holds(key):
            return True
        manifest = self.bucket.read_text(f"{key}/{MANIFEST}")
        if manifest is None:
            return False
        if read_text(self.entry(key) / MANIFEST) == manifest and self._holds(key):
            return True
        return self.pull_folder(key, manifest) and self._holds(key)

    def _holds(self, key: str) -> bool:
        folder = self.entry(key)
        if not (folder / MANIFEST).is_file():
            return False
        state = fingerprint(folder)
        if self._verified.get(key) != state:
            if problem := broken(folder):
                logger.warning("%s is not trusted: %s", folder, problem)
                return False
            self._verified[key] = state
        return True

    def entries(self) -> list[str]:
        """The keys that have entries, complete or not."""
        if self.bucket is not None:
            found = self.bucket.folders("")
        else:
            found = [path.name for path in self.root.glob("*") if path.is_dir()]
        return sorted(key for key in found if KEY.fullmatch(key))

    def descriptions(self) -> dict[str, dict[str, Any]]:
        """What entries say of themselves (`job.json`), by key, whether or not they are complete."""
        found = {key: self.description(key) for key in self.entries()}
        return {key: content for key, content in found.items() if content is not None}

    def description(self, key: str) -> dict[str, Any] | None:
        """What an entry says of itself; None where there is none that can be relied on."""
        with contextlib.suppress(ValueError):  # it is damaged or foreign
            content = json.loads(self._description(key) or "null")
            return content if isinstance(content, dict) else None
        return None

    def _description(self, key: str) -> str | None:
        text = read_text(self.entry(key) / JOB)
        if text is not None or self.bucket is None:
            return text
        copy = self.root / ".descriptions" / f"{key}.json"
        text = read_text(copy)
        if text is None and (text := self.bucket.read_text(f"{key}/{JOB}")) is not None:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_text(copy, text)
        return text

    def variants(self) -> dict[str, str]:
        """The entry that says it holds each variant, by the variant's key."""
        return {
            variant: key
            for key, job in self.descriptions().items()
            for variant in job.get("variant_keys", {}).values()
        }

    def publish(self, key: str, folder: Path) -> Path:
        """Turn a folder of results into the entry of `key`, atomically, and drop the job's work.

        Raises RunError when the disk is full, the bucket stays away, or another process builds the
        key by now; then no entry exists and the work is still there.
        """
        entry = self.entry(key)
        with disk_errors(self.root):
            write_manifest(folder, key=key)
            if self.bucket is not None:
                self.check_lease(key)
                self.push_folder(folder, key, beside=f".work/{key}/entry")
            if entry.exists():  # incomplete, or the job would not have run
                shutil.rmtree(entry)
            folder.rename(entry)
            sync(self.root)
        self.drop_work(key)
        return entry

    def drop_work(self, key: str) -> None:
        """Remove a job's work, here and in the bucket."""
        shutil.rmtree(self.work(key), ignore_errors=True)
        if self.bucket is not None:
            self.bucket.remove(self.bucket.sizes(f".work/{key}/"))

    def remove(self, key: str) -> None:
        """Remove an entry, here and in the bucket; first what makes it complete."""
        if self.bucket is not None:
            self.bucket.remove([f"{key}/{MANIFEST}"])
            self.bucket.remove(self.bucket.sizes(f"{key}/"))
        (self.entry(key) / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(self.entry(key), ignore_errors=True)
        (self.root / ".descriptions" / f"{key}.json").unlink(missing_ok=True)

    def push_folder(self, folder: Path, name: str, beside: str | None = None) -> None:
        """Copy a complete folder to the bucket, its manifest last.

        beside: a folder of the bucket that may have some of its files, which are then copied there.
        """
        assert self.bucket is not None
        self.bucket.remove([f"{name}/{MANIFEST}"])  # the files that it lists are about to change
        files = read_manifest(folder)["files"]
        there = self.bucket.sizes(f"{beside}/") if beside else {}
        for file, known in files.items():
            if there.get(f"{beside}/{file}") == known["bytes"]:
                self.bucket.copy(f"{beside}/{file}", f"{name}/{file}")
            else:
                self.bucket.upload(folder / file, f"{name}/{file}")
        self.bucket.upload(folder / MANIFEST, f"{name}/{MANIFEST}")

    def pull_folder(self, name: str, manifest: str) -> bool:
        """Copy a complete folder from the bucket; False where it is not what its manifest says."""
        assert self.bucket is not None
        final = self.root / name
        partial = final.with_name(f".{final.name}.partial")
        with disk_errors(self.root), self.bringing():
            if read_text(final / MANIFEST) == manifest and broken(final) is None:
                return True  # another process has brought it meanwhile
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            there = self.bucket.sizes(f"{name}/")
            for file in listed(manifest):
                if f"{name}/{file}" in there:  # else the check below reports it as missing
                    self.bucket.download(f"{name}/{file}", partial / file)
            write_text(partial / MANIFEST, manifest)
            if problem := broken(partial):
                logger.warning("%s/%s is not trusted: %s", self.url, name, problem)
                shutil.rmtree(partial)
                return False
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync(final.parent)
        return True

    def bringing(self) -> FileLock:
        """Within, no other process of this machine downloads the same from the bucket."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / ".pull.lock")

    def note(self, name: str) -> str | None:
        """A note in the store, such as `.sweeps/name.json`; None where there is none."""
        return self.bucket.read_text(name) if self.bucket else read_text(self.root / name)

    def write_note(self, name: str, text: str) -> None:
        """Write or replace a note."""
        if self.bucket is not None:
            self.bucket.write(name, text)
            return
        with disk_errors(self.root):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            write_text(self.root / name, text)

    def notes(self, folder: str) -> list[str]:
        """Names of the notes in a folder of notes."""
        if self.bucket is not None:
            return sorted(self.bucket.sizes(f"{folder}/"))
        found = (self.root / folder).rglob("*")
        return sorted(str(path.relative_to(self.root)) for path in found if path.is_file())

    def drop_note(self, name: str) -> None:
        """Remove a note, if it is there."""
        if self.bucket is not None:
            self.bucket.remove([name])
        else:
            (self.root / name).unlink(missing_ok=True)

    def held(self, key: str) -> bool:
        """Whether a process is building `key`."""
        path = self.root / ".work" / f"{key}.lock"
        if path.exists():
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return True
            lock.release()
        return self.bucket is not None and is_held(self.bucket, key)

    @contextlib.contextmanager
    def lock(self, key: str, patience: float | None = None) -> Iterator[None]:
        """Hold the right to build `key`, against all other processes.

        On a file system the lock is the operating system's: it ends with the process, however that
        ends. On a bucket there is a lease besides. Waits `patience` seconds for a holder (a killed
        predecessor may still be dying, its lease may have to run out), then raises RunError that
        names it.
        """
        if patience is None:
            patience = 60 if self.bucket is None else VOID_AFTER + 30
        path = self.root / ".work" / f"{key}.lock"
        holder = path.with_suffix(".holder")
        with disk_errors(self.root):
            path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=patience)
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.exists() else "another process"
            raise RunError(being_built(key, who)) from None
        try:
            who = f"process {os.getpid()} on {socket.gethostname()} since {now()}"
            with disk_errors(self.root):
                holder.write_text(who, encoding="utf-8")
            with self._lease(key, who, patience):
                yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def _lease(self, key: str, who: str, patience: float) -> Iterator[None]:
        if self.bucket is None:
            yield
            return
        with Lease(self.bucket, key, who, self.identity(), patience) as lease:
            self._leases[key] = lease
            try:
                yield
            finally:
                del self._leases[key]

    def check_lease(self, key: str) -> None:
        """Raise RunError if another process has taken over the lock that this one held."""
        if lease := self._leases.get(key):
            lease.check()

    def identity(self) -> str:
        """A random name of this machine's cache of the bucket."""
        path = self.root / ".identity"
        with self.bringing():
            if not path.exists():
                write_text(path, uuid.uuid4().hex)
        return path.read_text(encoding="utf-8")


def _cache_of(url: str, base: str | None) -> Path:
    folder = Path(base) if base else Path("~/.cache/bacl").expanduser()
    return folder.resolve() / hashlib.sha256(url.encode()).hexdigest()[:16]
