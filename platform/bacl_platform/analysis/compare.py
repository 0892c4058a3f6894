"""Whether one variant, or file of detections, is really better than another.

Images of the validation split are drawn with replacement, the same for all variants and seeds, and
metrics are computed anew from what each detection matched; the spread of the seeds is added
(`uncertainty`). hotcoco's `compare` is not used: it is for LVIS's three groups and one pair of
runs, and (1.3.0) counts an image that is drawn twice only once, which makes its intervals a fifth
too narrow.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bacl.errors import UsageError
from bacl_platform.analysis.contenders import Contender, Origin, check_split, pairs
from bacl_platform.analysis.differences import (
    CategoryChange,
    Change,
    changes_of_categories,
    changes_of_metrics,
    interval_text,
    settling_text,
    signed,
    source_text,
    spread_text,
)
from bacl_platform.analysis.measures import MEASURES, Judge, Reached, chosen, of_masks
from bacl_platform.analysis.results import Result
from bacl_platform.console import shows_bars
from bacl_platform.plan.judged import notes

if TYPE_CHECKING:
    from rich.console import Console

MOST_CHANGED = 10
"""Categories shown on each side."""


@dataclass(frozen=True)
class Comparison:
    """What `second` gains over `first`.

    title: the experiments and files that they are of. seeds: those compared, none of files alone.
    metrics: by name, those without any category left out. categories: by measure (`AP`), those
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

    @property
    def kinds(self) -> list[str]:
        """The measures whose categories are shown: the first of boxes and the first of masks."""
        masks = [name for name in self.categories if of_masks(name)]
        boxes = [name for name in self.categories if name not in masks]
        return [*boxes[:1], *masks[:1]]

    def gained(self, kind: str = "AP") -> list[CategoryChange]:
        """The categories that gained most."""
        found = self.categories[kind][:MOST_CHANGED]
        return [c for c in found if c.difference != 0 and c.better]

    def lost(self, kind: str = "AP") -> list[CategoryChange]:
        """The categories that lost most, the largest loss first."""
        found = self.categories[kind][: -MOST_CHANGED - 1 : -1]
        return [c for c in found if c.difference != 0 and not c.better]

    def verdict(self, name: str) -> str:
        """A metric in words, such as `AP_r +3.1 [0.4, 6.0]: bacl is better than softmax`, with the
        larger source of variance and what would settle an open question, where seeds tell."""
        change = self.metrics[name]
        words = f"{self.word(change)} than {self.first}" if change.clear else self.word(change)
        spread = spread_text(change)
        said = f"{name} {signed(change.difference)} {interval_text(change)}{spread}: {words}"
        source = source_text(change)
        more = [f"uncertainty mostly from {source}" if source else "", settling_text(change)]
        return "; ".join([said, *filter(None, more)])

    def word(self, change: Change) -> str:
        """Which way a change goes, in words."""
        if math.isnan(change.low):
            return "too few images for an interval"
        if not change.clear:
            return "no clear difference"
        return f"{self.second} is {'better' if change.better else 'worse'}"


def compare(
    one: Contender,
    other: Contender,
    resamples: int,
    console: "Console",
    seed: int = 0,
    mixed: bool = False,
    metrics: Sequence[str] | None = None,
) -> Comparison:
    """What `other` gains over `one`; see `compare_each`."""
    return compare_each(one, [other], resamples, console, seed, mixed, metrics)[0]


def compare_each(
    one: Contender,
    others: Sequence[Contender],
    resamples: int,
    console: "Console",
    seed: int = 0,
    mixed: bool = False,
    metrics: Sequence[str] | None = None,
) -> list[Comparison]:
    """What each of the others gains over `one`, over the seeds that both have; shows progress.

    A category none of whose boxes is drawn does not enter that resample's means. Runs are measured
    one after the other, and each once. seed: of the resampling. mixed: whether one may be replayed
    and the other exact. metrics: names of `MEASURES`; the usual ones if not given. Raises
    UsageError for contenders that have no seed in common or are judged on different splits, and for
    such a mixture where it is not allowed.
    """
    meetings = [Meeting.of(one, other, mixed) for other in others]
    runs = [run for meeting in meetings for pair in meeting.pairs for run in pair]
    judge = Judge(one.prepared, chosen(metrics, runs), resamples, seed)
    reached = measure_all(judge, runs, console)
    made = []
    for meeting in meetings:
        found = [(reached[identity(a)], reached[identity(b)]) for a, b in meeting.pairs]
        names = [name for name in judge.names if MEASURES[name].each is not None]
        made.append(
            Comparison(
                title=" and ".join(dict.fromkeys((one.place, meeting.other.place))),
                first=one.name,
                second=meeting.other.name,
                seeds=meeting.seeds,
                resamples=resamples,
                images=judge.images,
                metrics=changes_of_metrics(judge, found, meeting.paired),
                categories={
                    name: changes_of_categories(judge, name, found, meeting.paired)
                    for name in (names if judge.scopes else ())
                },
                notes=[
                    *meeting.notes,
                    *meeting.stage1_notes,
                    *evaluated_notes([one, meeting.other]),
                    *cut_notes(judge, [meeting], reached),
                ],
                features=(one.features, meeting.other.features),
                evaluated_with=(one.evaluated_with, meeting.other.evaluated_with),
            )
        )
    return made


@dataclass(frozen=True)
class Meeting:
    """Two contenders that may be compared, with the runs that are set beside each other.

    pairs: of each seed that both have. paired: whether a seed is the same training on both sides up
    to what is compared: they share its stage 1. notes: what is to be known.
    """

    one: Contender
    other: Contender
    pairs: list[tuple[Result, Result]]
    paired: bool
    notes: list[str]

    @classmethod
    def of(cls, one: Contender, other: Contender, mixed: bool) -> "Meeting":
        """Two contenders, checked; see `compare_each`."""
        if one.name == other.name:
            raise UsageError(f"expected two different variants, got {one.name} twice")
        said = check_split(one, other)
        found = pairs(one, other)
        features = one.features, other.features
        if set(features) == {"exact", "replay"} and not mixed:
            raise UsageError(
                f"{one.place}: {_of_kinds(one.name, other.name, features)}: compare exact "
                "variants with exact ones, or let --mixed compare these all the same"
            )
        for contender, rival in ((one, other), (other, one)):
            if _masked(contender) and not _masked(rival):
                said.append(f"Only boxes are compared, for {rival.name} has no masks.")
            if contender.is_file and not rival.is_file and len(found) > 1:
                said.append(f"{contender.name} is one set of detections, beside each seed's.")
        files = one.is_file or other.is_file
        paired = files or all(a.stage1 == b.stage1 for a, b in found)
        # detectors that are the same for all seeds say the same with each
        apart = {(identity(a), identity(b)): (a, b) for a, b in reversed(found)}
        found = list(apart.values())[::-1]
        said += notes([(c.experiment, c.prepared) for c in (one, other)])
        return cls(one, other, found, paired, said)

    @property
    def strangers(self) -> bool:
        """Whether several seeds are compared that do not mean the same training on both sides."""
        return len(self.pairs) > 1 and not self.paired

    @property
    def stage1_notes(self) -> list[str]:
        """How seeds count where stage 1 is not shared, in a sentence."""
        if not self.strangers:
            return []
        return [
            f"{self.one.name} and {self.other.name} do not share stage 1: their seeds count as "
            "independent of each other."
        ]

    @property
    def seeds(self) -> list[int]:
        """The seeds that are compared, none of files alone."""
        seeds = [next((r.seed for r in pair if r.seed is not None), None) for pair in self.pairs]
        return [found for found in seeds if found is not None]


def identity(run: Result) -> tuple[str, int]:
    """What tells a run from others, whatever names and seeds it goes by."""
    return str(run.folder), id(run.found) if run.found is not None else 0


def measure_all(
    judge: Judge, runs: Sequence[Result], console: "Console"
) -> dict[tuple[str, int], Reached]:
    """What runs reach, each measured once, by `identity`; shows progress."""
    from rich.progress import Progress

    unique = {identity(run): run for run in runs}
    with Progress(console=console, transient=True, disable=not shows_bars(console)) as progress:
        task = progress.add_task("measuring runs", total=len(unique) * judge.passes)
        return {
            key: judge.measure(run, lambda: progress.advance(task)) for key, run in unique.items()
        }


def cut_notes(
    judge: Judge, meetings: Sequence[Meeting], reached: dict[tuple[str, int], Reached]
) -> list[str]:
    """A sentence where detections are missing that measures without a limit would count."""
    unlimited = [name for name in judge.names if not MEASURES[name].limit]
    sides = [
        (contender.name, run)
        for meeting in meetings
        for pair in meeting.pairs
        for contender, run in zip((meeting.one, meeting.other), pair)
    ]
    cut = dict.fromkeys(name for name, run in sides if not reached[identity(run)].complete)
    if not unlimited or not cut:
        return []
    whole = dict.fromkeys(name for name, run in sides if reached[identity(run)].complete)
    may = "; part of a difference to the others may come from that" if whole else ""
    return [
        f"{', '.join(unlimited)}: the results of {', '.join(cut)} were cut at a limit of "
        f"detections for each image, and what lies beyond it is missing{may}."
    ]


def _masked(contender: Contender) -> bool:
    return "mask_AP" in contender.results[0].metrics


def evaluated_notes(contenders: Sequence[Contender]) -> list[str]:
    """With what contenders were evaluated, in a sentence, where not as usual."""
    unlike = [f"{c.name} with {c.evaluated_with}" for c in contenders if c.evaluated_with]
    if not unlike:
        return []
    same = len({c.evaluated_with for c in contenders}) == 1
    may = "" if same else "; part of the difference may come from that and not from the variants"
    return [f"Evaluated in other ways than usual: {', '.join(unlike)}{may}."]


def _of_kinds(first: str, second: str, features: tuple[Origin, Origin]) -> str:
    """Which of two variants is replayed and which is exact, in words."""
    replayed, exact = (first, second) if features[0] == "replay" else (second, first)
    return (
        f"{replayed} is replayed (trained on stored features) and {exact} is exact (trained on "
        "what the trunk computes)"
    )
