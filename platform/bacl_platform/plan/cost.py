"""What jobs cost: images to process, known beforehand; hours, by what finished ones took.

An experiment is compared with itself when every variant trains alone. Stage 1 is trained once for
all that start from it either way.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from bacl_platform.store.names import SCALARS
from bacl_platform.store.store import Store
from bacl_platform.store.unfinished import newest_step

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared
    from bacl_platform.plan.job import Job, Plan

EACH_VARIANT = 0.03
"""What one more variant of a bank adds to a step, as a share of it (`bacl bench bank`)."""
_PACE = (
    "augmentation",
    "copy_paste_size",
    "scales",
    "proposals",
    "proposals_before_nms",
    "precision",
    "channels_last",
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
            views, images = _passing(job, val_images)
            left = 1 - done / max(job.iterations, 1)
            fused = _more(fused, 1, round(left * views), round(left * images))
            alone = _more(alone, 1, round(left * views), round(left * images))
            continue
        every = job.config["train_cfg"]["val_interval"]
        trained = (job.iterations - done) * job.recipe.schedule.batch
        # the last step is evaluated whether or not it is a multiple
        evaluated = max(1, -(-job.iterations // every) - done // every) * val_images
        if job.replayed:  # what passes no trunk is not shared
            trained = 0
        if _evaluated_on_features(job):
            evaluated = 0
        fused = _more(fused, 1, trained, evaluated)
        alone = _more(alone, len(job.variants) if trained or evaluated else 1, trained, evaluated)
    return fused, alone


def _evaluated_on_features(job: "Job") -> bool:
    dataset: dict[str, Any] = job.config["val_dataloader"]["dataset"]
    return bool(dataset["type"] == "StoredProposals")


def _passing(job: "Job", val_images: int) -> tuple[int, int]:
    """Image views, and validation images, that a job which stores features passes on."""
    stored = job.config["features"]
    views = stored["views"] * images_that_train(job)[0]
    return views, val_images if stored["val"] else 0


def images_that_train(job: "Job") -> tuple[int, int]:
    """How many images a job shows in an epoch, and how many its training split has."""
    from bacl.datasets.index import Index

    dataset = job.config["train_dataloader"]["dataset"]
    dataset = dataset.get("dataset", dataset)  # Copy-Paste is around it
    index = Index(dataset["ann_file"])
    return len(index.trained(dataset["least_side"], dataset["empty"])), len(index)


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
    yield from _stored(plan, prepared)
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
    yield from _hours(plan, missing, steps, store)


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


def _stored(plan: "Plan", prepared: "Prepared") -> Iterator[str]:
    """How large stored features are, and which stages train on them."""
    from rich.filesize import decimal

    for job in {job.stage: job for job in plan.jobs if job.kind == "features"}.values():
        views, images = _passing(job, prepared.val.image_total)
        train, val = bytes_of(job, prepared)
        seeds = sum(other.stage == job.stage for other in plan.jobs)
        each = f" for each of {seeds} seeds" if seeds > 1 else ""
        yield (
            f"{job.stage}: about {decimal(views * train + images * val)}{each}: {decimal(train)} "
            f"for each of {amount(views)} views of training images"
            + (f", {decimal(val)} for each of {amount(images)} validation images" if images else "")
        )
    replays: dict[str, list[str]] = {}
    for job in {job.stage: job for job in plan.jobs if job.replayed}.values():
        passing = "no image passes" if _evaluated_on_features(job) else "validation images pass"
        replays.setdefault(passing, []).append(job.stage)
    for passing, stages in replays.items():
        yield f"{', '.join(stages)}: trained on stored features; {passing} the trunk"


POSITIVES = 7
"""Sampled regions of objects for each box of a training image, about, before the quota: measured on
the embedded set."""


def bytes_of(job: "Job", prepared: "Prepared") -> tuple[int, int]:
    """Bytes, about, that a job stores of a view of a training image, and of a validation image."""
    stored, model = job.config["features"], job.config["model"]
    head, sampler = model["roi_head"]["bbox_head"], model["train_cfg"]["rcnn"]["sampler"]
    images = max(images_that_train(job)[0], 1)
    boxes = sum(category.instance_count for category in prepared.categories) / images
    shown = sum(category.image_count for category in prepared.categories) / images
    positives = min(POSITIVES * boxes, sampler["num"] * sampler["pos_fraction"])
    rows = positives + min(stored["negatives"], sampler["num"] - positives)
    width = head["fc_out_channels"]
    widths = {"pooled": head["in_channels"] * head["roi_feat_size"] ** 2, "fc1": width}
    each = (width + sum(widths[name] for name in stored["layers"])) * _BYTES[stored["dtype"]]
    # beside features: labels, boxes of proposals and truths, and means and squares in float32
    view = rows * (each + 4) + positives * 32 + shown * 8 * width
    return round(view), round(model["test_cfg"]["rpn"]["max_per_img"] * (each + 16))


_BYTES = {"float16": 2, "float32": 4}


def _hours(
    plan: "Plan", missing: list["Job"], steps: Mapping[str, int], store: Store
) -> Iterator[str]:
    """About how long the jobs to run will train, where finished jobs of the plan show the pace.

    Other experiments' jobs may have another detector, which a job's description does not say.
    """
    descriptions = store.descriptions() if len(missing) < len(plan.jobs) else {}
    keys = {job.key for job in plan.jobs} - {job.key for job in missing}
    finished = {key: descriptions[key] for key in keys if key in descriptions}
    known = {job.key: step_seconds(job, store, finished) for job in missing}
    fused = alone = 0.0
    for job in missing:
        seconds = (known[job.key] or 0.0) * (job.iterations - steps[job.key])
        variants = len(job.variants)
        fused, alone = fused + seconds, alone + seconds * variants / _bank_cost(variants)
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
    resources, batch and pace; of these the newest counts, of the job's own stage if there is any.
    """
    wanted = job.model_dump(mode="json")
    found: dict[tuple[bool, float], float] = {}
    for key, known in finished.items():
        log = store.entry(key) / SCALARS
        if not log.exists():  # of an entry that only the bucket has
            continue
        if any(known.get(part) != wanted[part] for part in ("kind", "resources", "dataset_digest")):
            continue
        if any(known["recipe"].get(part) != wanted["recipe"][part] for part in _PACE):
            continue
        if known["recipe"].get("features", "exact") != job.recipe.features:
            continue
        if known["recipe"]["schedule"]["batch"] != job.recipe.schedule.batch:
            continue
        times = [
            r["time"]
            for r in map(json.loads, log.read_text(encoding="utf-8").splitlines())
            if "time" in r
        ]
        if times:
            share = _bank_cost(len(job.variants)) / _bank_cost(len(known["variants"]))
            found[known["stage"] == job.stage, log.stat().st_mtime] = median(times) * share
    return found[max(found)] if found else None


def _bank_cost(variants: int) -> float:
    return 1 + EACH_VARIANT * (variants - 1)


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


def _times(fused: Cost, alone: Cost) -> str:
    return f"{alone.trained / fused.trained:.3g} times"


def amount(count: int) -> str:
    """A number of images: exact below a million."""
    if count < 1e6:
        return f"{count:,}"
    return f"{count / 1e6:.{1 if count >= 1e7 else 2}f} M"


def duration(seconds: float) -> str:
    """Seconds in the unit that is easiest to read."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
