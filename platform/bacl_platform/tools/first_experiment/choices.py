"""Settings of a first experiment, chosen by the facts about a data set and the machine.

A first experiment is to end and to show something: without a GPU within tens of minutes, with one
within hours. The numbers for CPUs are those of `experiments/boards.yaml` and `photos.yaml`, those
for GPUs the paper's, with more epochs where there are few images.
"""

from dataclasses import dataclass, field
from typing import Any

from bacl.datasets.judged import LVIS_DETECTIONS
from bacl.method_settings.paper import Hallucination
from bacl.settings import Groups, ImageRecipe
from bacl_platform.tools.first_experiment.facts import Facts
from bacl_platform.tools.first_experiment.starts import Machine, Start

ROUND = [n * 10**power for power in range(7) for n in (1, 2, 3, 5, 7)]
"""Counts that groups may be bounded by."""
ANCHORS = (2, 3, 4, 6, 8)
"""Anchor scales that are chosen from; the paper's is the last."""
STRIDES = (4, 64)
"""Of the pyramid's finest and coarsest level."""
COVERED = 0.7
"""A box of at least this share of an anchor's size can be matched by it, at an IoU of about a
half."""
FULL = (1333, 800)
"""The paper's test scale."""
CPU_SIDE = 256
"""Side of the square of as many pixels as images are shown with on a CPU."""
SMALL = 12
"""Pixels below which a detector with strides from 4 on finds little."""
METHODS = ("bacl", "fcbl", "bce", "softmax")
BASELINE = "softmax"


@dataclass(frozen=True)
class Length:
    """How long a stage trains, in `unit`s, and how the learning rate goes meanwhile."""

    unit: str
    total: int
    milestones: tuple[int, int]
    lr: float
    lr_batch: int
    warmup: int


@dataclass(frozen=True)
class Choices:
    """Settings of a first experiment. `why` has the reasons, sentences by the name of a field, for
    the file's comments and for the terminal."""

    groups: Groups | None
    detector: dict[str, Any]
    batch: int
    representation: Length
    classifier: Length
    images: dict[str, Any]
    """Fields of both stages' recipes besides the schedule."""
    optimizer: dict[str, Any] | None
    """That of the representation stage; None for SGD."""
    hallucination: int | None
    """`hallucination.categories`, where the default does not fit."""
    resources: dict[str, Any]
    why: dict[str, str] = field(default_factory=dict)


def choose(facts: Facts, machine: Machine, start: Start) -> Choices:
    """The settings that fit a data set, a machine and a backbone."""
    gpu = machine.gpus > 0
    why: dict[str, str] = {"backbone": start.why}
    groups = _groups(facts, why)
    shown, test = _scales(facts, gpu, why)
    detector = {
        "backbone": start.backbone,
        "weights": start.weights,
        **({} if gpu else {"neck_channels": 64 if start.weights else 48}),
        **({} if gpu else {"fc_channels": 256 if start.weights else 128}),
        "anchor_scale": _anchor_scale(facts, test, why),
        **({} if gpu else {"rpn_samples": 128, "roi_samples": 64}),
        **_limits(facts, gpu, why),
    }
    batch = _batch(facts, gpu, why)
    representation, classifier = _lengths(facts, gpu, start, batch, why)
    images: dict[str, Any] = {"scales": [list(scale) for scale in shown], "test_scale": list(test)}
    if facts.smallest_side < ImageRecipe().smallest_image:
        images["smallest_image"] = 0
        why["smallest_image"] = (
            f"the smallest training image has a side of {facts.smallest_side} pixels; the default "
            "would leave those under 32 out"
        )
    if gpu:
        images["loader_workers"] = min(4, machine.cpus)
    else:
        images |= {"proposals": 200, "proposals_before_nms": 200, "loader_workers": 0}
    images["checkpoint_every"] = 500 if gpu else 100
    return Choices(
        groups=groups,
        detector=detector,
        batch=batch,
        representation=representation,
        classifier=classifier,
        images=images,
        optimizer=_optimizer(start, why),
        hallucination=_hallucination(len(facts.stats.categories), why),
        resources=resources_of(machine, why),
        why=why,
    )


# Groups


def _groups(facts: Facts, why: dict[str, str]) -> Groups | None:
    """Frequency groups with about as many categories each; None for the file's or LVIS's own."""
    judged = [category for category in facts.trained if category.val_instances] or facts.trained
    counts = [category.images for category in judged]
    span = f"{len(counts):,} categories have {counts[-1]:,} to {counts[0]:,} training images"
    if facts.grouped:
        why["groups"] = "the annotation file gives each category's group"
        return None
    usual = Groups()
    if min(sizes := _sizes(counts, usual)) >= max(1, len(counts) / 10):
        why["groups"] = f"{span}; LVIS's bounds fit: {_told(usual, sizes)}"
        return usual
    pairs = [(low, high) for low in ROUND for high in ROUND if low < high <= 10 * counts[0]]
    candidates = [
        *(Groups(bounds=list(pair), names=["r", "c", "f"]) for pair in pairs),
        *(Groups(bounds=[bound], names=["r", "f"]) for bound in ROUND),
    ]
    fitting = [groups for groups in candidates if min(_sizes(counts, groups)) > 0]
    if not fitting:
        why["groups"] = f"{span}, too alike for groups; LVIS's bounds"
        return usual
    best = max(
        fitting, key=lambda groups: (len(groups.names), min(_sizes(counts, groups)), groups.bounds)
    )
    why["groups"] = f"{span}; bounds for groups of like size: {_told(best, _sizes(counts, best))}"
    return best


def _sizes(counts: list[int], groups: Groups) -> list[int]:
    """How many of the categories are in each group."""
    names = [groups.name(count, 0) for count in counts]
    return [names.count(name) for name in groups.names]


def _told(groups: Groups, sizes: list[int]) -> str:
    return ", ".join(f"{size:,} in {name}" for size, name in zip(sizes, groups.names))


# Images and the detector


def _scales(
    facts: Facts, gpu: bool, why: dict[str, str]
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Scales (longest, shortest side) to train at, and that to test at."""
    longest, shortest = facts.sides
    size = f"{'all' if facts.alike else 'half of the'} images are {longest} x {shortest}"
    if not facts.alike:
        size = f"the median image is {longest} x {shortest}"
    if gpu:
        side = _multiple(min(FULL[1], 1.7 * shortest))
        test = (side * FULL[0] // FULL[1], side)
        sides = sorted({_multiple(side * share / 100) for share in (80, 84, 88, 92, 96, 100)})
        shown = [(test[0], one) for one in sides]
        of = "the paper's" if test == FULL else "the paper's, scaled down to not blow images up"
        told = f"{size} pixels; scales are {of}"
    else:
        like = CPU_SIDE * (longest / shortest) ** 0.5
        side = _multiple(min(like, 2 * longest, 2 * CPU_SIDE))
        test = (side, side)
        shown = [test]
        told = f"{size} pixels; {side} on the longest side is what a CPU trains on in time"
    shown_at = _factor(facts, test)
    middle = facts.box_sizes[2] * longest * shown_at
    why["scales"] = f"{told}; half of the boxes are then larger than {middle:.0f} pixels"
    if middle < SMALL:
        why["scales"] += (
            ", which is too small to be found well: cut images into tiles, or raise scales and "
            "test_scale"
        )
    return shown, test


def _factor(facts: Facts, scale: tuple[int, int]) -> float:
    """By how much the median image grows at a scale."""
    longest, shortest = facts.sides
    return min(max(scale) / longest, min(scale) / shortest)


def _multiple(side: float) -> int:
    """The nearest multiple of 32, what the detector pads images to, but at least two."""
    return max(64, round(side / 32) * 32)


def _anchor_scale(facts: Facts, test: tuple[int, int], why: dict[str, str]) -> int:
    """The largest scale whose smallest anchor still fits the smaller boxes, unless boxes are too
    large for it."""
    pixels = [share * facts.sides[0] * _factor(facts, test) for share in facts.box_sizes]
    low, high = pixels[1], pixels[4]
    small = [scale for scale in ANCHORS if COVERED * STRIDES[0] * scale <= low]
    large = [scale for scale in ANCHORS if STRIDES[1] * scale >= COVERED * high]
    chosen = max(max(small, default=ANCHORS[0]), min(large, default=ANCHORS[-1]))
    why["anchor_scale"] = (
        f"anchors from {STRIDES[0] * chosen} to {STRIDES[1] * chosen} pixels; at the test scale, "
        f"three quarters of the boxes are larger than {low:.0f} pixels and one in twenty is larger "
        f"than {high:.0f}"
    )
    return chosen


def _limits(facts: Facts, gpu: bool, why: dict[str, str]) -> dict[str, int]:
    """Proposals and detections of an image that leave room for all boxes of a validation image."""
    most = facts.stats.val.most_instances
    proposals = max(1000 if gpu else 200, _rounded_up(2 * facts.most_of_category))
    if facts.federated:
        why["max_detections"] = f"LVIS's evaluation counts {LVIS_DETECTIONS} of an image"
        return {"test_proposals": proposals, "max_detections": LVIS_DETECTIONS}
    why["max_detections"] = f"validation images have up to {most:,} boxes"
    return {"test_proposals": proposals, "max_detections": max(100, _rounded_up(most))}


def _rounded_up(count: int) -> int:
    return -(-count // 50) * 50


def _hallucination(categories: int, why: dict[str, str]) -> int | None:
    usual = Hallucination().categories
    if categories >= usual:
        return None
    why["hallucination"] = (
        f"features of so many categories are made for each pair of images: {usual} in the paper, "
        f"here all {categories}"
    )
    return categories


# Schedule


def _batch(facts: Facts, gpu: bool, why: dict[str, str]) -> int:
    """Images of a step: 8, or fewer where there are fewer than 32 in all."""
    batch = next((size for size in (8, 4) if facts.training_images >= 4 * size), 2)
    why["batch"] = f"{facts.training_images:,} training images have boxes"
    if gpu:
        why["batch"] += (
            "; if the GPU's memory is too small, halve batch (the learning rate follows) or say "
            "accumulate: 2 in both recipes"
        )
    return batch


def _lengths(
    facts: Facts, gpu: bool, start: Start, batch: int, why: dict[str, str]
) -> tuple[Length, Length]:
    """Lengths of the representation and of the classifier stage."""
    an_epoch = -(-facts.training_images // batch)
    lengths = []
    stages = (
        ("representation", 450 if start.weights else 500, 3000, 48),
        ("classifier", 250, 1500, 24),
    )
    for stage, on_cpu, on_gpu, most_epochs in stages:
        if gpu:
            epochs = min(max(12, -(-on_gpu // an_epoch)), most_epochs)
            steps = epochs * an_epoch
            unit, total = "epochs", epochs
            milestones = (max(1, epochs * 2 // 3), epochs * 11 // 12)
            why[stage] = f"{epochs} epochs are {steps:,} steps of {batch} images"
        else:
            steps = min(max(100, 40 * an_epoch), on_cpu)
            unit, total = "iterations", steps
            milestones = (steps * 7 // 10, steps * 9 // 10)
            why[stage] = (
                f"{steps:,} steps of {batch} images, {steps * batch / facts.training_images:.0f} "
                "times each"
            )
        rate, of_batch, warming = _rate(start, stage)
        warmup = min(500, int(warming * steps))
        lengths.append(Length(unit, total, milestones, rate, of_batch, warmup))
        why[stage] += f", {warmup} of them warm-up"
    return lengths[0], lengths[1]


def _rate(start: Start, stage: str) -> tuple[float, int, float]:
    """Learning rate, the batch that it is for, and the share of steps that warm up."""
    if start.backbone == "mobilenet_v2":  # diverges at 0.008 for 8 images
        return (0.003, 8, 0.44) if stage == "representation" else (0.004, 8, 0.2)
    if stage == "representation" and _by_adamw(start.backbone):
        return 1e-4, 16, 0.2
    return (0.02, 16, 0.2) if start.weights else (0.02, 8, 0.2)


def _by_adamw(backbone: str) -> bool:
    """Whether a backbone is usually trained by AdamW: all but those with batch or group norm."""
    return backbone.startswith(("swin", "convnext"))


def _optimizer(start: Start, why: dict[str, str]) -> dict[str, Any] | None:
    if not _by_adamw(start.backbone):
        return None
    why["optimizer"] = f"{start.backbone} is trained by AdamW"
    return {"type": "adamw", "weight_decay": 0.05, "paramwise": {"norm_decay_mult": 0}}


def resources_of(machine: Machine, why: dict[str, str]) -> dict[str, Any]:
    """What a job asks for: a GPU where there is one, else up to 8 cores."""
    if not machine.gpus:
        cpus = min(machine.cpus, 8)
        why["resources"] = "one worker on the CPU"
        return {"cpus": cpus}
    why["resources"] = "one worker on one GPU; with N of them, say workers: N and a larger batch"
    return {"workers": 1, "cpus": min(4, machine.cpus), "gpus": 1}
