"""Non-maximum suppression that ends with the boxes that are wanted, in forms that torch's exporters
can record.

There may be a million candidates, a region and a category each. But a box is suppressed by better
ones only, so the best that survive are found from the top.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Suppression = Callable[[Tensor, Tensor, float, int, float], Tensor]
"""Places of at most `most` of the boxes (N, 4) with scores (N,), best first: `(boxes, scores,
iou_threshold, most, least)`. Boxes that score more than `least` count, and of two that overlap by
more than the threshold the worse one goes."""


def blockwise(
    boxes: Tensor, scores: Tensor, iou_threshold: float, most: int, least: float
) -> Tensor:
    """A `Suppression` by torchvision's operator, a block of boxes at a time until so many
    survive."""
    block = 1024
    order = scores.argsort(descending=True, stable=True)
    order = order[scores[order] > least]
    kept = order[:0]
    start = 0
    while start < order.size(0) and kept.size(0) < most:
        members = torch.cat([kept, order[start : start + block]])
        found = torch.ops.torchvision.nms(boxes[members], scores[members], iou_threshold)
        kept = members[found][:most]
        start += block
    return kept


def scripted() -> Suppression:
    """`blockwise` with its loop, where a recording would have the passes of one image."""
    function: Suppression = torch.jit.script(blockwise)
    return function


def by_onnx(boxes: Tensor, scores: Tensor, iou_threshold: float, most: int, least: float) -> Tensor:
    """A `Suppression` that is recorded as ONNX's operator for it."""
    kept: Tensor = _NonMaxSuppression.apply(boxes, scores, iou_threshold, most, least)  # type: ignore[no-untyped-call]
    return kept


class _NonMaxSuppression(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        return blockwise(*args)

    @staticmethod
    def symbolic(
        g: Any, boxes: Any, scores: Any, iou_threshold: float, most: int, least: float
    ) -> Any:
        """The nodes of the graph: the operator ends by itself when `most` have survived."""

        def constant(value: Any, dtype: torch.dtype) -> Any:
            return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))

        found = g.op(
            "NonMaxSuppression",
            g.op("Unsqueeze", boxes, constant([0], torch.long)),
            g.op("Unsqueeze", scores, constant([0, 1], torch.long)),
            constant([most], torch.long),
            constant([iou_threshold], torch.float),
            constant([least], torch.float),
        )  # rows of image, category, place
        return g.op("Gather", found, constant(2, torch.long), axis_i=1)
