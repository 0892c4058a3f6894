"""A job's rehearsal: trained, evaluated and published as any other, and measured meanwhile.

What is to be rehearsed stands in the job's configuration, under `rehearsal`.
"""

import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from mmdet.registry import DATASETS
from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from numpy.typing import NDArray

from bacl.datasets.prepared import Prepared
from bacl.datasets.samplers import Position
from bacl.detector.warmstart import read_checkpoint
from bacl.evaluation import Detections, Evaluator
from bacl_platform.plan.job import Job
from bacl_platform.plan.rehearsed import REHEARSAL
from bacl_platform.store import prepared_datasets
from bacl_platform.store.names import CHECKPOINT as CHECKPOINT_FILE
from bacl_platform.store.names import CHECKPOINTS, DETECTIONS, SCALARS
from bacl_platform.store.store import Store
from bacl_platform.train import worker
from bacl_platform.train.hooks.stopwatch import LAPS
from bacl_platform.train.memory import MemoryWatch, available
from bacl_platform.train.messages import CHECKPOINT, Measured, Report, Tell

JUDGED = 1000
"""Images, at most, whose evaluation is timed with drawn detections."""


@DATASETS.register_module()
class WorstFirst:
    """A dataset of training whose first positions show other images: those that take most memory,
    at the largest scale.

    Args:
        dataset: as the stage has it.
        worst: the same one, with a pipeline that draws no smaller scale.
        first: images of the first positions, over all ranks.
    """

    def __init__(self, dataset: dict[str, Any], worst: dict[str, Any], first: list[int]) -> None:
        self.dataset, self.worst = DATASETS.build(dataset), DATASETS.build(worst)
        self.first = first

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def metainfo(self) -> Any:
        """What MMEngine asks datasets for."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """MMEngine calls it."""
        self.dataset.full_init()
        self.worst.full_init()

    def presence(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """What samplers ask for."""
        found: tuple[NDArray[Any], NDArray[Any]] = self.dataset.presence()
        return found

    def wide(self) -> NDArray[Any]:
        """Whether each image is wider than high, (I,)."""
        found: NDArray[Any] = self.dataset.wide()
        return found

    def __getitem__(self, at: Position) -> Any:
        if at.position < len(self.first):
            return self.worst[at._replace(index=self.first[at.position])]
        return self.dataset[at]


def train(job: Job, store: Store, tell: Tell, report: Report, *rest: Any) -> str | None:
    """Rehearse a job on this rank, with the arguments of `worker.train`, whose result it returns.

    Each rank tells what it has measured, as a row with its `rank`, also where the job fails.
    """
    began, free = time.perf_counter(), available()
    real = Store(job.config[REHEARSAL]["store"])
    real.planned_in = Path(job.config[REHEARSAL]["planned_in"])
    job = job.model_copy(update={"config": real.localised(job.config)})
    prepared_datasets.pull(real, job.config[REHEARSAL]["dataset"])
    seen: dict[str, float] = {}
    if job.resources.gpus:
        torch.cuda.reset_peak_memory_stats()

    def hear(row: dict[str, Any]) -> None:
        if CHECKPOINT in row and get_rank() == 0:
            folder = store.work(job.key) / CHECKPOINTS / f"step_{row[CHECKPOINT]}"
            seen["checkpoint_bytes"] = _bytes(folder)
            seen["checkpointed"] = time.perf_counter()
        report(row)

    watch, done = MemoryWatch(), False
    try:
        with watch:
            own = watch.look()
            result = worker.train(job, store, tell, hear, *rest)
        done = result is None
        return result
    finally:
        ended = time.perf_counter()
        row = {"step": job.iterations, "rank": get_rank(), "began": began, "ended": ended, **seen}
        row |= _laps(job, store) | _memory(watch, free + own, store)
        if done and get_rank() == 0:
            row |= {"machine": machine(), "bank_bytes": _bank_bytes(job, store)}
            row |= _judged(job, store)
        tell(Measured(job.key, [row | {"told": time.perf_counter()}]))


def machine() -> str:
    """This kind of machine: its processor, cores, memory and GPU."""
    name = platform.processor() or platform.machine()
    known = Path("/proc/cpuinfo")
    if known.exists():
        lines = known.read_text(encoding="utf-8").splitlines()
        models = (line.split(":", 1)[1] for line in lines if line.startswith("model name"))
        name = next(models, name)
    parts = [f"{os.cpu_count()} x {' '.join(name.split())}"]
    parts.append(f"{psutil.virtual_memory().total / 2**30:.0f} GiB")
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)


def _laps(job: Job, store: Store) -> dict[str, Any]:
    """What the stopwatch has noted; of a job that stores features, the log of its shards."""
    if job.kind != "features":
        return {"laps": dict(MessageHub.get_current_instance().runtime_info.get(LAPS, {}))}
    path = store.entry(job.key) / SCALARS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {"laps": {"shards": [json.loads(line) for line in lines]}}


def _memory(watch: MemoryWatch, room: int, store: Store) -> dict[str, Any]:
    """Peaks in bytes beside what there is. room: what was free on the machine for all its ranks,
    with what this one held."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    place = next(path for path in (store.root, *store.root.parents) if path.exists())
    found = {
        "host": watch.peak,
        "host_room": room // ranks,
        "loaders": watch.children,
        "loader_workers": watch.child_count,
        "disk_room": shutil.disk_usage(place).free,
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        left, total = torch.cuda.mem_get_info()
        others = total - left - torch.cuda.memory_reserved()
        found |= {"gpu": torch.cuda.max_memory_allocated(), "gpu_room": total - others}
    return found


def _judged(job: Job, store: Store) -> dict[str, float]:
    """Seconds of evaluating a variant on the whole validation split: what reading the annotations
    takes, what is always the same, and what each image adds.

    Detections of the rehearsed images stand for those of the others.
    """
    known = job.config[REHEARSAL]
    paths = [store.entry(job.key) / "variants" / name / DETECTIONS for name in job.variants]
    path = next((path for path in paths if path.exists()), None)
    if path is None or job.config["val_evaluator"]["masks"]:
        return {}
    prepared = Prepared.load(Path(known["dataset_info"]))
    found = Detections.read(path)
    began = time.perf_counter()
    annotations = Path(prepared.val.annotations)
    evaluator = Evaluator(annotations, prepared.categories, prepared.evaluation, prepared.groups)
    reading = time.perf_counter() - began
    many = min(JUDGED, prepared.val.image_total)
    few = max(many // 4, 1)
    seconds = []
    for images in (few, many):
        drawn = repeated(found, known["val_images"], images)
        began = time.perf_counter()
        evaluator.evaluate(drawn)
        seconds.append(time.perf_counter() - began)
    each = max(seconds[1] - seconds[0], 0) / max(many - few, 1)
    fixed = max(seconds[1] - many * each, 0)
    return {"judging": reading, "judging_variant": fixed, "judging_image": each}


def repeated(found: Detections, images: int, wanted: int) -> Detections:
    """Detections in the first `wanted` images of a split: those of `images` images, over and
    over."""
    times = -(-wanted // images)
    shifts = np.repeat(np.arange(times) * images, len(found.image))
    image = np.tile(found.image, times) + shifts
    kept = image < wanted
    columns = (np.tile(found.label, times), np.tile(found.score, times))
    return Detections(
        image[kept], columns[0][kept], columns[1][kept], np.tile(found.bbox, (times, 1))[kept]
    )


def _bank_bytes(job: Job, store: Store) -> int:
    """Bytes of the variants' weights."""
    state = read_checkpoint(store.entry(job.key) / CHECKPOINT_FILE)["state_dict"]
    return sum(value.nbytes for name, value in state.items() if ".variants." in name)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
