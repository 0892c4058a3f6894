"""Files that users confuse with each other: what one is, and which command takes it.

Told by ending and first bytes, so that a large file is refused at once.
"""

import json
from pathlib import Path

from bacl.errors import UsageError

CHECKPOINTS = (".pth", ".pt", ".ckpt", ".safetensors")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
YAML = (".yaml", ".yml")

_LARGEST = 2**20
"""Bytes of JSON that are read to tell an experiment from annotations; no experiment has more."""


def refuse(path: Path, expected: str, *wanted: str) -> None:
    """Raise UsageError if a path is clearly of another kind than those wanted, saying which
    command takes it.

    expected: what the sentence says should be there. wanted: kinds as `kind_of` gives them. What
    there is no telling of passes.
    """
    kind = kind_of(path)
    if kind is not None and kind not in wanted:
        raise UsageError(f"{path}: expected {expected}, got {kind}: {_use_of(kind, path)}")


def kind_of(path: Path) -> str | None:
    """What a file or folder is, with its article; None where there is no telling."""
    ending = path.suffix.lower()
    if path.is_dir():
        if (path / "checkpoint.pth").is_file() and (path / "config.py").is_file():
            return "an exported variant"
        return None
    if not path.is_file():
        return None
    if ending in CHECKPOINTS:
        return "a checkpoint"
    if ending in PICTURES:
        return "an image"
    if ending in VIDEOS:
        return "a video"
    if ending == ".parquet":
        return "a results file"
    if ending == ".json":
        return _kind_of_json(path)
    return _kind_of_yaml(path) if ending in YAML else None


def _kind_of_json(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            start = file.read(1024).lstrip()[:1]
        if start == b"[":
            return "a results file"
        if start != b"{":
            return None
        if path.stat().st_size > _LARGEST:
            return "an annotation file"
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return "an annotation file" if {"images", "annotations"} & content.keys() else None


def _kind_of_yaml(path: Path) -> str | None:
    from bacl_platform.spec.yaml_files import read_yaml, says_sweep

    try:
        content = read_yaml(path)
    except UsageError:
        return None
    return "a sweep" if says_sweep(content) else "an experiment"


def _use_of(kind: str, path: Path) -> str:
    """Which command takes a file of a kind, in a sentence."""
    return {
        "an exported variant": f"`bacl evaluate {path} --data FILE` judges it, `bacl predict IMAGE "
        f"--checkpoint {path / 'checkpoint.pth'}` detects with it",
        "a checkpoint": f"`bacl evaluate {path} --data FILE` judges it, `bacl predict IMAGE "
        f"--checkpoint {path}` detects with it",
        "an image": f"`bacl predict {path} --run FILE --variant NAME` detects in it",
        "a video": f"`bacl predict {path} --run FILE --variant NAME` detects in it",
        "a results file": f"`bacl evaluate {path} --data FILE` judges it",
        "an annotation file": "an experiment names it as dataset.train or dataset.val, and `bacl "
        "data verify --train FILE --val FILE --images FOLDER` checks it",
        "a sweep": f"`bacl sweep {path}` runs it, `bacl report {path}` judges it",
        "an experiment": f"`bacl run {path}` runs it, `bacl report {path}` judges it",
    }[kind]
