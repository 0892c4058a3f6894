"""Which of several variants are better than which others, by every metric and frequency group.

Each pair is compared as `compare` does it, on the same resamples, and the p-values of a metric are
corrected for the number of pairs (Holm). Runs are measured one after the other; what is kept of
each is its metrics in every resample.

Letters: P pairs, V variants.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from bacl.errors import UsageError
from bacl.metric_names import lower_is_better
from bacl_platform.analysis.compare import (
    Meeting,
    cut_notes,
    evaluated_notes,
    identity,
    measure_all,
)
from bacl_platform.analysis.contenders import Contender
from bacl_platform.analysis.differences import CONFIDENCE, Change, changes_of_metrics
from bacl_platform.analysis.measures import Judge, Reached, chosen
from bacl_platform.analysis.uncertainty import Pooled, holm

if TYPE_CHECKING:
    from rich.console import Console

MOST = 52
"""Variants at a time: each has a letter."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Matrix:
    """What each of V variants gains over each other.

    title: the experiments and files that they are of. seeds: those of each variant, none of a
    file. metrics: the scope of each metric, as `Judge.metrics` has it. values: by metric, of each
    variant, means over its seeds, as fractions. pairs: by the places of two variants, the smaller
    first, the change from the first to the second by metric. pooled: whether the variance over
    seeds is known from more than the two of a pair. falling: metrics of which less is better.
    notes: what else is to be known.
    """

    title: str
    names: list[str]
    seeds: list[list[int]]
    resamples: int
    images: int
    metrics: dict[str, str]
    measures: list[str]
    pooled: bool
    values: dict[str, list[float]]
    pairs: dict[tuple[int, int], dict[str, Change]]
    falling: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def stem(self) -> str:
        """The name of its page's and pictures' files, without a suffix."""
        return re.sub(r"[^\w.=,+-]+", "_", f"compare_all_{self.title}")

    @cached_property
    def corrected(self) -> dict[str, dict[tuple[int, int], float]]:
        """P-values of each metric's pairs, corrected for their number by Holm's procedure."""
        return {
            name: dict(
                zip(
                    self.pairs,
                    holm(np.array([pair[name].p_value for pair in self.pairs.values()])).tolist(),
                    strict=True,
                )
            )
            for name in self.metrics
        }

    def of(self, measure: str) -> list[str]:
        """The metrics of a measure: its mean over categories and those of groups."""
        groups = [s for s in dict.fromkeys(self.metrics.values()) if s]
        return [name for name in (measure, *(f"{measure}_{g}" for g in groups))]

    def order(self, metric: str) -> list[int]:
        """Places of the variants, the best by a metric first."""
        values = np.array(self.values[metric])
        return np.argsort(values if metric in self.falling else -values, kind="stable").tolist()

    def change(self, metric: str, row: int, column: int) -> Change:
        """The change between two variants, from the one that stands first in `pairs`."""
        return self.pairs[min(row, column), max(row, column)][metric]

    def gain(self, metric: str, row: int, column: int) -> float:
        """What the variant `row` has more than `column`."""
        difference = self.change(metric, row, column).difference
        return difference if column < row else -difference

    def standing(self, metric: str, row: int, column: int) -> str:
        """`+` where the variant `row` is better than `column`, `-` where it is worse, each clearly
        after the correction; `.` where that is open, `?` where too few images show it."""
        change = self.change(metric, row, column)
        if math.isnan(change.p_value):
            return "?"
        if not self.is_clear(metric, row, column):
            return "."
        return "+" if change.better == (column < row) else "-"

    def is_clear(self, metric: str, row: int, column: int) -> bool:
        """Whether the corrected p-value is below 1 - `CONFIDENCE`."""
        p_value = self.corrected[metric][min(row, column), max(row, column)]
        return p_value < 1 - CONFIDENCE


def compare_all(
    contenders: Sequence[Contender],
    resamples: int,
    console: "Console",
    seed: int = 0,
    mixed: bool = False,
    metrics: Sequence[str] | None = None,
) -> Matrix:
    """Compare every pair of contenders, as `compare_each` does; shows progress.

    Contenders that are the same results under two names count once. Raises UsageError for fewer
    than two of them and for more than `MOST`, and where `compare_each` does for one of the pairs.
    """
    said: dict[str, None] = {}
    unique: dict[tuple[tuple[str, int], ...], Contender] = {}
    for contender in contenders:
        same = unique.setdefault(tuple(map(identity, contender.results)), contender)
        if same is not contender:
            said[f"{contender.name} is the same results as {same.name}, and counts once."] = None
    found = list(unique.values())
    if not 2 <= len(found) <= MOST:
        got = f"one: {found[0].name}" if len(found) == 1 else str(len(found))
        raise UsageError(
            f"--all: expected from 2 to {MOST} finished variants, of which to compare every pair, "
            f"got {got}"
        )
    meetings = {
        (a, b): Meeting.of(found[a], found[b], mixed)
        for a, b in itertools.combinations(range(len(found)), 2)
    }
    runs = [run for contender in found for run in contender.results]
    first = found[0]
    judge = Judge(first.prepared, chosen(metrics, runs), resamples, seed, by_category=False)
    reached = measure_all(judge, runs, console)
    for place in range(1, len(found)):
        said |= dict.fromkeys(meetings[0, place].notes)
    pooled = _pooled(judge, found, reached)
    strangers = [meeting for meeting in meetings.values() if meeting.strangers]
    if strangers:
        said[
            f"{len(strangers)} of {len(meetings)} pairs do not share stage 1, such as "
            f"{strangers[0].one.name} and {strangers[0].other.name}: seeds of these count as "
            "independent of each other."
        ] = None
    said |= dict.fromkeys(_mixed(found))
    said |= dict.fromkeys(evaluated_notes(found))
    said |= dict.fromkeys(cut_notes(judge, list(meetings.values()), reached))
    return Matrix(
        title=" and ".join(dict.fromkeys(contender.place for contender in found)),
        names=[contender.name for contender in found],
        seeds=[[r.seed for r in c.results if r.seed is not None] for c in found],
        resamples=resamples,
        images=judge.images,
        metrics=judge.metrics,
        measures=judge.names if judge.scopes else [],
        pooled=bool(pooled),
        values={
            name: [
                float(np.mean([reached[identity(run)].points[name] for run in contender.results]))
                for contender in found
            ]
            for name in judge.metrics
        },
        pairs={
            places: changes_of_metrics(
                judge,
                [(reached[identity(a)], reached[identity(b)]) for a, b in meeting.pairs],
                meeting.paired,
                pooled.get(places[0]) if pooled.get(places[0]) is pooled.get(places[1]) else None,
            )
            for places, meeting in meetings.items()
        },
        falling=[name for name in judge.metrics if lower_is_better(name)],
        notes=list(said),
    )


def _pooled(
    judge: Judge, found: Sequence[Contender], reached: dict[tuple[str, int], Reached]
) -> dict[int, Pooled]:
    """By the place of a contender, what those that share all its seeds and stages 1 say of the
    variance over seeds; only where there are three or more of them, and two seeds."""
    alike: dict[tuple[tuple[int | None, str | None], ...], list[int]] = {}
    for place, contender in enumerate(found):
        if not contender.is_file:
            block = tuple((run.seed, run.stage1) for run in contender.results)
            alike.setdefault(block, []).append(place)
    names = list(judge.metrics)
    made: dict[int, Pooled] = {}
    for block, places in alike.items():
        runs = [found[place].results for place in places]
        fixed = any(len({identity(run) for run in one}) < len(one) for one in runs)
        if len(places) < 3 or len(block) < 2 or fixed or not names:
            continue
        points = [
            [[reached[identity(run)].points[name] for name in names] for run in one] for one in runs
        ]
        made |= dict.fromkeys(places, Pooled.of(np.array(points)))
    return made


def _mixed(found: Sequence[Contender]) -> list[str]:
    """Which contenders are replayed, in a sentence, where any is."""
    replayed = [contender.name for contender in found if contender.features == "replay"]
    exact = [contender.name for contender in found if contender.features == "exact"]
    if not replayed:
        return []
    if not exact:
        return [
            f"Replayed: {', '.join(replayed)}, trained on stored features, nearly as exact runs "
            "are."
        ]
    return [
        f"MIXED: replayed (trained on stored features) are {', '.join(replayed)}, exact are "
        f"{', '.join(exact)}; part of a difference between the two kinds may come from that and "
        "not from the variants."
    ]
