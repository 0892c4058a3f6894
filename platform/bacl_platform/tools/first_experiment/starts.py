"""What a detector's backbone starts from: weights that the user has, or what suits the machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from bacl.backbones import BACKBONES
from bacl.errors import UsageError
from bacl.weights import TORCHVISION, address_of


@dataclass(frozen=True)
class Machine:
    """What jobs can run on: the number of GPUs, 0 for none, and of CPU cores."""

    gpus: int
    cpus: int


@dataclass(frozen=True)
class Start:
    """A backbone and its weights, as `detector.backbone` and `detector.weights` say them, and the
    reason for them, a sentence."""

    backbone: str
    weights: str | None
    why: str


def machine_of(device: str) -> Machine:
    """The machine that jobs run on: this one, or with `gpu` one that has a GPU and enough cores.

    device: `cpu`, `gpu`, or `auto` for a GPU where this machine has one. Raises UsageError for
    another.
    """
    if device not in ("auto", "cpu", "gpu"):
        raise UsageError(f"--device: expected auto, cpu or gpu, got {device!r}")
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpus = there or 1
    if device == "cpu":
        return Machine(0, cpus)
    import torch  # seconds

    gpus = torch.cuda.device_count()
    if device == "gpu" and not gpus:
        return Machine(1, 4)
    return Machine(gpus, cpus)


def start_of(weights: str | None, backbone: str | None, gpu: bool) -> Start:
    """What to start from.

    weights: `torchvision`, a file or an address, or None for what suits the machine. backbone: the
    one that they are of; None recognises it. gpu: whether the detector trains on one. Raises
    UsageError where a backbone does not exist or cannot be recognised.
    """
    if backbone is not None and backbone not in BACKBONES and not backbone.startswith("timm/"):
        raise UsageError(
            f"--backbone: expected one of {', '.join(BACKBONES)} or timm/NAME, got {backbone!r}"
        )
    if weights is None:
        return _without(backbone, gpu)
    try:
        address = address_of(weights)
    except ValueError as error:
        raise UsageError(f"--weights: {error}") from None
    if weights == TORCHVISION:
        chosen = backbone or "resnet50"
        if chosen not in BACKBONES or not BACKBONES[chosen].torchvision:
            raise UsageError(f"--weights: torchvision has none for {chosen}: give a file")
        return Start(chosen, weights, f"{chosen} starts from torchvision's ImageNet weights")
    if address is not None:
        if backbone is None:
            raise UsageError("--backbone: expected the backbone that the weights are of, got none")
        return Start(backbone, weights, f"{backbone} starts from the weights that you named")
    file = Path(os.path.abspath(os.path.expanduser(weights)))
    chosen = backbone or _recognised(file)
    return Start(chosen, str(file), f"{chosen} starts from the weights in {file.name}")


def _without(backbone: str | None, gpu: bool) -> Start:
    if backbone is None and gpu:
        return Start(
            "resnet50",
            TORCHVISION,
            "the paper's backbone, from torchvision's ImageNet weights, which are fetched once",
        )
    if backbone is None:
        return Start(
            "tiny",
            None,
            "no GPU: a small network from random weights, which shows in minutes what the platform "
            "does but detects poorly; `bacl init --weights FILE` with ImageNet weights of "
            "MobileNetV2, or a GPU, gives far better AP (docs/guides/weights.md)",
        )
    known = BACKBONES.get(backbone)
    if known is not None and known.torchvision:
        return Start(backbone, TORCHVISION, f"{backbone} starts from torchvision's weights")
    return Start(
        backbone,
        None,
        f"{backbone} starts from random weights; `--weights FILE` gives far better AP",
    )


def _recognised(file: Path) -> str:
    """The backbone whose weights a file has."""
    from bacl.detector.backbone_fit import backbone_problem
    from bacl.detector.warmstart import read_tensors

    content = read_tensors(file, mapped=True)
    for name, backbone in BACKBONES.items():
        if backbone_problem(backbone.config, content) is None:
            return name
    raise UsageError(
        f"--weights {file}: expected weights of one of {', '.join(BACKBONES)}, found those of none "
        "of them; for a network of timm's, name it with --backbone timm/NAME"
    )
