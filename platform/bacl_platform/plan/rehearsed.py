"""What rehearsals have measured of jobs, and what whole jobs take by it.

A rehearsal leaves a note in the store for each stage that it has tried. The note's name says what
the figures depend on: what a step computes, the resources that it computes it with, and the kind of
machine. So other seeds, other lengths and other groups of a stage's variants find it.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from bacl.schema import Settings
from bacl_platform.plan.job import digest_of
from bacl_platform.plan.stored import passing

if TYPE_CHECKING:
    from bacl_platform.plan.job import Job
    from bacl_platform.store.store import Store

REHEARSAL = "rehearsal"
"""What of a job's configuration makes it a rehearsal."""
FOLDER = ".rehearsals"
"""Of the notes, in a store."""
EACH_VARIANT = 0.03
"""What one more variant of a bank adds to a step, as a share of it (`bacl bench bank`)."""
BLOCK = 5
"""Steps that are drawn together for intervals, because steps that follow each other are alike."""
DRAWS = 400
"""Resamples that an interval is taken from."""
ONCE = 0.25
"""How far off, as a share, times are taken to be that were measured a single time."""
_LENGTH = {
    "evaluate_every",
    "checkpoint_every",
    "keep_last",
    "keep_every",
    "keep_best",
    "lr_schedule",
}
"""Fields of a recipe that say how often something is done, or with which rate, but not what a step
computes."""


class Memory(Settings):
    """Bytes that one rank took at most, beside what there is for it.

    A rank's host memory is that of its process and of its loader workers; what they share counts
    once.
    """

    rank: int
    host: int
    host_room: int
    """The machine's memory that was free for this rank, or its container's."""
    host_fixed: int
    """What the rank's process held before the first step."""
    loaders: int
    """What the loader workers held, in all."""
    loader_workers: int
    gpu: int | None = None
    gpu_room: int | None = None
    gpu_fixed: int | None = None
    """What was allocated between two steps: weights, gradients, the optimizer's state."""
    disk_room: int
    """Free bytes where the rank works."""


class Figures(Settings):
    """What was measured of a job of a stage. Times are seconds."""

    date: str
    machine: str
    workers: int
    variants: int
    pass_images: int
    """Images that were in a rank's memory together."""
    steps: list[float]
    """Each step after the warm-up; of a job that stores features, each view of an image on a
    rank."""
    waits: list[float]
    """Of each step, what it waited for data."""
    images: list[float]
    """Each validation image on a rank."""
    opening: float
    """Until the first validation image was through, less what an image takes."""
    judging: float
    """Reading the validation split's annotations, to evaluate."""
    judging_variant: float
    judging_image: float
    """Evaluating a variant: what does not depend on the number of images, and what each adds."""
    start: float
    """From asking Ray for the job until its first step."""
    checkpoint: float
    end: float
    """From the end of the last evaluation: export, publishing, the end of Ray's job."""
    memory: list[Memory]
    checkpoint_bytes: int
    entry_bytes: int
    """Of an entry, without detections and stored features."""
    bank_bytes: int
    """Weights of all variants."""
    detection_bytes: float
    """Detections of all variants in an image, at most."""
    view_bytes: float
    image_bytes: float
    """Stored features of a view of a training image, and of a validation image."""


def name_of(job: "Job", machine: str) -> str:
    """The note with a job's figures on a kind of machine."""
    return f"{_folder(job)}/{digest_of(machine)}.json"


def _folder(job: "Job") -> str:
    recipe = job.recipe.model_dump(mode="json", exclude=_LENGTH | {"schedule"})
    asked = job.resources.model_dump(mode="json", exclude={"patience", "retries"})
    model = _without(job.config["model"], {"seed", "variants", "checkpoint", "init_cfg"})
    of_batch = [job.recipe.schedule.batch, job.config.get("features")]
    key = digest_of([job.kind, job.dataset_digest, recipe, asked, model, *of_batch])
    return f"{FOLDER}/{key}"


def _without(value: Any, names: set[str]) -> Any:
    if isinstance(value, Mapping):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    if isinstance(value, list | tuple):
        return [_without(item, names) for item in value]
    return value


def remember(job: "Job", figures: Figures, store: "Store") -> None:
    """Leave a job's figures in the store, in place of older ones on such a machine."""
    store.write_note(name_of(job, figures.machine), figures.model_dump_json())


def recall(job: "Job", store: "Store") -> Figures | None:
    """The newest figures of jobs like this one, on whichever machine; None where there are none."""
    found = []
    for name in store.notes(_folder(job)):
        # a note of another version of BACL holds nothing that can be relied on
        with contextlib.suppress(ValidationError):
            found.append(Figures.model_validate_json(store.note(name) or "{}"))
    return max(found, key=lambda figures: figures.date, default=None)


@dataclass(frozen=True)
class Whole:
    """What a job takes from where it stands to its end, in seconds: by its parts.

    Each is an array (DRAWS + 1,), whose first element is the estimate; the others are resamples.
    """

    start: NDArray[Any]
    training: NDArray[Any]
    evaluating: NDArray[Any]
    checkpoints: NDArray[Any]
    end: NDArray[Any]

    @property
    def seconds(self) -> NDArray[Any]:
        """All parts together."""
        return self.start + self.training + self.evaluating + self.checkpoints + self.end


def whole(job: "Job", figures: Figures, val_images: int, done: int = 0) -> Whole:
    """What a job takes by the figures of one like it.

    done: the step that it goes on from; of a job that stores features, the number of shards.
    """
    images = resampled(figures.images, 1)
    if job.kind == "features":
        views, stored = passing(job, val_images)
        left = 1 - done / max(job.iterations, 1)
        training = left * views / figures.workers * resampled(figures.steps, 1)
        evaluating = left * stored / figures.workers * images
        return Whole(once(figures.start), training, evaluating, once(0), once(figures.end))
    more = bank_cost(len(job.variants)) / bank_cost(figures.variants)
    steps = 0 if job.only_evaluated else job.iterations - done
    judging = figures.judging + len(job.variants) * (
        figures.judging_variant + val_images * figures.judging_image
    )
    each = -(-val_images // figures.workers) * images + once(figures.opening + judging)
    return Whole(
        once(figures.start),
        steps * more * resampled(figures.steps, BLOCK),
        evaluations(job, done) * each,
        checkpoints(job, done) * once(figures.checkpoint),
        once(figures.end),
    )


def bank_cost(variants: int) -> float:
    """What a step of a bank takes, in steps of a bank of one."""
    return 1 + EACH_VARIANT * (variants - 1)


def evaluations(job: "Job", done: int = 0) -> int:
    """How often a job will be evaluated after a step; the last one is whether or not it is due."""
    if job.only_evaluated:
        return 1
    every = job.config["train_cfg"]["val_interval"]
    return max(1, -(-job.iterations // every) - done // every)


def checkpoints(job: "Job", done: int = 0) -> int:
    """How many checkpoints a job will write after a step, one of them at its end."""
    if job.only_evaluated or job.kind == "features":
        return 0
    every = job.recipe.checkpoint_every
    return -(-job.iterations // every) - done // every


def resampled(values: Sequence[float], block: int) -> NDArray[Any]:
    """The mean of some values, and of DRAWS resamples of them, (DRAWS + 1,).

    Values are drawn with replacement in blocks of neighbours; where there are none, all are 0.
    """
    if not len(values):
        return np.zeros(DRAWS + 1)
    size = min(block, len(values))
    means = np.array(
        [np.mean(values[first : first + size]) for first in range(len(values) - size + 1)]
    )
    count = -(-len(values) // size)
    drawn = np.random.default_rng(0).integers(0, len(means), (DRAWS, count))
    return np.concatenate([[np.mean(values)], means[drawn].mean(axis=1)])


def once(value: float) -> NDArray[Any]:
    """What was measured a single time, and DRAWS values that it may be as well, (DRAWS + 1,)."""
    seed = np.frombuffer(np.float64(value).tobytes(), dtype=np.uint32)
    factors = np.random.default_rng(seed).uniform(1 - ONCE, 1 + ONCE, DRAWS)
    return value * np.concatenate([[1.0], factors])


def interval(draws: NDArray[Any]) -> tuple[float, float, float]:
    """The estimate and the bounds within which 95 % of the resamples are."""
    low, high = np.percentile(draws[1:], [2.5, 97.5])
    return float(draws[0]), float(min(low, draws[0])), float(max(high, draws[0]))


def in_words(found: tuple[float, float, float]) -> str:
    """Seconds as an estimate with its bounds, in the unit that is easiest to read."""
    unit, each, digits = ("s", 1, 0) if found[0] < 600 else ("min", 60, 0)
    if found[0] >= 5400:
        unit, each, digits = "h", 3600, 1
    estimate, low, high = (f"{value / each:.{digits}f}" for value in found)
    return f"{estimate} {unit} ({low} to {high})"


@dataclass(frozen=True)
class Bytes:
    """What a job leaves in the store, and what it has there besides while it trains."""

    entry: int
    work: int
    written: int
    """All that is written or uploaded in the course of it, checkpoints that go again too."""


def bytes_of(job: "Job", figures: Figures, val_images: int, done: int = 0) -> Bytes:
    """What a job takes of the store's room by the figures of one like it."""
    if job.kind == "features":
        views, stored = passing(job, val_images)
        entry = views * figures.view_bytes + stored * figures.image_bytes + figures.entry_bytes
        return Bytes(round(entry), 0, round(entry))
    recipe, each = job.recipe, figures.checkpoint_bytes
    detections = figures.detection_bytes * val_images * len(job.variants) / figures.variants
    lasting = (job.iterations // recipe.keep_every if recipe.keep_every else 0) + recipe.keep_best
    entry = figures.entry_bytes + detections + lasting * each
    # the newest ones, and the next while it is written
    work = (min(recipe.keep_last, checkpoints(job)) + 1) * each if checkpoints(job) else 0
    written = entry + checkpoints(job, done) * each
    return Bytes(round(entry), work, round(written))


def devices(job: "Job", workers: int) -> tuple[float, str]:
    """How many devices a job holds with so many workers, and what they are."""
    asked = job.resources
    return (workers * asked.gpus, "GPU") if asked.gpus else (workers * asked.cpus, "CPU")


def rehearsed(jobs: Sequence["Job"], store: "Store") -> Iterator[tuple["Job", Figures]]:
    """Those of some jobs that the store has figures for, with them."""
    if not store.notes(FOLDER):
        return
    known: dict[str, Figures | None] = {}
    for job in jobs:
        folder = _folder(job)
        if folder not in known:  # jobs of other seeds share it
            known[folder] = recall(job, store)
        if (figures := known[folder]) is not None:
            yield job, figures
