"""Checkpoints of the authors' own BACL release, which is a branch of MMDetection 2.

Beside its names there are, of a classifier stage, the confusion matrix of FCBL as sums and counts,
and statistics of features by category. Both are defined as here (docs/architecture.md), so that
they go on.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from bacl.detector.imports import mmdet
from bacl.detector.imports.found import Found, Options

STATISTICS = {
    "feature_prototype": "prototype",
    "feature_variance": "variance",
    "feature_used": "seen",
}
"""Names of the statistics there, and of `bacl.hallucination.FeatureStatistics`."""
_MARKS = re.compile(r"roi_head\.bbox_head\.(loss_cls\.cm_numerator|feature_prototype)")


def recognises(names: Collection[str], said: bool = False) -> bool:
    """Whether tensors of these names are of such a checkpoint. said: the user says so."""
    marked = any(_MARKS.fullmatch(name) for name in names)
    return marked or (said and mmdet.recognises(names))


def read(state: Mapping[str, Tensor], rest: Mapping[str, Any], options: Options) -> Found:
    head = "roi_head.bbox_head"
    found = mmdet.read(state, rest, options)
    sums = found.state.pop(f"{head}.loss_cls.cm_numerator", None)
    counts = found.state.pop(f"{head}.loss_cls.num_gt", None)
    if sums is not None and counts is not None:
        found.state[f"{head}.indicator.tally"] = torch.cat([sums, counts[:, None]], dim=1)
    for theirs, ours in STATISTICS.items():
        value = found.state.pop(f"{head}.{theirs}", None)
        if value is not None:
            found.state[f"{head}.statistics.{ours}"] = value > 0 if ours == "seen" else value
    return found
