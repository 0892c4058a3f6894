"""From what the ranks of a rehearsed job tell, and what it left in its store, to its figures."""

from collections.abc import Sequence
from statistics import mean
from typing import Any

from bacl.datasets.prepared import Prepared
from bacl.features.parts import parts
from bacl_platform.plan.job import Job
from bacl_platform.plan.rehearsed import Figures, Memory
from bacl_platform.plan.stored import passing
from bacl_platform.store.disk import now
from bacl_platform.store.names import DETECTIONS, SHARDS
from bacl_platform.store.store import Store
from bacl_platform.tools.rehearsal.jobs import WARM_UP, WORST
from bacl_platform.tools.rehearsal.scratch import size

Row = dict[str, Any]
"""What a rank tells, see `bacl_platform.train.rehearsing`."""


def memory_of(rows: Sequence[Row]) -> list[Memory]:
    """What each rank took."""
    found = []
    for row in sorted(rows, key=lambda row: row["rank"]):
        told = {"host_fixed": 0, **row, **row.get("laps", {})}
        found.append(Memory(**{name: told.get(name) for name in Memory.model_fields}))
    return found


def figures_of(
    job: Job, rows: Sequence[Row], seconds: float, shown: Prepared, inner: Store
) -> Figures:
    """A rehearsed job's figures.

    rows: of its ranks. seconds: from asking Ray for it until its end. shown: the images that it
    was rehearsed on. inner: the store that has its entry.
    """
    first = next(row for row in rows if row["rank"] == 0)
    laps = first["laps"]
    told = {name: first[name] for name in ("machine", "bank_bytes") if name in first}
    around = seconds - (first["told"] - first["began"])  # Ray's part of it
    timed = _shards(job, laps, shown, len(rows)) if job.kind == "features" else _loop(job, laps)
    begun = laps.get("training", laps.get("evaluating"))
    if begun is None:  # no loop of MMEngine's: all but the shards
        start = first["ended"] - first["began"] - timed.pop("recording")
        end = 0.0
    else:
        start = begun - first["began"] + timed.pop("slow_start")
        end = first["ended"] - laps["evaluated"]
    checkpoint = first["checkpointed"] - laps["stepped"] if "stepped" in laps else 0.0
    return Figures(
        date=now(),
        workers=len(rows),
        variants=max(len(job.variants), 1),
        pass_images=pass_images(job),
        start=around + start,
        checkpoint=checkpoint,
        end=end,
        memory=memory_of(rows),
        checkpoint_bytes=first.get("checkpoint_bytes", 0),
        **timed,
        **told,
        **_judging(job, first, shown),
        **_sizes(job, shown, inner),
    )


def pass_images(job: Job) -> int:
    """Images that are in a rank's memory together."""
    if job.kind == "features" or job.only_evaluated:
        return 1
    return int(job.config["train_dataloader"]["batch_size"]) // job.recipe.accumulate


def _loop(job: Job, laps: Row) -> dict[str, Any]:
    """Times of steps and images, without those that come first and are slower."""
    steps, waits, images = laps["steps"], laps["waits"], laps["images"]
    paced = images[1:] or images
    found: dict[str, Any] = {"images": paced, "slow_start": 0.0}
    found["opening"] = max(images[0] - mean(paced), 0.0) if images else 0.0
    dropped = WARM_UP if job.replayed else WORST + WARM_UP
    found |= {"steps": steps[dropped:], "waits": waits[dropped:]}
    if waits:
        found["slow_start"] = max(waits[0] - mean(found["waits"]), 0.0)
    return found


def _shards(job: Job, laps: Row, shown: Prepared, ranks: int) -> dict[str, Any]:
    """Times of the views and images that shards hold; all ranks make one at a time."""
    views, images = passing(job, shown.val.image_total)
    made = parts(views, images)[::ranks]  # the first rank's, which tells the times
    times = [row["time"] * ranks for row in laps["shards"]]
    each: dict[str, list[float]] = {"train": [], "val": []}
    for part, seconds in zip(made, times):
        each[part.split].append(seconds / len(part.places))
    # the first of each split waits for its loader
    paced = {split: found[1:] or found for split, found in each.items()}
    return {
        "steps": paced["train"],
        "waits": [],
        "images": paced["val"],
        "opening": 0.0,
        "recording": sum(times),
    }


def _judging(job: Job, first: Row, shown: Prepared) -> dict[str, float]:
    """What evaluating costs besides passing the images."""
    names = ("judging", "judging_variant", "judging_image")
    if "judging" in first:
        return {name: first[name] for name in names}
    found = dict.fromkeys(names, 0.0)
    laps = first["laps"]
    if "evaluated" in laps:  # all of it as if each image took its share
        seconds = laps["evaluated"] - laps["evaluating"] - sum(laps["images"])
        found["judging_image"] = seconds / len(job.variants) / shown.val.image_total
    return found


def _sizes(job: Job, shown: Prepared, inner: Store) -> dict[str, float]:
    """Bytes of an entry by what they depend on."""
    entry = inner.entry(job.key)
    detections, shards = size(entry, DETECTIONS), size(entry / SHARDS)
    found = {
        "entry_bytes": size(entry) - detections - shards,
        "detection_bytes": detections / shown.val.image_total,
        "view_bytes": 0.0,
        "image_bytes": 0.0,
    }
    if job.kind == "features":
        views, images = passing(job, shown.val.image_total)
        found["view_bytes"] = size(entry / SHARDS, "train-*") / max(views, 1)
        found["image_bytes"] = size(entry / SHARDS, "val-*") / max(images, 1)
    return found
