"""The right to build a key, where builders share nothing but a bucket.

A lease is an object that its holder keeps writing anew. Its age is by the bucket's clock alone, so
clocks of machines need not agree. Conditional writes let one of several win.
"""

import json
import logging
import threading
import time
import uuid
from contextlib import AbstractContextManager
from typing import Any

from bacl.errors import RunError
from bacl_platform.store.bucket import Bucket, Object

logger = logging.getLogger(__name__)

RENEW_AFTER = 20.0
"""Seconds between renewals."""
VOID_AFTER = 90.0
"""Seconds without one, after which another may take the lease over."""


class Lease(AbstractContextManager[Any]):
    """Held while in the context; waits `patience` seconds for another holder.

    holder: in words, for those who wait. place: identifies the file system on which the operating
    system's lock of the key counts. Whoever asks for a lease holds that lock, so a lease from the
    same place was left by a process that died. Raises RunError that names the holder.
    """

    def __init__(self, bucket: Bucket, key: str, holder: str, place: str, patience: float) -> None:
        self.bucket, self.key, self.patience = bucket, key, patience
        self.name = name_of(key)
        self.lost = False
        """Whether another has taken it over, because it could not be renewed in time."""
        self._own = {"holder": holder, "place": place, "token": uuid.uuid4().hex}
        self._count = 0
        self._etag = ""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        deadline = time.monotonic() + self.patience
        while not self._take():
            found = self.bucket.read(self.name)
            if found is not None and time.monotonic() > deadline:
                raise RunError(being_built(self.key, json.loads(found.content)["holder"]))
            time.sleep(min(2, self.patience / 4))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if not self.lost:
            try:
                self.bucket.remove([self.name])
            except RunError as error:  # what was built is built, and a lease runs out by itself
                logger.warning("the lease could not be given back: %s", error)

    def check(self) -> None:
        """Raise RunError if another process has taken the lease over."""
        if self.lost:
            raise RunError(
                f"another process has taken over job {self.key}, because {self.bucket.url} could "
                f"not be reached from here for more than {VOID_AFTER:.0f} s: this one gives up"
            )

    def _take(self) -> bool:
        found = self.bucket.read(self.name)
        if found is not None and not self._is_void(found):
            return False
        return self._write(None if found is None else found.etag)

    def _is_void(self, found: Object) -> bool:
        return found.age > VOID_AFTER or json.loads(found.content)["place"] == self._own["place"]

    def _write(self, etag: str | None) -> bool:
        """Replace that version of the lease; returns whether it is ours now."""
        self._count += 1
        text = json.dumps({**self._own, "renewal": self._count})
        written = self.bucket.write_if(self.name, text, etag)
        if written is None:  # perhaps refused only because an attempt before had succeeded
            found = self.bucket.read(self.name)
            if found is None or found.content != text:
                return False
            written = found.etag
        self._etag = written
        return True

    def _renew(self) -> None:
        while not self._over.wait(RENEW_AFTER):
            try:
                self.lost = not self._write(self._etag)
            except RunError as error:
                logger.warning("the lease could not be renewed: %s", error)
            if self.lost:
                return


def name_of(key: str) -> str:
    """The object that is the lease of a key."""
    return f".work/{key}.lease"


def being_built(key: str, holder: str) -> str:
    """The error message for a process that may not build a key because another does."""
    return (
        f"job {key} is being built by {holder}: wait for it or stop it, then run the same command "
        "again"
    )


def is_held(bucket: Bucket, key: str) -> bool:
    """Whether somebody keeps the lease of a key."""
    found = bucket.read(name_of(key))
    return found is not None and found.age <= VOID_AFTER
