"""Entries of jobs that were not trained: what is evaluated is drawn.

Run by `walk.py`, as a process of its own: `entries.py FILE --store FOLDER`. Each job of an
experiment or a sweep gets an entry of untrained weights and, for each of its variants, 300
detections in every validation image, which pass `BankMetric` as they would from a detector.
"""

import argparse
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from numpy.typing import NDArray

from bacl.datasets.prepared import Prepared
from bacl.evaluation import MAX_DETECTIONS, BankMetric
from bacl_platform.api.experiment import Experiment
from bacl_platform.plan.job import Job
from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
from bacl_platform.plan.trials import SweepFile
from bacl_platform.store.names import LOG, SCALARS
from bacl_platform.store.store import Store
from bacl_platform.train.publish import publish

FOUND = 0.8
"""Chance that an object is found."""
FLIPPED = 0.2
"""Chance that what is found is taken for another category; each variant errs on others."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("--store", type=Path, required=True)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    store = Store(arguments.store)
    jobs = jobs_of(arguments.file, store)
    register_all_modules(init_default_scope=True)
    for job in jobs:
        if not store.complete(job.key):
            make_entry(job, store)
        print(f"{job.name}: {len(job.variants)} variants", flush=True)


def jobs_of(file: Path, store: Store) -> list[Job]:
    """The jobs of an experiment, or of a sweep."""
    if "\nspace:" not in file.read_text(encoding="utf-8"):
        return Experiment.load(file, store=store).jobs().jobs
    sweep = SweepFile(file)
    (plan,) = plan_sweeps([sweep], [sweep.trials(store)], Preparation(store), store)
    return plan.jobs


def make_entry(job: Job, store: Store) -> None:
    """Judge drawn detections of a job's variants, and publish them beside untrained weights."""
    work = store.work(job.key)
    results = work / "entry"
    results.mkdir(parents=True, exist_ok=True)
    evaluator = {k: v for k, v in job.config["val_evaluator"].items() if k != "type"}
    metric = BankMetric(**{**evaluator, "folder": str(results / "variants")})
    prepared = Prepared.load(Path(evaluator["dataset_info"]))
    truth = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    for image, instances in drawn(truth, len(prepared.categories), list(job.variants)):
        metric.process(None, [{"img_id": image, "pred_instances": instances}])
    metrics = metric.evaluate(len(truth["images"]))
    row = {"step": job.iterations, **metrics}
    (work / SCALARS).write_text(json.dumps(row) + "\n", encoding="utf-8")
    (work / LOG).touch()
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(job.config["model"]))
    publish(job, store, results, model, loop_seconds=0)


def drawn(
    truth: dict, categories: int, variants: list[str]
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Detections of all variants in each image of a split: objects and what is not there.

    Boxes are the same for all variants, as a frozen trunk's are; categories and scores differ.
    """
    boxes: dict[int, list[list[float]]] = {image["id"]: [] for image in truth["images"]}
    labels: dict[int, list[int]] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        boxes[annotation["image_id"]].append(annotation["bbox"])
        labels[annotation["image_id"]].append(annotation["category_id"])
    better = np.linspace(-0.5, 0.5, len(variants))  # in logits of what is right
    for image in truth["images"]:
        draw = np.random.default_rng([0, image["id"]])
        objects = np.array(boxes[image["id"]]).reshape(-1, 4)[:MAX_DETECTIONS]
        names = np.array(labels[image["id"]], dtype=np.int64)[:MAX_DETECTIONS]
        places, of_object = _places(draw, objects, image)
        judged = np.union1d(names, image["neg_category_ids"]).astype(np.int64)
        found = []
        for gain in better:
            label = draw.integers(categories, size=MAX_DETECTIONS)
            half = draw.random(MAX_DETECTIONS) < 0.5
            if len(judged):
                label[half] = draw.choice(judged, int(half.sum()))
            right = (of_object >= 0) & (draw.random(MAX_DETECTIONS) < 1 - FLIPPED)
            label[right] = names[of_object[right]]
            logit = np.where(right, 1 + gain, -2) + draw.normal(0, 1.5, MAX_DETECTIONS)
            found.append((label, 1 / (1 + np.exp(-logit))))
        yield image["id"], _instances(places, found)


def _places(
    draw: np.random.Generator, objects: NDArray[np.float64], image: dict
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Corners (300, 4) of boxes, and which object each is near to, -1 for none."""
    seen = np.flatnonzero(draw.random(len(objects)) < FOUND)
    of_object = np.full(MAX_DETECTIONS, -1)
    of_object[: len(seen)] = seen
    sides = draw.lognormal(4, 0.8, (MAX_DETECTIONS, 2))
    sides = np.minimum(sides, (image["width"] / 2, image["height"] / 2))
    low = draw.random((MAX_DETECTIONS, 2)) * ((image["width"], image["height"]) - sides)
    near = objects[seen] + draw.normal(0, 0.08, (len(seen), 4)) * np.tile(objects[seen, 2:], 2)
    low[: len(seen)], sides[: len(seen)] = near[:, :2], np.maximum(near[:, 2:], 1)
    return np.hstack([low, low + sides]), of_object


def _instances(
    places: NDArray[np.float64], found: list[tuple[NDArray[np.int64], NDArray[np.float64]]]
) -> dict[str, torch.Tensor]:
    return {
        "bboxes": torch.from_numpy(np.tile(places, (len(found), 1))),
        "labels": torch.from_numpy(np.concatenate([label for label, _ in found])),
        "scores": torch.from_numpy(np.concatenate([score for _, score in found])),
        "variant": torch.arange(len(found)).repeat_interleave(len(places)),
    }


if __name__ == "__main__":
    main()
