"""Whether one variant, or file of detections, is really better than another: paired bootstrap over
the images.

Images of the validation split are drawn with replacement, the same for both variants, and AP is
computed anew from what each of their detections matched. hotcoco's `compare` is not used: it is for
LVIS's three groups and one pair of runs, and (1.3.0) counts an image that is drawn twice only once,
which makes its intervals a fifth too narrow.

Where both variants have masks, the same is said of their masks' AP.

Letters: B resamples, C categories, M = 3 measures (AP, AP50, AP75), S seeds.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import stdev
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.categories import Category
from bacl.datasets.prepared import Prepared
from bacl.errors import UsageError
from bacl_platform.analysis.contenders import Contender, Origin, check_split, pairs
from bacl_platform.analysis.matching import Iou, Matched, average_precision
from bacl_platform.analysis.profiles import evaluator_of, match_result
from bacl_platform.analysis.results import MEANS
from bacl_platform.console import shows_bars
from bacl_platform.plan.judged import notes
from bacl_platform.plan.metric_names import group_precision

if TYPE_CHECKING:
    from rich.console import Console

CONFIDENCE = 0.95
MOST_CHANGED = 10
"""Categories shown on each side."""
FEWEST_IMAGES = 5
"""For an interval: fewer can be resampled in so few ways that it would say nothing, and look
sure."""
_BATCH = 50
"""Resamples at a time."""
_MEASURES = {"": slice(None), "50": slice(0, 1), "75": slice(5, 6)}
"""What follows `AP` in its name, and the IoU thresholds that each is the mean of."""
_IOUS: dict[str, Iou] = {"AP": "bbox", "mask_AP": "segm"}


@dataclass(frozen=True)
class Change:
    """From one variant to the other, as fractions: means over seeds, their difference, and the
    interval that `CONFIDENCE` of the resamples lie in. by_seed: the difference of each seed.

    low and high are NaN where fewer than `FEWEST_IMAGES` images show what it is of.
    """

    first: float
    second: float
    low: float
    high: float
    by_seed: list[float]

    @property
    def difference(self) -> float:
        return self.second - self.first

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class CategoryChange(Change):
    """The change of a category's AP; boxes: its instances in the validation split."""

    category: Category
    boxes: int


@dataclass(frozen=True)
class Comparison:
    """What `second` gains over `first`.

    title: the experiments and files that they are of. seeds: those compared, none of files alone.
    metrics: by name, those without any category left out. categories: by `AP` or `mask_AP`, those
    with boxes in the validation split, the largest gain first. notes: what else is to be known.
    """

    title: str
    first: str
    second: str
    seeds: list[int]
    resamples: int
    images: int
    metrics: dict[str, Change]
    categories: dict[str, list[CategoryChange]]
    notes: list[str]
    features: tuple[Origin, Origin] = ("exact", "exact")
    """What first and second were trained on; of a file that is not known."""
    evaluated_with: tuple[str, str] = ("", "")
    """Averaged weights, several views or soft suppression of first and second, in words."""

    @property
    def stem(self) -> str:
        """The name of its page's and pictures' files, without a suffix."""
        return re.sub(r"[^\w.=,+-]+", "_", f"compare_{self.first}_{self.second}")

    @property
    def replayed(self) -> str:
        """A sentence on which of the two are replayed, empty where none is."""
        if "replay" not in self.features:
            return ""
        if "file" in self.features:
            replayed = self.first if self.features[0] == "replay" else self.second
            return f"{replayed} is replayed: trained on stored features, not exactly."
        if self.features == ("replay", "replay"):
            return (
                f"{self.first} and {self.second} are both replayed: trained on stored features, "
                "nearly as exact runs are."
            )
        return (
            f"MIXED: {_of_kinds(self.first, self.second, self.features)}; part of the difference "
            "may come from that and not from the variants."
        )

    def gained(self, kind: str = "AP") -> list[CategoryChange]:
        """The categories that gained most."""
        return [c for c in self.categories[kind][:MOST_CHANGED] if c.difference > 0]

    def lost(self, kind: str = "AP") -> list[CategoryChange]:
        """The categories that lost most, the largest loss first."""
        return [c for c in self.categories[kind][: -MOST_CHANGED - 1 : -1] if c.difference < 0]

    def verdict(self, name: str) -> str:
        """A metric in words, such as `AP_r +3.1 [0.4, 6.0]: bacl is better than softmax`."""
        change = self.metrics[name]
        words = f"{self.word(change)} than {self.first}" if change.clear else self.word(change)
        spread = spread_text(change)
        return f"{name} {signed(change.difference)} {interval_text(change)}{spread}: {words}"

    def word(self, change: Change) -> str:
        """Which way a change goes, in words."""
        if math.isnan(change.low):
            return "too few images for an interval"
        if not change.clear:
            return "no clear difference"
        return f"{self.second} is {'better' if change.difference > 0 else 'worse'}"


def compare(
    one: Contender,
    other: Contender,
    resamples: int,
    console: "Console",
    seed: int = 0,
    mixed: bool = False,
) -> Comparison:
    """Compare two contenders over the seeds that both have; shows progress.

    With several seeds, differences are means over them, and every resample draws the same images
    for all: the interval says what other images would have said of these very detectors, while the
    spread of the seeds says what training again would. A category none of whose boxes is drawn
    does not enter that resample's means. seed: of the resampling. mixed: whether one may be
    replayed and the other exact. Raises UsageError for contenders that have no seed in common or
    are judged on different splits, and for such a mixture where it is not allowed.
    """
    from rich.progress import Progress

    if one.name == other.name:
        raise UsageError(f"expected two different variants, got {one.name} twice")
    said = check_split(one, other)
    paired = pairs(one, other)
    features = one.features, other.features
    if set(features) == {"exact", "replay"} and not mixed:
        raise UsageError(
            f"{one.place}: {_of_kinds(one.name, other.name, features)}: compare exact "
            "variants with exact ones, or let --mixed compare these all the same"
        )
    evaluator = evaluator_of(one.prepared)
    kinds = [name for name in MEANS if all(name in r.metrics for pair in paired for r in pair)]
    for contender, rival in ((one, other), (other, one)):
        if "mask_AP" not in kinds and "mask_AP" in contender.results[0].metrics:
            said.append(f"Only boxes are compared, for {rival.name} has no masks.")
        if contender.is_file and not rival.is_file and len(paired) > 1:
            said.append(f"{contender.name} is one set of detections, beside each seed's.")
    with Progress(console=console, transient=True, disable=not shows_bars(console)) as progress:
        total = len(kinds) * len({id(result) for pair in paired for result in pair})
        task = progress.add_task("reading detections", total=total)
        matched: dict[str, list[tuple[Matched, Matched]]] = {kind: [] for kind in kinds}
        for kind in kinds:
            known: dict[int, Matched] = {}  # a file's detections are in every pair
            for pair in paired:
                for run in pair:
                    if id(run) not in known:
                        known[id(run)] = match_result(evaluator, run, _IOUS[kind])[0]
                        progress.advance(task)
                matched[kind].append((known[id(pair[0])], known[id(pair[1])]))
        images = matched[kinds[0]][0][0].images
        task = progress.add_task("resampling images", total=resamples)
        generator = np.random.default_rng(seed)
        drawn: dict[str, list[NDArray[Any]]] = {kind: [] for kind in kinds}
        for size in _batches(resamples):
            weights = np.stack([_draw(generator, images) for _ in range(size)])
            for kind, runs in matched.items():
                differences = [
                    _measures(after, weights) - _measures(before, weights) for before, after in runs
                ]
                drawn[kind].append(np.mean(differences, axis=0))
            progress.advance(task, size)
    changes = [
        _changes(one.prepared, kind, runs, np.concatenate(drawn[kind]))
        for kind, runs in matched.items()
    ]
    seeds = [next((r.seed for r in pair if r.seed is not None), None) for pair in paired]
    return Comparison(
        title=" and ".join(dict.fromkeys((one.place, other.place))),
        first=one.name,
        second=other.name,
        seeds=[found for found in seeds if found is not None],
        resamples=resamples,
        images=images,
        metrics={name: change for metrics, _ in changes for name, change in metrics.items()},
        categories={kind: of for kind, (_, of) in zip(kinds, changes, strict=True)},
        notes=[
            *said,
            *_evaluated(one, other),
            *notes([(c.experiment, c.prepared) for c in (one, other)]),
        ],
        features=features,
        evaluated_with=(one.evaluated_with, other.evaluated_with),
    )


def _evaluated(one: Contender, other: Contender) -> list[str]:
    """With what two contenders were evaluated, in a sentence, where not as usual."""
    unlike = [f"{c.name} with {c.evaluated_with}" for c in (one, other) if c.evaluated_with]
    if not unlike:
        return []
    same = one.evaluated_with == other.evaluated_with
    may = "" if same else "; part of the difference may come from that and not from the variants"
    return [f"Evaluated in other ways than usual: {', '.join(unlike)}{may}."]


def _of_kinds(first: str, second: str, features: tuple[Origin, Origin]) -> str:
    """Which of two variants is replayed and which is exact, in words."""
    replayed, exact = (first, second) if features[0] == "replay" else (second, first)
    return (
        f"{replayed} is replayed (trained on stored features) and {exact} is exact (trained on "
        "what the trunk computes)"
    )


def _batches(total: int) -> Iterator[int]:
    for start in range(0, total, _BATCH):
        yield min(_BATCH, total - start)


def _draw(generator: np.random.Generator, images: int) -> NDArray[Any]:
    """How often each image (I,) comes up in as many draws."""
    return np.bincount(generator.integers(images, size=images), minlength=images)


def _measures(matched: Matched, weights: NDArray[Any]) -> NDArray[Any]:
    """AP, AP50 and AP75 of each category (B, M, C) under weights (B, I)."""
    ap = average_precision(matched, weights)
    return np.stack([ap[:, steps].mean(axis=1) for steps in _MEASURES.values()], axis=1)


def _changes(
    prepared: Prepared, kind: str, runs: list[tuple[Matched, Matched]], drawn: NDArray[Any]
) -> tuple[dict[str, Change], list[CategoryChange]]:
    """Changes of metrics and categories, from resamples' differences (B, M, C), means over seeds.

    kind: `AP` or `mask_AP`. runs: both variants of each seed.
    """
    truth = runs[0][0].truth
    total = truth.totals(len(prepared.categories))
    every_image = np.ones((1, runs[0][0].images), dtype=np.int64)
    points = np.stack(  # (S, 2, M, C)
        [[_measures(run, every_image)[0] for run in both] for both in runs]
    )

    def change(measure: int, labels: NDArray[Any]) -> dict[str, Any]:
        of_seeds = points[:, :, measure, labels].mean(axis=2)  # (S, 2)
        first, second = of_seeds.mean(axis=0)
        low, high = math.nan, math.nan
        shown = truth.image[truth.counted & np.isin(truth.label, labels)]
        if len(np.unique(shown)) >= FEWEST_IMAGES:
            low, high = _interval_of(drawn[:, measure, labels])
        return {
            "first": float(first),
            "second": float(second),
            "low": low,
            "high": high,
            "by_seed": (of_seeds[:, 1] - of_seeds[:, 0]).tolist(),
        }

    known = np.flatnonzero(total)
    if not len(known):
        return {}, []
    metrics = {f"{kind}{name}": Change(**change(k, known)) for k, name in enumerate(_MEASURES)}
    for group in prepared.groups.names:
        labels = known[[prepared.categories[label].frequency == group for label in known]]
        if len(labels):
            metrics[group_precision(group, kind)] = Change(**change(0, labels))
    categories = [
        CategoryChange(
            **change(0, np.array([label])),
            category=prepared.categories[label],
            boxes=int(total[label]),
        )
        for label in known
    ]
    return metrics, sorted(categories, key=lambda one: -one.difference)


def _interval_of(differences: NDArray[Any]) -> tuple[float, float]:
    """From resamples' differences (B, L) of categories, NaN where none of their boxes was drawn."""
    known = ~np.isnan(differences)
    count = known.sum(axis=1)
    sums = np.where(known, differences, 0).sum(axis=1)
    if not count.any():
        return math.nan, math.nan
    tails = 50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)
    low, high = np.percentile(sums[count > 0] / count[count > 0], tails)
    return float(low), float(high)


def signed(fraction: float) -> str:
    """A difference in points, with its sign; never -0.0."""
    return f"{round(100 * fraction, 1) + 0.0:+.1f}"


def interval_text(change: Change) -> str:
    """The interval in points, or a dash where there is none."""
    if math.isnan(change.low):
        return "–"
    low, high = (round(100 * bound, 1) + 0.0 for bound in (change.low, change.high))
    return f"[{low:.1f}, {high:.1f}]"


def spread_text(change: Change) -> str:
    """The standard deviation over seeds, where there are several."""
    return f" ± {100 * stdev(change.by_seed):.1f}" if len(change.by_seed) > 1 else ""
