"""Statistics of classifiers, read from checkpoints with torch alone."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.detector.warmstart import read_checkpoint

_CLASSIFIERS = (
    "roi_head.bbox_head.fc_cls.weight",
    "roi_head.bbox_head.fc_cls.variant.copy.fc_cls.weight",
    "roi_head.bbox_head.fc_cls.variant.fc_cls.weight",
    "roi_head.bbox_head.fc_cls.variant.fc_cls.2.weight",
    "roi_head.bbox_head.fc_cls.variant.base.fc_cls.weight",
)
"""Keys of classifier weights in an exported detector: a linear classifier's; and, in a whole
variant, a copy's, a linear classifier's, that of a classifier behind a hidden layer, or that of the
variant which it corrects."""


def weight_norms_of(checkpoint: Path, categories: int) -> NDArray[Any] | None:
    """L2 norms (C,) of the foreground classifiers of an exported detector; a classifier's first C
    rows are the categories'. None where it has several classifiers, as in a cascade.

    Raises RunError where the checkpoint cannot be read.
    """
    state = read_checkpoint(checkpoint)["state_dict"]
    weights = next((state[name] for name in _CLASSIFIERS if name in state), None)
    return None if weights is None else weights[:categories].float().norm(dim=1).numpy()


def confusions_of(checkpoint: Path, variant: str, categories: int) -> NDArray[Any] | None:
    """Confusion matrix of a variant in a bank's checkpoint: sums of scores and, in the last column,
    numbers of samples, (C, C + 1), over all heads of a cascade. None where the variant's indicator
    is not a confusion matrix.

    Raises RunError where the checkpoint cannot be read.
    """
    key = rf"roi_head\.bbox_head\.(\d+\.)?variants\.{re.escape(variant)}\.indicator\.tally"
    state = read_checkpoint(checkpoint)["state_dict"]
    found = [value.numpy() for name, value in state.items() if re.fullmatch(key, name)]
    square = [tally for tally in found if tally.shape == (categories, categories + 1)]
    return np.sum(square, axis=0) if square else None
