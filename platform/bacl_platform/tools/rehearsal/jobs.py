"""Jobs of a rehearsal: those of the plan, shortened, with keys that no plan has."""

import copy
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bacl.config import bank_heads
from bacl.datasets.index import Index
from bacl.datasets.prepared import Prepared
from bacl.features.parts import EACH, parts
from bacl_platform.plan.job import Job, Plan, digest_of
from bacl_platform.plan.rehearsed import REHEARSAL
from bacl_platform.run.placement import fitting, room_in
from bacl_platform.store.store import Store
from bacl_platform.tools.rehearsal.images import Shown, prepare_some, spread, worst

WORST = 3
"""Steps that show the images that take most memory."""
WARM_UP = 5
"""Steps after them whose times do not count: the first of their kind, and data that is loaded by
then."""
LEAST = 10
"""Steps, at least, whose times count."""


def representatives(plan: Plan, store: Store) -> list[Job]:
    """A job for each stage that has some to run: the one with most variants, and where there are
    several, one whose parent is there."""
    chosen: dict[str, Job] = {}
    missing = plan.missing(store)
    lacking = {job.key for job in missing}
    for job in missing:
        known = chosen.get(job.stage)
        if known is None or _rank(job, lacking) > _rank(known, lacking):
            chosen[job.stage] = job
    return list(chosen.values())


def _rank(job: Job, lacking: set[str]) -> tuple[int, bool]:
    return len(job.variants), job.parent not in lacking


def some_of(chosen: Sequence[Job], prepared: Prepared, store: Store, images: int) -> Shown:
    """The images that a rehearsal evaluates on, and that it stores features of.

    images: how many of the validation split, more where a stage of kind features needs a shard for
    each rank. store: the one for the rehearsal.
    """
    ranks = max(job.resources.most for job in chosen)
    val, train = min(max(images, 2 * ranks), prepared.val.image_total), [0]
    for job in chosen:
        if job.kind == "features":
            val = min(max(val, EACH * ranks), prepared.val.image_total)
            dataset = plain(job.config["train_dataloader"]["dataset"])
            places = Index(dataset["ann_file"]).trained(dataset["least_side"], dataset["empty"])
            views = job.config["features"]["views"]
            count = min(-(-2 * EACH * ranks // views), len(places))
            chosen_places = np.linspace(0, len(places) - 1, count).round().astype(int)
            train = places[chosen_places].tolist()
    return prepare_some(
        prepared, train, spread(Index(prepared.val.index), val, ranks), store.datasets
    )


def plain(dataset: dict[str, Any]) -> dict[str, Any]:
    """The dataset of images itself, inside Copy-Paste's."""
    inside: dict[str, Any] = dataset.get("dataset", dataset)
    return inside


def placed(job: Job, nodes: Sequence[Mapping[str, Any]]) -> Job:
    """A job whose workers are a range, with the most of them that there is room for.

    nodes: as `ray.nodes()` gives them.
    """
    asked = job.resources
    room = room_in(asked, [fitting(asked, node) for node in nodes if node["Alive"]])
    count = max((n for n in job.worker_counts if n <= room), default=asked.least)
    config = copy.deepcopy(job.config)
    if "train_dataloader" in config:
        config["train_dataloader"]["batch_size"] = job.recipe.schedule.batch // count
    resources = asked.model_copy(update={"workers": count})
    return job.model_copy(update={"resources": resources, "config": config})


def rehearse_job(job: Job, parent: str | None, shown: Shown, store: Store, steps: int) -> Job:
    """A job that does the same as another at the same size, for some steps and on some images.

    parent: the key of the entry that it starts from. store: the one that the plan's jobs run in.
    """
    token = uuid.uuid4().hex
    config = copy.deepcopy(job.config)
    config["custom_hooks"] = [*config.get("custom_hooks", []), {"type": "Stopwatch"}]
    config[REHEARSAL] = {
        "store": store.url,
        "planned_in": str(store.planned_in),
        "dataset": job.dataset_digest,
        "dataset_info": str(store.datasets / job.dataset_digest / "dataset.json"),
        "val_images": shown.prepared.val.image_total,
    }
    _evaluate_on(config, shown)
    recipe = job.recipe
    if job.kind == "features":
        dataset = plain(config["train_dataloader"]["dataset"])
        dataset["ann_file"] = shown.prepared.train.index
        views = config["features"]["views"] * len(
            Index(dataset["ann_file"]).trained(dataset["least_side"], dataset["empty"])
        )
        val = shown.prepared.val.image_total if config["features"]["val"] else 0
        config["train_cfg"]["max_iters"] = len(parts(views, val))
    elif job.kind == "corrections":
        _observe_less(config, steps * recipe.schedule.batch)
    elif not job.only_evaluated:
        config["train_cfg"] |= {"max_iters": steps, "val_interval": steps}
        recipe = recipe.model_copy(
            update={"checkpoint_every": steps, "keep_every": None, "keep_best": False}
        )
        _train_on(config, job, shown)
    return job.model_copy(
        update={
            "key": digest_of([REHEARSAL, token]),
            "name": f"rehearsal of {job.name}",
            "variant_keys": {
                name: digest_of([REHEARSAL, token, name]) for name in job.variant_keys
            },
            "parent": parent,
            "recipe": recipe,
            "resources": job.resources.model_copy(update={"retries": 0}),
            "config": config,
            "dataset_digest": shown.prepared.digest,
        }
    )


def _observe_less(config: dict[str, Any], images: int) -> None:
    """Have corrections take their statistics of few training images."""
    for head in bank_heads(config):
        for options in head["variants"].values():
            if "images" in options:
                options["images"] = min(options["images"], images)


def _evaluate_on(config: dict[str, Any], shown: Shown) -> None:
    val = {"ann_file": shown.prepared.val.index, "dataset_info": str(shown.dataset_info)}
    dataset = config["val_dataloader"]["dataset"]
    dataset |= {name: value for name, value in val.items() if name in dataset}
    if "val_evaluator" in config:
        config["val_evaluator"] |= {
            "annotations": shown.prepared.val.annotations,
            "dataset_info": str(shown.dataset_info),
        }


def _train_on(config: dict[str, Any], job: Job, shown: Shown) -> None:
    loader = config["train_dataloader"]
    if job.replayed:
        loader["dataset"]["ann_file"] = shown.prepared.train.index
        return
    dataset = plain(loader["dataset"])
    places = Index(dataset["ann_file"]).trained(dataset["least_side"], dataset["empty"])
    workers, each = job.resources.most, loader["batch_size"]
    batches = worst(Index(dataset["ann_file"]), places, job.recipe, each)
    # every rank sees the same images, because a rank may have a smaller device than others
    first = [image for batch in batches for image in batch * workers]
    largest = copy.deepcopy(loader["dataset"])
    scales = job.recipe.scales
    for step in plain(largest)["pipeline"]:
        if step["type"] == "RandomChoiceResize":
            step["scales"] = [max(scales, key=lambda scale: scale[0] * scale[1])]
    loader["dataset"] = {
        "type": "WorstFirst",
        "dataset": loader["dataset"],
        "worst": largest,
        "first": first,
    }


def halved(job: Job) -> Job | None:
    """A rehearsed job with half of the images in a rank's memory; None where it has one pair."""
    if job.kind not in ("representation", "classifier") or job.replayed:
        return None
    if job.config["train_dataloader"]["batch_size"] // job.recipe.accumulate % 4:
        return None
    config = copy.deepcopy(job.config)
    loader = config["train_dataloader"]
    half = loader["batch_size"] // 2
    loader["batch_size"] = half
    loader["sampler"]["batch"] //= 2
    schedule = job.recipe.schedule
    schedule = schedule.model_copy(update={"batch": schedule.batch // 2})
    dataset, workers = loader["dataset"], job.resources.most
    first, size = dataset["first"], 2 * half
    batches = [first[n : n + size] for n in range(0, len(first), size * workers)]
    dataset["first"] = [image for batch in batches for image in batch[::2] * workers]
    return job.model_copy(
        update={
            "key": digest_of([job.key, "halved"]),
            "config": config,
            "recipe": job.recipe.model_copy(update={"schedule": schedule}),
        }
    )


def parent_of(job: Job, plan: Plan, made: Mapping[str, Job], store: Store) -> str | None:
    """The entry that a rehearsal starts from: the parent's where it is finished, else that of its
    stage's rehearsal. made: rehearsed jobs by stage."""
    if job.parent is None or store.complete(job.parent):
        return job.parent
    stage = plan.experiment.stages[job.stage]
    return made[stage.after].key  # type: ignore[union-attr]
