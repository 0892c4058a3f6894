"""Checkpoints of MMDetection 2 and 3, and of variants that BACL has exported: their names are this
project's own."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from bacl.detector.imports.found import Found, Options


def recognises(names: Collection[str], said: bool = False) -> bool:
    """Whether tensors of these names are of such a checkpoint. said: the user says so."""
    return any(name.startswith("roi_head.bbox_head.") for name in names)


def read(state: Mapping[str, Tensor], rest: Mapping[str, Any], _: Options) -> Found:
    found = Found(categories=_categories(rest.get("meta")))
    for name, value in state.items():
        if name.startswith("ema_"):
            found.left_out[name] = (
                "a moving average, which MMDetection has put in the weights' place"
            )
        else:
            found.state[name] = value
    return found


def _categories(meta: Any) -> list[str] | None:
    """The categories' names in a checkpoint's `meta`."""
    if not isinstance(meta, Mapping):
        return None
    dataset = meta.get("dataset_meta")
    places = [dataset, meta] if isinstance(dataset, Mapping) else [meta]
    for place in places:
        for name in ("classes", "CLASSES"):
            if isinstance(place.get(name), list | tuple):
                return [str(category) for category in place[name]]
    return None
