"""Shards: files with what some images gave, each whole, memory-mapped on reading.

V image views or images, R rows (sampled RoIs), P positives among them, M (view, category) pairs
with statistics, D feature width. A shard is a dict of tensors that `torch.load` maps.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bacl.detector.warmstart import read_tensors
from bacl.digests import sha256
from bacl.errors import RunError
from bacl.features.parts import Part

_BESIDE = ".writing-"
"""How files are called that are being written."""


def write(folder: Path, part: Part, content: dict[str, Tensor]) -> None:
    """Write a shard, whole or not at all, and beside it what it is known by."""
    path = folder / part.name
    beside = path.with_name(f"{_BESIDE}{part.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:  # torch's own writer hides a full disk in a RuntimeError
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        known = {"bytes": beside.stat().st_size, "sha256": sha256(beside)}
        noted = folder / note(part.name)
        noted.unlink(missing_ok=True)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    noted.write_text(json.dumps(known), encoding="utf-8")


def clear(folder: Path) -> None:
    """Remove what processes that were killed have written of shards."""
    for path in folder.glob(f"{_BESIDE}*"):
        path.unlink()


def whole(folder: Path, part: Part) -> bool:
    """Whether a shard is there as it was written."""
    path = folder / part.name
    try:
        known = json.loads((folder / note(part.name)).read_text(encoding="utf-8"))
        size = path.stat().st_size
    except (OSError, ValueError):
        return False
    return isinstance(known, dict) and known == {"bytes": size, "sha256": sha256(path)}


def read(folder: Path, part: Part | str) -> dict[str, Tensor]:
    """A shard's tensors, mapped from the file.

    Raises:
        RunError: it is missing or damaged.
    """
    path = folder / (part if isinstance(part, str) else part.name)
    content: Any = read_tensors(path, mapped=True)
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a shard of features, got something else")
    return content


def found(folder: Path, split: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Names and tensors of a split's shards in their order."""
    for path in sorted(folder.glob(f"{split}-*.pt")):
        yield path.name, read(folder, path.name)


def note(name: str) -> str:
    """The file beside a shard's that says how large it is, and its digest."""
    return name.removesuffix(".pt") + ".json"
