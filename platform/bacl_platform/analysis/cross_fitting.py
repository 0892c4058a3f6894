"""What the best of several rows is worth on images that had no part in choosing it.

A value that is chosen by its AP on the validation split looks better there than it is. Here it is
chosen on one half of the images and judged on the other, and the other way round. Halves are made
of the images' file names, so that they are the same for all rows and for any order of images.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.prepared import Prepared
from bacl.errors import UsageError
from bacl_platform.analysis.matching import Iou, Matched, Truth, average_precision, match
from bacl_platform.analysis.profiles import evaluator_of
from bacl_platform.analysis.results import Result

FEWEST_IMAGES = 20
"""Of a half: AP of fewer says nothing about what was chosen."""
_METRIC = re.compile(r"(?P<masks>mask_)?AP(?P<level>50|75)?(_(?P<group>.+))?")
_LEVELS = {None: slice(None), "50": slice(0, 1), "75": slice(5, 6)}


@dataclass(frozen=True)
class CrossFitted:
    """The best of several rows by a metric, as fractions, means over seeds.

    best, value: the best on all images, and what it reaches there. chosen: the best on each half.
    own: what these reach on the half that chose them, and other: on the other half; means over both
    ways.
    """

    metric: str
    rows: int
    best: str
    value: float
    chosen: tuple[str, str]
    own: float
    other: float

    @property
    def sentence(self) -> str:
        """All of it, in points."""
        which = self.chosen[0] if len(set(self.chosen)) == 1 else " and ".join(self.chosen)
        return (
            f"Cross-fitted: {self.best} is the best of {self.rows} by {self.metric} on all "
            f"validation images, {100 * self.value:.1f}; chosen on one half of them and judged on "
            f"the other, both ways, the best ({which}) reaches {100 * self.other:.1f}, where on "
            f"the half that chose it {100 * self.own:.1f}."
        )


def halves(files: Sequence[str], seed: int = 0) -> NDArray[np.bool_]:
    """Which images (I,) are in the first half, by their names."""
    digests = [hashlib.sha256(f"{seed} {file}".encode()).hexdigest() for file in files]
    order = sorted(range(len(files)), key=digests.__getitem__)
    first = np.zeros(len(files), dtype=bool)
    first[order[: len(files) // 2]] = True
    return first


def cross_fit(
    rows: Mapping[str, Sequence[Result]],
    prepared: Prepared,
    metric: str,
    mode: str = "max",
    seed: int = 0,
) -> CrossFitted:
    """Cross-fit the choice among rows, each with the results of its seeds.

    metric: an average precision of `bacl_platform.plan.metric_names`. mode: `max`, or `min` where
    less is better. Raises UsageError where the halves are too small to choose by.
    """
    parts = _METRIC.fullmatch(metric)
    if parts is None:
        raise UsageError(f"--cross-fit: expected a metric such as AP or AP_r, got {metric}")
    evaluator = evaluator_of(prepared)
    content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    files = {image["id"]: str(image["file_name"]) for image in content["images"]}
    first = halves([files[number] for number in sorted(files)], seed)
    if min(first.sum(), (~first).sum()) < FEWEST_IMAGES:
        raise UsageError(
            f"--cross-fit: expected at least {2 * FEWEST_IMAGES} validation images, of which each "
            f"half has {FEWEST_IMAGES}, got {len(first)}"
        )
    weights = np.stack([first, ~first, np.ones(len(first), dtype=bool)]).astype(np.int64)
    iou: Iou = "segm" if parts["masks"] else "bbox"
    values: dict[str, NDArray[np.float64]] = {}
    for name, results in rows.items():
        of_seeds = []
        for result in results:
            matched = match(evaluator, result.detections(), iou)
            _check(matched.truth, weights, prepared)
            of_seeds.append(_mean(matched, weights, parts["level"], parts["group"], prepared))
        values[name] = np.mean(of_seeds, axis=0)
    sign = -1 if mode == "min" else 1
    best = [max(values, key=lambda name: sign * values[name][half]) for half in range(3)]
    return CrossFitted(
        metric,
        len(values),
        best[2],
        float(values[best[2]][2]),
        (best[0], best[1]),
        float(mean([values[best[0]][0], values[best[1]][1]])),
        float(mean([values[best[0]][1], values[best[1]][0]])),
    )


def _check(truth: Truth, weights: NDArray[np.int64], prepared: Prepared) -> None:
    """Raise UsageError where a half has no box of a frequency group that the split has boxes of."""
    groups = np.array([category.frequency for category in prepared.categories])
    for half in weights[:2]:
        seen = groups[truth.label[truth.counted & (half[truth.image] > 0)]]
        for name in np.unique(groups[truth.label[truth.counted]]):
            if name not in seen:
                raise UsageError(
                    f"--cross-fit: expected boxes of each frequency group in both halves of the "
                    f"validation images, one has none of group {name}: the split is too small to "
                    "choose by"
                )


def _mean(
    matched: Matched,
    weights: NDArray[np.int64],
    level: str | None,
    group: str | None,
    prepared: Prepared,
) -> NDArray[np.float64]:
    """The metric (B,) under weights (B, I) of images, over the categories with boxes there."""
    ap = average_precision(matched, weights)[:, _LEVELS[level]].mean(axis=1)
    if group is not None:
        ap = ap[:, [category.frequency == group for category in prepared.categories]]
    found: NDArray[np.float64] = np.nanmean(ap, axis=1)
    return found
