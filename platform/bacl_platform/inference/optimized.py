"""Detectors made quicker on a CPU: networks recorded and compiled by torch, for oneDNN.

What trains stays out: weights are copied into forms that only detect.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.mkldnn import MkldnnLinear

from bacl.errors import UsageError

SIZES = ((256, 320), (352, 224))
"""(height, width) of images that the network is recorded on, and compared on afterwards."""
TOLERANCE = 1e-4
"""Largest difference that rounding may make, as a part of the largest value."""


class _Network(nn.Module):
    """Backbone, neck and the RPN's convolutions."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> list[Tensor]:
        """The pyramid's levels, then for each the RPN's scores and for each its deltas."""
        levels = self.detector.extract_feat(images)
        scores, deltas = self.detector.rpn_head(levels)
        return [*levels, *scores, *deltas]


def optimize(detector: Any) -> None:
    """Replace the networks of a two-stage detector on the CPU by compiled ones, in place.

    Backbone, neck and RPN become one recorded graph with its layers fused, and fully connected
    layers keep their weights in oneDNN's order. Takes some seconds; results differ by rounding.

    Raises:
        UsageError: the detector has no RPN, or a network that cannot be recorded, or that does
            otherwise for images of another size.
    """
    if not hasattr(detector, "rpn_head") or not detector.with_rpn:
        raise UsageError(
            f"optimize: expected a two-stage detector with an RPN, got {type(detector).__name__}"
        )
    network = _Network(detector).eval()
    draw = torch.Generator().manual_seed(0)
    images = [torch.randn(1, 3, *size, generator=draw) for size in SIZES]
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch: sizes that are recorded as numbers
        expected = [network(image) for image in images]
        try:
            recorded = torch.jit.trace(network, images[0], check_trace=False)
            compiled = torch.jit.optimize_for_inference(recorded)
            # the first passes are observed, and compiled after
            found = [[compiled(image) for _ in range(2)][-1] for image in images]
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UsageError(f"optimize: expected a network that torch can record: {reason}") from (
                error
            )
    for (height, width), own, other in zip(SIZES, expected, found, strict=True):
        if not all(map(_alike, own, other)):
            raise UsageError(
                "optimize: expected a network that does the same when recorded, got another result "
                f"for an image of {width} x {height}"
            )
    _replace(detector, compiled, len(expected[0]) // 3)
    _pack(detector.roi_head)


def _alike(one: Tensor, other: Tensor) -> bool:
    scale = one.abs().max().clamp_min(1e-6)
    return one.shape == other.shape and bool(((one - other).abs() <= TOLERANCE * scale).all())


def _replace(detector: Any, compiled: Any, levels: int) -> None:
    """Let the detector ask the compiled network: its RPN takes what came with the levels."""
    proposals: list[Any] = []

    def extract_feat(images: Tensor) -> Sequence[Tensor]:
        found = compiled(images)
        proposals[:] = [found[levels : 2 * levels], found[2 * levels :]]
        return tuple(found[:levels])

    detector.extract_feat = extract_feat
    detector.rpn_head.forward = lambda _: tuple(proposals)


def _pack(module: nn.Module) -> None:
    """Put plain fully connected layers into oneDNN's order."""
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, MkldnnLinear(child, torch.float))
        else:
            _pack(child)
