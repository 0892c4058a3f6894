"""What jobs cost: images to process, known beforehand; hours, by what finished ones took.

An experiment is compared with itself when every variant trains alone. Stage 1 is trained once for
all that start from it either way.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from bacl_platform.plan.corrections import images_observed
from bacl_platform.plan.rehearsed import (
    EACH_VARIANT,
    Figures,
    bank_cost,
    devices,
    evaluations,
    in_words,
    interval,
    rehearsed,
    whole,
)
from bacl_platform.plan.stored import amount, evaluated_on_features, passing, stored_lines
from bacl_platform.spec.experiment import Resources
from bacl_platform.store.names import SCALARS
from bacl_platform.store.store import Store
from bacl_platform.store.unfinished import newest_step

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared
    from bacl_platform.plan.job import Job, Plan

_PACE = (
    "augmentation",
    "augmentations",
    "copy_paste_size",
    "scales",
    "proposals",
    "proposals_before_nms",
    "precision",
    "channels_last",
    "trunk",
)
"""Fields of a recipe that determine how long a step takes."""


@dataclass(frozen=True)
class Cost:
    """What jobs take on any machine; a bank's variants share each image."""

    jobs: int
    trained: int
    """Training images that pass the trunk: steps times images a step."""
    evaluated: int
    """Validation images that pass the trunk, in all evaluations."""

    def __str__(self) -> str:
        return f"{_jobs(self.jobs)}, {self.images}"

    @property
    def _verb(self) -> str:
        return "processes" if self.jobs == 1 else "process"

    @property
    def images(self) -> str:
        """The images, in words."""
        return (
            f"which {self._verb} {amount(self.trained)} training and {amount(self.evaluated)} "
            "validation images"
        )


def cost_of(
    jobs: Iterable["Job"], val_images: int, steps: Mapping[str, int] | None = None
) -> tuple[Cost, Cost]:
    """What jobs cost as they are, and with a job for every variant.

    steps: where unfinished jobs go on, by key.
    """
    fused, alone = Cost(0, 0, 0), Cost(0, 0, 0)
    for job in jobs:
        done = (steps or {}).get(job.key, 0)
        if job.kind == "features":
            views, images = passing(job, val_images)
            left = 1 - done / max(job.iterations, 1)
            fused = _more(fused, 1, round(left * views), round(left * images))
            alone = _more(alone, 1, round(left * views), round(left * images))
            continue
        seen = val_images * job.recipe.test_views
        if job.only_evaluated:
            passed, shown = 0 if evaluated_on_features(job) else seen, images_observed(job)
            fused = _more(fused, 1, shown, passed)
            alone = _more(alone, len(job.variants) if passed or shown else 1, shown, passed)
            continue
        trained = (job.iterations - done) * job.recipe.schedule.batch
        evaluated = evaluations(job, done) * seen
        if job.replayed:  # what passes no trunk is not shared
            trained = 0
        if evaluated_on_features(job):
            evaluated = 0
        fused = _more(fused, 1, trained, evaluated)
        alone = _more(alone, len(job.variants) if trained or evaluated else 1, trained, evaluated)
    return fused, alone


def _more(cost: Cost, jobs: int, trained: int, evaluated: int) -> Cost:
    return Cost(cost.jobs + jobs, cost.trained + jobs * trained, cost.evaluated + jobs * evaluated)


def cost_lines(plan: "Plan", store: Store) -> Iterator[str]:
    """What a plan costs fused and unfused, in sentences: the whole, banks, and what is to run."""
    prepared = _prepared(plan)
    val_images = prepared.val.image_total
    fused, alone = cost_of(plan.jobs, val_images)
    if alone == fused:
        replayed = any(job.replayed for job in plan.jobs)
        yield f"in all: {fused}" + ("" if replayed else "; no two variants share a trunk")
    else:
        yield f"in all: {fused}"
        more = alone.trained > fused.trained
        times = f" ({_times(fused, alone)} the training images)" if more else ""
        yield f"with a job for every variant: {alone}{times}"
    yield from _banks(plan, val_images)
    yield from stored_lines(plan.jobs, prepared, store)
    missing = plan.missing(store)
    steps = {job.key: newest_step(store, job.key) or 0 for job in missing}
    there = (
        f"{len(plan.jobs) - len(missing)} of {len(plan.jobs)} jobs are in the store, "
        f"{len(missing)} to run"
    )
    left, left_alone = cost_of(missing, val_images, steps)
    if not missing or left == fused:
        yield there
    elif left_alone == left:
        yield f"{there}, {left.images}"
    else:
        yield f"{there}, {left.images}; with a job for every variant: {left_alone}"
    known = dict(_by_key(missing, store))
    yield from _rehearsed_hours(missing, known, val_images, steps)
    yield from _hours(plan, missing, known.keys(), steps, store)


def _by_key(jobs: Iterable["Job"], store: Store) -> Iterator[tuple[str, Figures]]:
    yield from ((job.key, figures) for job, figures in rehearsed(list(jobs), store))


def _rehearsed_hours(
    missing: Sequence["Job"],
    known: Mapping[str, Figures],
    val_images: int,
    steps: Mapping[str, int],
) -> Iterator[str]:
    """How long the jobs to run will take, those that were rehearsed, in a sentence."""
    jobs = [job for job in missing if job.key in known]
    if not jobs:
        return
    seconds = [whole(job, known[job.key], val_images, steps[job.key]).seconds for job in jobs]
    hours: dict[str, float] = {}
    total = np.sum(seconds, axis=0)
    for job, one in zip(jobs, seconds):
        count, kind = devices(job, known[job.key].workers)
        hours[kind] = hours.get(kind, 0.0) + count * float(one[0]) / 3600
    used = ", ".join(f"{amount:.3g} {kind}-hours" for kind, amount in hours.items())
    which = "" if len(jobs) == len(missing) else f"{len(jobs)} of the {len(missing)} jobs to run: "
    figures = max((known[job.key] for job in jobs), key=lambda one: one.date)
    yield (
        f"{which}about {in_words(interval(total))} one job after another, with starts, "
        f"evaluations and checkpoints; {used}: from a rehearsal of {figures.date[:10]} on "
        f"{figures.machine}"
    )


def _prepared(plan: "Plan") -> "Prepared":
    from bacl.datasets.prepared import Prepared

    return Prepared.load(Path(plan.jobs[0].config["val_evaluator"]["dataset_info"]))


def _banks(plan: "Plan", val_images: int) -> Iterator[str]:
    """What each stage with a bank costs fused and unfused."""
    stages: dict[str, list[Job]] = {}
    for job in plan.jobs:
        stages.setdefault(job.stage, []).append(job)
    for stage, jobs in stages.items():
        fused, alone = cost_of(jobs, val_images)
        if alone.trained > fused.trained:
            yield (
                f"{stage}: {amount(fused.trained)} training images in {_jobs(fused.jobs)}; with a "
                f"job for every variant: {amount(alone.trained)} in {alone.jobs} "
                f"({_times(fused, alone)})"
            )


def _hours(
    plan: "Plan",
    missing: list["Job"],
    rehearsed: Collection[str],
    steps: Mapping[str, int],
    store: Store,
) -> Iterator[str]:
    """About how long the jobs to run that were not `rehearsed` (keys) will train, where finished
    jobs of the plan show the pace.

    Other experiments' jobs may have another detector, which a job's description does not say.
    """
    descriptions = store.descriptions() if len(missing) < len(plan.jobs) else {}
    keys = {job.key for job in plan.jobs} - {job.key for job in missing}
    finished = {key: descriptions[key] for key in keys if key in descriptions}
    left = [job for job in missing if job.key not in rehearsed]
    known = {job.key: step_seconds(job, store, finished) for job in left}
    fused = alone = 0.0
    for job in left:
        seconds = (known[job.key] or 0.0) * (job.iterations - steps[job.key])
        variants = len(job.variants)
        fused, alone = fused + seconds, alone + seconds * variants / bank_cost(variants)
    if not fused:
        return
    like = sum(seconds is not None for seconds in known.values())
    which = "" if like == len(missing) else f"{like} of the {len(missing)} jobs to run: "
    unfused = (
        f"; {duration(alone)} with a job for every variant, where a further variant of a job is "
        f"taken to add {EACH_VARIANT:.0%} to a step"
        if alone > fused
        else ""
    )
    yield (
        f"{which}about {duration(fused)} of training one job after another, evaluations not "
        f"counted, at the pace of finished jobs{unfused}"
    )


def step_seconds(job: "Job", store: Store, finished: Mapping[str, dict[str, Any]]) -> float | None:
    """Seconds that a step of a job takes, by a finished job like it; None where there is none.

    finished: descriptions by key (`Store.descriptions`). Like a job are those of its kind, dataset,
    resources, batch, features and pace; of these the newest counts, of the job's own stage if there
    is any.
    """
    wanted = job.model_dump(mode="json")
    found: dict[tuple[bool, float], float] = {}
    for key, known in finished.items():
        log = store.entry(key) / SCALARS
        if not log.exists():  # of an entry that only the bucket has
            continue
        if any(known.get(part) != wanted[part] for part in ("kind", "dataset_digest")):
            continue
        if Resources.model_validate(known.get("resources", {})) != job.resources:
            continue
        if any(known["recipe"].get(part) != wanted["recipe"][part] for part in _PACE):
            continue
        if known["recipe"]["schedule"]["batch"] != job.recipe.schedule.batch:
            continue
        if known["recipe"].get("features", "exact") != job.recipe.features:
            continue
        times = [
            r["time"]
            for r in map(json.loads, log.read_text(encoding="utf-8").splitlines())
            if "time" in r
        ]
        if times:
            share = bank_cost(len(job.variants)) / bank_cost(len(known["variants"]))
            found[known["stage"] == job.stage, log.stat().st_mtime] = median(times) * share
    return found[max(found)] if found else None


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _times(fused: Cost, alone: Cost) -> str:
    return f"{alone.trained / fused.trained:.3g} times"


def duration(seconds: float) -> str:
    """Seconds in the unit that is easiest to read."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
