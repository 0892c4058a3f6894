"""Weights from the web: files in `.weights` of the store, by their SHA-256.

A note says which content an address had when it was first fetched; that holds from then on. Nodes
that share the store's folder find the files there; with a bucket, the driver puts them into it.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from bacl import weights as addresses
from bacl.digests import sha256
from bacl.download import Wanted, fetch
from bacl.errors import RunError
from bacl.watch import Watch
from bacl.weights import Address
from bacl_platform.store.disk import disk_errors
from bacl_platform.store.store import Store

FOLDER = ".weights"
MIRRORS = "BACL_MIRROR"
"""Variable with base addresses that are asked first, as for data sets."""


def known_digest(store: Store, address: Address) -> str | None:
    """What an address must give: as the user says, or as it was when it was first fetched."""
    if address.sha256:
        return address.sha256
    text = store.note(_note(address.place))
    return json.loads(text)["sha256"] if text else None


def provide(store: Store, address: Address, say: Callable[[str], None], watch: Watch) -> Path:
    """The file that an address gives, fetched where the store lacks it.

    Raises UsageError for a name that a hub does not have, RunError where no address gives the file
    or it is not what it was, or should be.
    """
    folder = store.root / FOLDER
    with disk_errors(store.root):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{_id(address.place)}.lock"):
            digest = known_digest(store, address)
            if digest is None or not _here(store, digest):
                digest = _fetch(store, Address(address.place, digest), say, watch)
    return file_of(store, digest)


def file_of(store: Store, digest: str) -> Path:
    """Where the store has weights, or would have them."""
    return store.root / FOLDER / f"{digest}.pth"


def push(store: Store, config: dict[str, Any]) -> None:
    """Upload the weights from the web that a job begins with, for a machine that lacks them."""
    if store.bucket is None:
        return
    for digest in _digests(store, config):
        name = f"{FOLDER}/{digest}.pth"
        if file_of(store, digest).is_file() and name not in store.bucket.sizes(name):
            store.bucket.upload(file_of(store, digest), name)


def pull(store: Store, config: dict[str, Any]) -> None:
    """Download from the bucket what this machine lacks of the weights that a job begins with."""
    for digest in _digests(store, config):
        if not _here(store, digest) and store.bucket is not None:
            raise RunError(
                f"{store.url}/{FOLDER}/{digest}.pth: expected the weights that a job begins with, "
                "found none: run the same command again, which puts them there"
            )


def localise(store: Store, config: dict[str, Any]) -> None:
    """Let a job's configuration begin with the files that the store has of its addresses.

    Those of hubs that the store lacks stay: MMEngine fetches them.
    """
    for init in addresses.pretrained(config):
        digest = _digest(store, init["checkpoint"])
        if digest is not None:
            init["checkpoint"] = str(file_of(store, digest))


def _digests(store: Store, config: dict[str, Any]) -> list[str]:
    found = (_digest(store, init["checkpoint"]) for init in addresses.pretrained(config))
    return [digest for digest in found if digest is not None]


def _digest(store: Store, checkpoint: str) -> str | None:
    if addresses.is_file(checkpoint):
        return None
    try:
        address = addresses.address_of(checkpoint)
    except ValueError:  # another scheme of MMEngine's
        return None
    return known_digest(store, address) if address else None


def _here(store: Store, digest: str) -> bool:
    """Whether this machine has the file, from the bucket if need be."""
    file = file_of(store, digest)
    if file.is_file() or store.bucket is None:
        return file.is_file()
    name = f"{FOLDER}/{digest}.pth"
    with store.bringing():
        if not file.is_file() and store.bucket.sizes(name):
            part = file.with_name(f".{file.name}.{os.getpid()}")
            store.bucket.download(name, part)
            if sha256(part) != digest:
                part.unlink()
                raise RunError(f"{store.url}/{name}: expected SHA-256 {digest}, got another")
            part.replace(file)
    return file.is_file()


def _fetch(store: Store, address: Address, say: Callable[[str], None], watch: Watch) -> str:
    name, places = addresses.locate(address, os.environ.get(MIRRORS, "").split())
    target = store.root / FOLDER / f"{_id(address.place)}.new"
    origin, digest = fetch(Wanted(name, places, sha256=address.sha256), target, watch)
    published = addresses.published_digest(address, name)
    if published and not digest.startswith(published):
        target.unlink()
        raise RunError(
            f"{origin}: expected SHA-256 {published}..., which its name says, got {digest}; what "
            "came was removed"
        )
    target.replace(file_of(store, digest))
    if address.sha256 is None:
        note = {"address": address.place, "sha256": digest}
        store.write_note(_note(address.place), json.dumps(note))
        if published is None:
            say(f"{address.place}: got SHA-256 {digest}, which is noted and holds from now on")
    return digest


def _id(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def _note(place: str) -> str:
    return f"{FOLDER}/{_id(place)}.json"
