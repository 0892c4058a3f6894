"""What lies behind a report's AP: each variant's detections against the ground truth again.

Letters: G ground-truth boxes, I images, C categories, K kinds of errors, R recall thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.prepared import Prepared
from bacl.evaluation import Detections, Evaluator
from bacl_platform.analysis.error_types import Confusion, confusion, errors, judged_pairs
from bacl_platform.analysis.matching import (
    RECALLS,
    Iou,
    Truth,
    match,
    precision_at,
    read_truth,
)
from bacl_platform.analysis.overlaps import overlaps_of
from bacl_platform.analysis.results import Report
from bacl_platform.console import shows_bars

if TYPE_CHECKING:
    from rich.console import Console


METRICS: dict[Iou, str] = {"bbox": "AP", "segm": "mask_AP"}
"""The average precision of each kind of overlap."""


@dataclass(frozen=True)
class Profile:
    """One variant over its seeds.

    precision (C, R): at IoU 0.5, mean over seeds; NaN where a category has no boxes.
    gain (K, C): as `bacl_platform.analysis.error_types.Errors` has it, mean over seeds.
    confusion: boxes of all seeds together.
    found, finder (G,): of the first seed, as `Matched` has them.
    """

    precision: NDArray[Any]
    gain: NDArray[Any]
    confusion: Confusion
    found: NDArray[Any]
    finder: NDArray[Any]


@dataclass(frozen=True)
class Analysis:
    """Profiles by variant, and what they are about.

    iou: what was matched, boxes or masks. profiles: of the variants that have these.
    members: labels of each frequency group that have boxes in the split, the rarest group first.
    order: all labels, the category that training shows most first.
    files: names (I) of the split's images, which `truth.image` points into.
    masks: the same of masks, beside the analysis of boxes; None where no variant has masks.
    """

    prepared: Prepared
    truth: Truth
    files: list[str]
    members: dict[str, NDArray[Any]]
    order: NDArray[Any]
    profiles: dict[str, Profile]
    iou: Iou = "bbox"
    masks: "Analysis | None" = None

    @property
    def metric(self) -> str:
        """The name of the average precision that this lies behind."""
        return METRICS[self.iou]


def evaluator_of(prepared: Prepared) -> Evaluator:
    """What judges a dataset's results again."""
    return Evaluator(
        Path(prepared.val.annotations), prepared.categories, prepared.evaluation, prepared.groups
    )


def analyse(report: Report, console: "Console") -> Analysis:
    """Judge every result of a report again, for more than its AP; shows progress.

    Masks are judged of the variants that have an AP of masks with every seed.
    """
    from rich.progress import Progress

    prepared = report.prepared
    evaluator = evaluator_of(prepared)
    truth, images = read_truth(evaluator)
    judged = judged_pairs(evaluator, truth, images)
    kinds = {iou: _having(report, metric) for iou, metric in METRICS.items()}
    profiles: dict[Iou, dict[str, Profile]] = {iou: {} for iou in kinds}
    with Progress(console=console, transient=True, disable=not shows_bars(console)) as progress:
        task = progress.add_task("reading detections", total=len(report.results))
        for variant in report.variants:
            runs: dict[Iou, list[Profile]] = {
                iou: [] for iou, names in kinds.items() if variant in names
            }
            for result in report.of(variant):
                detections = result.detections()
                for iou, of_seeds in runs.items():
                    of_seeds.append(_profile(evaluator, detections, iou, judged))
                progress.advance(task)
            for iou, of_seeds in runs.items():
                profiles[iou][variant] = _over_seeds(of_seeds)
    by_place = evaluator.ground_truth.imgs  # made anew for whoever asks
    boxes = Analysis(
        prepared=prepared,
        truth=truth,
        files=[by_place[place]["file_name"] for place in range(images)],
        members=_members(prepared, truth),
        order=_order(prepared),
        profiles=profiles["bbox"],
    )
    if not profiles["segm"]:
        return boxes
    return replace(boxes, masks=replace(boxes, profiles=profiles["segm"], iou="segm"))


def _having(report: Report, metric: str) -> list[str]:
    """The variants that have a metric with every seed."""
    return [
        name
        for name in report.variants
        if all(metric in result.metrics for result in report.of(name))
    ]


def _profile(
    evaluator: Evaluator, detections: Detections, iou: Iou, judged: NDArray[Any]
) -> Profile:
    matched = match(evaluator, detections, iou, thresholds=1)
    overlaps = overlaps_of(matched, evaluator, detections, iou)
    total = matched.truth.totals(matched.categories)
    precision = np.full((matched.categories, len(RECALLS)), np.nan)
    for label in np.flatnonzero(total):
        one = matched.of(label)
        counts = ~matched.passed[0, one]
        precision[label] = precision_at(matched.right[0, one][counts], total[label])
    return Profile(
        precision,
        errors(matched, overlaps).gain,
        confusion(matched, overlaps, judged),
        matched.found,
        matched.finder,
    )


def _over_seeds(runs: Sequence[Profile]) -> Profile:
    return Profile(
        np.mean([run.precision for run in runs], axis=0),
        np.mean([run.gain for run in runs], axis=0),
        Confusion(
            np.sum([run.confusion.counts for run in runs], axis=0),
            np.sum([run.confusion.judged for run in runs], axis=0),
        ),
        runs[0].found,
        runs[0].finder,
    )


def _members(prepared: Prepared, truth: Truth) -> dict[str, NDArray[Any]]:
    total = truth.totals(len(prepared.categories))
    groups = np.array([category.frequency for category in prepared.categories])
    of_group = {
        name: np.flatnonzero((groups == name) & (total > 0)) for name in prepared.groups.names
    }
    return {name: labels for name, labels in of_group.items() if len(labels)}


def _order(prepared: Prepared) -> NDArray[Any]:
    by = f"{prepared.groups.by.removesuffix('s')}_count"
    seen = [(_rank(prepared, c.frequency), getattr(c, by)) for c in prepared.categories]
    return np.array(sorted(range(len(seen)), key=lambda label: seen[label], reverse=True))


def _rank(prepared: Prepared, group: str) -> int:
    return prepared.groups.names.index(group)


def featured(report: Report, count: int, metric: str = "AP") -> list[str]:
    """The baseline and the best others, `count` in all, where there is no room for every variant.

    Classifiers come before representations, whose classifier is only the beginning of theirs.
    metric: what is best by; variants without it are left out.
    """
    names = _having(report, metric)
    kind = {result.variant: result.kind for result in report.results}
    baseline = report.baseline

    def merit(name: str) -> tuple[bool, bool, float]:
        values = report.values(name, metric)
        return name == baseline, kind[name] == "classifier", mean(values) if values else -1

    chosen = sorted(names, key=merit, reverse=True)[:count]
    return chosen if baseline in chosen else [n for n in names if n in chosen]


# Categories that are taken for others


@dataclass(frozen=True)
class ConfusedPair:
    """Boxes of the category `tail` that are taken for the category `head` (labels).

    counts: for each variant, boxes so called and boxes that could have been, over its seeds.
    """

    tail: int
    head: int
    counts: dict[str, tuple[int, int]]


def confused_pairs(analysis: Analysis, names: Sequence[str], count: int) -> list[ConfusedPair]:
    """Where the long tail goes: the most frequent of its confusions with a larger group.

    At most `count` pairs of categories in different frequency groups, the box's own the rarer one;
    first those that one of the named variants confuses most often: by boxes, then by their share.
    """
    prepared = analysis.prepared
    profiles = {name: analysis.profiles[name] for name in names}
    rank = np.array([_rank(prepared, category.frequency) for category in prepared.categories])
    counts = np.max([p.confusion.counts[:, :-1] for p in profiles.values()], axis=0)
    share = np.max([np.nan_to_num(p.confusion.share) for p in profiles.values()], axis=0)
    tails, heads = np.nonzero((counts > 0) & (rank[:, None] < rank))
    order = np.lexsort((-share[tails, heads], -counts[tails, heads]))[:count]
    return [
        ConfusedPair(
            int(tail),
            int(head),
            {
                name: (
                    int(profile.confusion.counts[tail, head]),
                    int(profile.confusion.judged[tail, head]),
                )
                for name, profile in profiles.items()
            },
        )
        for tail, head in zip(tails[order], heads[order])
    ]
