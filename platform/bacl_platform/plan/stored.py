"""Stored features in a plan: how large they get, and whether there is room for them."""

import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bacl.detector.shape import cells_of, width_of
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared
    from bacl_platform.plan.job import Job

POSITIVES = 7
"""Sampled regions of objects for each box of a training image, where they are not as many as the
sampler takes at most: a guess. On the embedded set, that most is 5.4 for each box, and always
reached."""
_BYTES = {"float16": 2, "float32": 4}


def stored_lines(jobs: Sequence["Job"], prepared: "Prepared", store: Store) -> Iterator[str]:
    """How large stored features get, where there is no room for them, and which stages train on
    them, in sentences."""
    from rich.filesize import decimal

    stages: dict[str, list[Job]] = {}
    for job in jobs:
        if job.kind == "features":
            stages.setdefault(job.stage, []).append(job)
    lacking = [job for own in stages.values() for job in own if not store.complete(job.key)]
    for stage, own in stages.items():
        views, images = passing(own[0], prepared.val.image_total)
        train, val = bytes_of(own[0], prepared)
        each = f" for each of {len(own)} seeds" if len(own) > 1 else ""
        yield (
            f"{stage}: about {decimal(views * train + images * val)}{each}: {decimal(train)} "
            f"for each of {amount(views)} views of training images"
            + (f", {decimal(val)} for each of {amount(images)} validation images" if images else "")
        )
    if problem := lack_of_room(sum(bytes_in_all(job, prepared) for job in lacking), store):
        yield f"warning: {problem}"
    replays: dict[str, list[str]] = {}
    for job in {job.stage: job for job in jobs if job.replayed}.values():
        which = "no image passes" if evaluated_on_features(job) else "validation images pass"
        replays.setdefault(which, []).append(job.stage)
    for which, names in replays.items():
        yield f"{', '.join(names)}: trained on stored features; {which} the trunk"


def evaluated_on_features(job: "Job") -> bool:
    """Whether a job needs no trunk to be evaluated."""
    dataset: dict[str, Any] = job.config["val_dataloader"]["dataset"]
    return bool(dataset["type"] == "StoredProposals")


def lack_of_room(size: float, store: Store) -> str | None:
    """That the store's disk has no room for so many bytes of features, in a sentence."""
    from rich.filesize import decimal

    if not size:
        return None
    place = next(path for path in (store.root, *store.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if size < free:
        return None
    return (
        f"stored features take about {decimal(round(size))}, and {store.root} has room for "
        f"{decimal(free)}: expected more room, fewer views or another --store"
    )


def bytes_in_all(job: "Job", prepared: "Prepared") -> int:
    """Bytes, about, that a job stores."""
    views, images = passing(job, prepared.val.image_total)
    train, val = bytes_of(job, prepared)
    return views * train + images * val


def bytes_of(job: "Job", prepared: "Prepared") -> tuple[int, int]:
    """Bytes, about, that a job stores of a view of a training image, and of a validation image."""
    stored, model = job.config["features"], job.config["model"]
    head, sampler = model["roi_head"]["bbox_head"], model["train_cfg"]["rcnn"]["sampler"]
    images = max(images_that_train(job)[0], 1)
    boxes = sum(category.instance_count for category in prepared.categories) / images
    shown = sum(category.image_count for category in prepared.categories) / images
    positives = min(POSITIVES * boxes, sampler["num"] * sampler["pos_fraction"])
    rows = positives + min(stored["negatives"], sampler["num"] - positives)
    width = width_of(head)
    widths = {"pooled": head["in_channels"] * cells_of(head), "fc1": width}
    each = (width + sum(widths[name] for name in stored["layers"])) * _BYTES[stored["dtype"]]
    # beside features: labels, boxes of proposals and truths, and means and squares in float32
    view = rows * (each + 4) + positives * 32 + shown * 8 * width
    return round(view), round(model["test_cfg"]["rpn"]["max_per_img"] * (each + 16))


def passing(job: "Job", val_images: int) -> tuple[int, int]:
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


def amount(count: int) -> str:
    """A number of images: exact below a million."""
    if count < 1e6:
        return f"{count:,}"
    return f"{count / 1e6:.{1 if count >= 1e7 else 2}f} M"
