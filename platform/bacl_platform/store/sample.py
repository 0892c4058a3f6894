"""A sample of a dataset's images, by which a machine that has others is found before it trains.

Images that a user's files name do not go through the store: every machine has its own, or sees
those of a file server.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bacl.datasets.index import Index
from bacl.datasets.prepared import Prepared
from bacl.digests import sha256
from bacl.errors import RunError
from bacl_platform.store.store import Store

FILES = 200
"""Files of a split that are compared, at most."""
_AT_ONCE = 8

Facts = list[Any] | None
"""Bytes and SHA-256 of a file; None where it cannot be read."""


def note(store: Store, digest: str) -> None:
    """Note what a sample of a dataset's images is like on this machine now, in place of what was
    noted before: images may have been mended. Those that it cannot read are not compared."""
    prepared = Prepared.load(store.datasets / digest / "dataset.json")
    splits = {"train": prepared.train, "val": prepared.val}
    outside = {
        name: split
        for name, split in splits.items()
        if not Path(split.images).is_relative_to(store.datasets.resolve())
    }
    if not outside:
        return
    content: dict[str, Any] = {"host": socket.gethostname()}
    for name, split in outside.items():
        files = list(_drawn(Index(split.index)))
        facts = zip(files, _facts(Path(split.images), files), strict=True)
        content[name] = {file: found for file, found in facts if found is not None}
    store.write_note(_name(digest), json.dumps(content))


def check(store: Store, digest: str, config: Mapping[str, Any]) -> None:
    """Raise RunError, which names the file, where this machine has another image in the sample than
    the machine that noted it.

    config: the job's, which says which images it reads, and where they are.
    """
    text = store.note(_name(digest)) if (folders := dict(_folders(config))) else None
    if text is None:
        return
    noted = json.loads(text)
    for split, folder in folders.items():
        expected: dict[str, list[Any]] = noted.get(split, {})
        for (file, before), now in zip(expected.items(), _facts(folder, expected), strict=True):
            if before != now:
                raise RunError(
                    f"{folder / file}: expected {before[0]} bytes, as the file is on "
                    f"{noted['host']}, where the job was planned, got {_said(now, before)}: let "
                    "all nodes see the same images"
                )


def _name(digest: str) -> str:
    return f".datasets/{digest}.images.json"


def _drawn(index: Index) -> Iterator[str]:
    generator = np.random.default_rng(0)
    places = generator.choice(len(index), min(FILES, len(index)), replace=False)
    return (index.image(int(place)).file for place in sorted(places))


def _facts(folder: Path, files: Any) -> list[Facts]:
    with ThreadPoolExecutor(_AT_ONCE) as threads:  # most of it is waiting for the disk
        return list(threads.map(partial(_facts_of, folder), files))


def _facts_of(folder: Path, file: str) -> Facts:
    try:
        return [(folder / file).stat().st_size, sha256(folder / file)]
    except OSError:
        return None


def _folders(config: Mapping[str, Any]) -> Iterator[tuple[str, Path]]:
    """The splits whose images a job reads, and the folders that they are in."""
    for split in ("train", "val"):
        dataset = config.get(f"{split}_dataloader", {}).get("dataset", {})
        dataset = dataset.get("dataset", dataset)  # inside Copy-Paste's
        if "images" in dataset:
            yield split, Path(dataset["images"])


def _said(facts: Facts, before: list[Any]) -> str:
    if facts is None:
        return "no file that can be read"
    return f"{'other content of ' if facts[0] == before[0] else ''}{facts[0]} bytes"
