"""Copies in the store's bucket of the shards that a job of kind `features` has made so far."""

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from typing import Any

from bacl.errors import RunError
from bacl.features import shards
from bacl.features.parts import Part
from bacl_platform.store.disk import read_text
from bacl_platform.store.names import SHARDS
from bacl_platform.store.store import Store
from bacl_platform.store.unfinished import PATIENCE

logger = logging.getLogger(__name__)

_AT_ONCE = 8
"""Notes that are read at the same time."""


class ShardCopies(AbstractContextManager[Any]):
    """Copies made by a thread, while further shards are computed; of a folder's shards there are
    none.

    By them the job goes on on another machine, and rank 0 gets what ranks elsewhere have made. A
    shard's note is copied last, and says whose version it is.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.bucket = store.bucket
        self.folder = store.work(key) / "entry" / SHARDS
        self.place = f".work/{key}/entry/{SHARDS}/"
        self._thread = ThreadPoolExecutor(1, "shards")
        self._waiting: dict[str, Future[None]] = {}

    def __exit__(self, *_: object) -> None:
        """Wait a limited time for what is being copied."""
        wait(self._waiting.values(), PATIENCE)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def there(self) -> set[str]:
        """Names of the shards that the bucket has."""
        if self.bucket is None:
            return set()
        names = {name.removeprefix(self.place) for name in self.bucket.sizes(self.place)}
        return {name for name in names if name.endswith(".pt") and shards.note(name) in names}

    def send(self, name: str) -> None:
        """Have a shard copied."""
        if self.bucket is not None:
            self._waiting[name] = self._thread.submit(self._copy, name)

    def settle(self) -> None:
        """Wait until all are copied, and try once more what failed. Raises RunError where the
        bucket stays away."""
        while self._waiting:
            name, copied = self._waiting.popitem()
            try:
                copied.result()
            except RunError as error:
                logger.warning("%s is copied again: %s", name, error)
                self._copy(name)

    def bring(self, parts: Sequence[Part]) -> None:
        """Have here the versions that the bucket has; those of a shard may differ in their last
        bits. Raises RunError for one that is damaged, which is then made anew at the next start."""
        if self.bucket is None:
            return
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            notes = list(threads.map(self._note, parts))
        for part, note in zip(parts, notes, strict=True):
            if note == read_text(self.folder / shards.note(part.name)):
                continue
            for name in (part.name, shards.note(part.name)):
                (self.folder / name).unlink(missing_ok=True)
                self.bucket.download(self.place + name, self.folder / name)
            logger.info("brought %s", part.name)
            if not shards.whole(self.folder, part):
                self.bucket.remove([self.place + shards.note(part.name)])
                raise RunError(
                    f"{self.bucket.url}/{self.place}{part.name}: expected the shard as it was "
                    "written, found another: run the same command again, which makes it anew"
                )

    def _note(self, part: Part) -> str | None:
        assert self.bucket is not None
        return self.bucket.read_text(self.place + shards.note(part.name))

    def _copy(self, name: str) -> None:
        assert self.bucket is not None
        note = shards.note(name)
        self.bucket.remove([self.place + note])
        for file in (name, note):
            self.bucket.upload(self.folder / file, self.place + file)
