"""The cache of prepared datasets: folders by digest, notes on the digests of inputs."""

import hashlib
import json
import os
import uuid
from pathlib import Path

from bacl import settings
from bacl.datasets import images
from bacl.datasets.formats import FORMATS
from bacl.datasets.prepared import Prepared, sources_of
from bacl.digests import sha256
from bacl.extensions import source_digest

_CODE = (
    "boxes",
    "categories",
    "coco_json",
    "content",
    "decoding",
    "examine",
    "formats",
    "images",
    "index",
    "prepare",
    "prepared",
    "reading",
    "segmentations",
)
"""Modules beside this one that decide how inputs become a prepared dataset."""


def part_in(cache: Path) -> Path:
    """A new folder in the cache to build in, with the usual permissions, unlike `mkdtemp`."""
    part = cache / f".part-{uuid.uuid4().hex}"
    part.mkdir()
    return part


def put_in_place(part: Path, folder: Path) -> None:
    """Move a finished folder to its place, unless another process was there first."""
    try:
        part.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise


def in_cache(digest: str, dataset: settings.Dataset, cache: Path) -> Prepared:
    """The prepared dataset with the paths of this cache and these images."""
    folder = cache.resolve() / digest
    stored = Prepared.load(folder / "dataset.json")
    places = {
        name: getattr(stored, name).model_copy(
            update={
                "index": str(folder / f"{name}.arrow"),
                "annotations": str(folder / "val.json") if name == "val" else "",
                "images": str(source.images.resolve()),
            }
        )
        for name, source in zip(("train", "val"), sources_of(dataset), strict=True)
    }
    prepared = stored.model_copy(update=places)
    if prepared != stored:
        prepared.save(folder / "dataset.json")
    return prepared


def _input_key(dataset: settings.Dataset) -> str | None:
    """A digest that identifies unchanged annotation files without reading them; None where one is
    missing."""
    groups = dataset.groups.model_dump_json() if dataset.groups else ""
    code = [sha256(Path(__file__).with_name(f"{module}.py")) for module in _CODE]
    form = FORMATS[dataset.format]
    key = [dataset.format, groups, dataset.sizes, *code, source_digest(form.module) or ""]
    for source in sources_of(dataset):
        key += [str(source.annotations.resolve()), str(source.images.resolve())]
        try:
            for path in form.inputs(source.annotations):
                status = path.stat()
                facts = (path.resolve(), status.st_size, status.st_mtime_ns, status.st_ctime_ns)
                key += [str(fact) for fact in facts]
        except (OSError, ValueError):  # the error is raised when they are read
            return None
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()


def _note(dataset: settings.Dataset, cache: Path) -> Path | None:
    key = _input_key(dataset)
    return cache / "inputs" / f"{key}.json" if key else None


def remember(digest: str, dataset: settings.Dataset, folders: images.Folders, cache: Path) -> None:
    """Note the digest of a dataset for its present inputs: the annotation files and those of
    `folders`."""
    note = _note(dataset, cache)
    if note is None:
        return
    note.parent.mkdir(exist_ok=True)
    part = note.with_name(f".{note.name}.{os.getpid()}")
    looked = {"folders": [str(f) for f in folders.files], "files": folders.fingerprint()}
    part.write_text(json.dumps({"digest": digest} | looked), encoding="utf-8")
    part.replace(note)


def recall(dataset: settings.Dataset, cache: Path) -> Prepared | None:
    """The prepared dataset of unchanged inputs, or None."""
    note = _note(dataset, cache)
    if note is None or not note.exists():
        return None
    known = json.loads(note.read_text(encoding="utf-8"))
    folders = images.Folders()
    for folder in known["folders"]:
        folders.of(Path(folder))
    if folders.fingerprint() != known["files"]:
        return None
    if not (cache / known["digest"] / "dataset.json").exists():
        return None
    return in_cache(known["digest"], dataset, cache)
