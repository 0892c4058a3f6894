"""Files of trained detectors: their tensors by name, read without running code of theirs."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from bacl.detector.imports import bacl_release, detectron2, mmdet, torchvision
from bacl.detector.imports.found import Found, Options
from bacl.detector.warmstart import NeedsCode, read_tensors
from bacl.errors import RunError

SOURCES = {
    "torchvision": torchvision,
    "detectron2": detectron2,
    "bacl_release": bacl_release,  # before mmdet, whose names it has
    "mmdet": mmdet,
}
"""The projects whose checkpoints are read, in the order in which they are recognised."""

_WEIGHTS = ("state_dict", "model", "model_state_dict")
"""Where a checkpoint has its weights, if they are not all of it."""


def read(path: Path, source: str | None, options: Options) -> tuple[str, Found]:
    """The source of a checkpoint and what is in it; None recognises the source by the names.

    Raises RunError where the file cannot be read, or is of no source known here.
    """
    state, rest = tensors_of(path)
    for name in [source] if source else SOURCES:
        if SOURCES[name].recognises(state.keys(), source is not None):
            found = SOURCES[name].read(state, rest, options)
            found.left_out |= _besides(rest)
            return name, found
    wanted = source or f"{', '.join(list(SOURCES)[:-1])} or {list(SOURCES)[-1]}"
    first = f"those of {', '.join(list(state)[:3])}" if state else "none"
    raise RunError(f"{path}: expected the names of a two-stage detector of {wanted}, got {first}")


def tensors_of(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A file's tensors by name, which are read when they are used where its format allows, and what
    else is in it."""
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch(path)
    place = next((name for name in _WEIGHTS if isinstance(content.get(name), Mapping)), None)
    weights = content if place is None else content[place]
    state = {
        str(name).removeprefix("module."): value
        for name, value in weights.items()
        if isinstance(value, Tensor)
    }
    return state, {} if place is None else {n: v for n, v in content.items() if n != place}


def _besides(rest: Mapping[str, Any]) -> dict[str, str]:
    """Why what a file has beside its weights is left out, by name."""
    reasons = {"ema_state_dict": "weights that were averaged; state_dict has their averages"}
    described = ("meta", "__author__", "matching_heuristics")
    return {n: reasons.get(n, "of its training") for n in map(str, rest) if n not in described}


def _torch(path: Path) -> Mapping[str, Any]:
    try:
        content = read_tensors(path, mapped=True)
    except NeedsCode as error:
        raise RunError(
            f"{error}; `python -m bacl.detector.imports.convert {path} NEW.pth` writes its tensors "
            "and plain values, without running what is in it"
        ) from None
    if not isinstance(content, Mapping):
        raise RunError(f"{path}: expected tensors by name, got a {type(content).__name__}")
    return content


def _safetensors(path: Path) -> Mapping[str, Any]:
    if find_spec("safetensors") is None:
        raise RunError(f"{path}: expected the package safetensors to be installed to read it")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content: dict[str, Any] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: expected a file of safetensors: {error}") from None
    return content
