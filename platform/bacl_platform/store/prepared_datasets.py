"""Prepared datasets in a bucket: an archive each, packed by the driver.

With a store that all machines see there is nothing to do.
"""

import json
import shutil
import tarfile
import tempfile
from pathlib import Path

from bacl.errors import RunError
from bacl_platform.store.disk import disk_errors
from bacl_platform.store.store import Store


def push(store: Store, digest: str) -> None:
    """Upload a prepared dataset, and the images that were made with it, if any."""
    if store.bucket is None:
        return
    there = store.bucket.sizes(".datasets/")
    for name in [digest, *_made_with(store, digest)]:
        if _archive(name) not in there:
            with disk_errors(store.root), tempfile.NamedTemporaryFile(dir=store.root) as file:
                with tarfile.open(fileobj=file, mode="w") as archive:
                    archive.add(store.datasets / name, arcname=".")
                file.flush()
                store.bucket.upload(Path(file.name), _archive(name))


def pull(store: Store, digest: str) -> None:
    """Download what this machine lacks of a prepared dataset; its description then names the files
    of this machine.

    Images that a user's files name are the user's to provide, on every machine. Raises RunError
    where the bucket lacks the dataset.
    """
    if store.bucket is None:
        return
    _unpack(store, digest)
    for name in _made_with(store, digest):
        _unpack(store, name)


def _archive(name: str) -> str:
    return f".datasets/{name}.tar"


def _made_with(store: Store, digest: str) -> list[str]:
    """Folders beside a prepared dataset that hold its images."""
    prepared = json.loads((store.datasets / digest / "dataset.json").read_text(encoding="utf-8"))
    images = Path(prepared["train"]["images"])
    inside = images.is_relative_to(store.datasets)
    return [images.relative_to(store.datasets).parts[0]] if inside else []


def _unpack(store: Store, name: str) -> None:
    assert store.bucket is not None
    folder, partial = store.datasets / name, store.datasets / f".{name}.partial"
    with disk_errors(store.root), store.bringing():
        if folder.exists():
            return
        if not store.bucket.sizes(_archive(name)):
            raise RunError(
                f"{store.url}/{_archive(name)}: expected a prepared dataset, found none: run the "
                "same command again, which puts it there"
            )
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with tempfile.NamedTemporaryFile(dir=store.root) as file:
            store.bucket.download(_archive(name), Path(file.name))
            with tarfile.open(file.name) as archive:
                archive.extractall(partial, filter="data")
        if (described := partial / "dataset.json").exists():
            _localise(described, store)
        partial.rename(folder)


def _localise(described: Path, store: Store) -> None:
    """Let the description of a dataset that another machine has prepared name files of this one's
    cache."""
    content = json.loads(described.read_text(encoding="utf-8"))
    index = content["train"].get("index")
    if not index or (there := Path(index).parent.parent) == store.datasets:
        return
    for split in (content["train"], content["val"]):
        for field in ("index", "annotations", "images"):
            if split[field] and Path(split[field]).is_relative_to(there):
                split[field] = str(store.datasets / Path(split[field]).relative_to(there))
    described.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
