"""What to change where memory does not fit, by a straight line through what was measured.

A rank's memory is taken as a fixed part, which it holds before it sees images, and as much again
for each image that passes at once. That is an estimate: allocators round, and images differ.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from bacl_platform.plan.job import Job
from bacl_platform.plan.rehearsed import Figures, Memory

GIB = 2**30
SPARE = 0.95
"""Share of what there is that a rank should need at most."""
HALF = 0.6
"""Memory of images in bfloat16, as a share of that in float32: weights' copies and losses stay."""
COPIES = 3
"""What a classifier's weights are held for: themselves, gradients, and the optimizer's momentum."""
STEP = 16
"""Pixels between sides of images that are proposed."""
LEAST_SCALE = 0.5
"""Share of the present images' sides below which smaller scales are not proposed."""


@dataclass(frozen=True)
class Need:
    """Memory that a rank takes beside what there is, in bytes. kind: `host` or `GPU`."""

    kind: str
    most: float
    room: float
    fixed: float
    loaders: float = 0

    @property
    def lacks(self) -> float:
        """Bytes that are missing; nothing or less where it fits."""
        return self.most - self.room

    def with_images(self, share: float) -> float:
        """Bytes with another amount of images at once, as a share of the present one."""
        return self.fixed + self.loaders + share * (self.most - self.fixed - self.loaders)


def needs(job: Job, figures: Figures) -> Iterator[Need]:
    """What the rank that takes most of it needs of each kind of memory."""
    set_aside = job.resources.memory * GIB

    def host(one: Memory) -> Need:
        # Ray kills nobody for more than it set aside, but it has promised the rest to others
        room = min(set_aside, one.host_room) if set_aside else one.host_room
        return Need("host", one.host, room, min(one.host_fixed, one.host), one.loaders)

    ranks = figures.memory
    if ranks:
        yield max((host(one) for one in ranks), key=lambda need: need.lacks)
    gpus = [
        Need("GPU", one.gpu, one.gpu_room, min(one.gpu_fixed or 0, one.gpu))
        for one in ranks
        if one.gpu is not None and one.gpu_room is not None
    ]
    if gpus:
        yield max(gpus, key=lambda need: need.lacks)


def settings_that_fit(job: Job, need: Need, figures: Figures) -> list[str]:
    """Changes to a stage, each of which alone would make it fit by the estimate, with what it would
    take then; those that leave results as they are, up to rounding, come first."""
    limit = SPARE * need.room
    found = []
    for ways in (
        _loaders(job, need),
        _parts(job, need, figures),
        _workers(job, need, figures),
        _variants(job, need, figures),
        _set_aside(job, need, figures),
        _precision(job, need),
        _scales(job, need),
    ):
        # of each kind, the first that is enough, which changes least
        fitting = next(((text, size) for text, size in ways if size <= limit), None)
        if fitting is not None:
            found.append(f"stages.{job.stage}.{fitting[0]} (about {fitting[1] / GIB:.2f} GiB)")
    return found


Ways = Iterator[tuple[str, float]]
"""Fields of a stage with values, and what a rank would take with them, in bytes; the least change
comes first."""


def _images_pass(job: Job) -> bool:
    return job.kind in ("representation", "classifier") and not job.replayed


def _loaders(job: Job, need: Need) -> Ways:
    workers = job.recipe.loader_workers
    if need.loaders and not job.only_evaluated:
        for fewer in range(workers - 1, -1, -1):
            yield f"recipe.loader_workers={fewer}", need.most - need.loaders * (1 - fewer / workers)


def _parts(job: Job, need: Need, figures: Figures) -> Ways:
    images = figures.pass_images
    if _images_pass(job):
        for parts in range(2, images // 2 + 1):
            if images % (2 * parts) == 0:
                value = parts * job.recipe.accumulate
                yield f"recipe.accumulate={value}", need.with_images(1 / parts)


def _workers(job: Job, need: Need, figures: Figures) -> Ways:
    """More ranks, which have to be on devices of their own."""
    batch, workers = job.recipe.schedule.batch, figures.workers
    if _images_pass(job) and need.kind == "GPU":
        for more in range(2, batch // (2 * workers * job.recipe.accumulate) + 1):
            if batch % (2 * workers * more * job.recipe.accumulate) == 0:
                yield f"resources.workers={workers * more}", need.with_images(1 / more)


def _variants(job: Job, need: Need, figures: Figures) -> Ways:
    """Fewer variants in a job: what they hold is known, what their losses take is not counted."""
    count = len(job.variants)
    if job.kind == "classifier":
        for fewer in range(count - 1, 0, -1):
            saved = COPIES * figures.bank_bytes * (1 - fewer / count)
            yield f"variants_per_job={fewer}", need.most - saved


def _set_aside(job: Job, need: Need, figures: Figures) -> Ways:
    """More memory for a worker, where the machines that it ran on have it."""
    asked = math.ceil(need.most / SPARE / GIB * 10) / 10
    there = min((one.host_room for one in figures.memory), default=0)
    if need.kind == "host" and job.resources.memory and asked * GIB <= there:
        yield f"resources.memory={asked:g}", SPARE * need.room


def _precision(job: Job, need: Need) -> Ways:
    if _images_pass(job) and need.kind == "GPU" and job.recipe.precision == "float32":
        yield "recipe.precision=bfloat16", need.with_images(HALF)


def _scales(job: Job, need: Need) -> Ways:
    recipe = job.recipe
    if not _images_pass(job):
        return
    side = max(max(scale) for scale in recipe.scales)
    side = recipe.copy_paste_size if recipe.augmentation == "copy_paste" else side
    for shorter in range(side - STEP, int(LEAST_SCALE * side), -STEP):
        share = shorter / side
        size = need.with_images(share**2)
        if recipe.augmentation == "copy_paste":
            yield f"recipe.copy_paste_size={shorter}", size
        else:
            scales = [[int(part * share) for part in scale] for scale in recipe.scales]
            yield f"recipe.scales={scales}", size
