"""Fast search for the best detections of an image, with the results of MMDetection's
`multiclass_nms`.

N regions, C foreground categories, K detections. A candidate is a region and a category whose score
is above the threshold; there are up to N * C. `multiclass_nms` suppresses among all candidates and
then keeps the best. But a box is suppressed by boxes of higher scores only: once the best
candidates have K survivors, no other candidate can be among the results. So candidates are taken
from the top, a block at a time, until K survive or none is left. (One core, N = 1000, C = 1203, a
million candidates: some 15 ms, `multiclass_nms` 8 s.)

Equal scores rank by region, then by category: so does `multiclass_nms` below its `split_thr`
(10,000 candidates; above, its order among equals is whatever an unstable sort leaves).
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from mmcv.ops import nms
from mmdet.models.layers import multiclass_nms
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

BLOCK = 1024
"""Candidates in a block that is suppressed together: time grows with the square of the
survivors."""
FIRST, GROWTH = 2048, 8
"""Number of candidates ranked at first, and the factor by which it grows when they were too few."""


def detect(boxes: Tensor, probabilities: Tensor, test_cfg: ConfigDict) -> InstanceData:
    """Detections (bboxes, scores, labels) of one image as `test_cfg` of an RoI head asks for them.

    boxes and probabilities are those of `top_detections`. Options that it does not support, such as
    soft NMS or an unlimited number of detections, are left to MMDetection's own function.
    """
    score_threshold, most, how = test_cfg.score_thr, test_cfg.max_per_img, test_cfg.nms
    if most > 0 and how and how.keys() == {"type", "iou_threshold"} and how.type == "nms":
        found, scores, labels = top_detections(
            boxes, probabilities, score_threshold, how.iou_threshold, most
        )
    else:
        rows, labels = multiclass_nms(boxes, probabilities, score_threshold, how, most)
        found, scores = rows[:, :-1], rows[:, -1]
    return InstanceData(bboxes=found, scores=scores, labels=labels)


def top_detections(
    boxes: Tensor, probabilities: Tensor, score_threshold: float, iou_threshold: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The `most` best candidates that survive non-maximum suppression within each category.

    Args:
        boxes: x1 y1 x2 y2 of each region (N, 4), or of each region and category (N, C * 4); in
            pixels, none negative.
        probabilities: scores (N, C + 1); the last column, the background's, is not looked at.
        score_threshold: candidates score more than this.
        iou_threshold: of two boxes that overlap by more, the one with the lower score is dropped;
            0..1.
        most: at least 1.

    Returns:
        boxes (K, 4), scores (K,) and labels (K,) in 0..C-1, K <= most, best first.
    """
    regions, categories = len(probabilities), probabilities.size(1) - 1
    corners = boxes.reshape(-1, 4)
    if not regions:
        return corners, probabilities.new_zeros(0), corners.new_zeros(0, dtype=torch.long)
    foreground = probabilities[:, :-1]
    # Arithmetic instead of masks: on a CPU, the time of `torch.where` depends on the mask.
    scores = F.threshold(foreground.nan_to_num(-math.inf, math.inf), score_threshold, -math.inf)
    sharing = categories * regions // len(corners)  # categories that have one box in common
    counted = (scores > -math.inf).reshape(len(corners), sharing).any(dim=1)
    # `multiclass_nms` moves categories apart by the largest coordinate of all candidates; float32
    # rounds the moved coordinates, so the overlaps are the same only if the distance is. (Where it
    # is NaN, nothing is suppressed; nor is it where it is infinite.)
    reach = corners.amax(dim=1).nan_to_num(math.inf, math.inf, -math.inf)
    step = reach.minimum((counted.to(reach) - 0.5) * math.inf).max() + 1

    kept = torch.zeros(0, dtype=torch.long, device=boxes.device)
    for block in _descending(scores.flatten()):
        members = torch.cat([kept, block])
        labels = members % categories
        moved = corners[members // sharing] + (labels.to(corners) * step)[:, None]
        survivors = nms(moved, foreground[members // categories, labels], iou_threshold)[1]
        kept = members[survivors[:most]]
        if len(kept) == most:
            break
    labels = kept % categories
    return corners[kept // sharing], foreground[kept // categories, labels], labels


def _descending(scores: Tensor) -> Iterator[Tensor]:
    """Blocks of indices of scores (n,) above -inf, best first, equal scores by index.

    Overwrites the scores.
    """
    size, lowest = FIRST, torch.finfo(scores.dtype).min
    while True:
        size = min(size, len(scores))
        # A lower bound of the `size`-th best score: in a table of the scores, the `size`-th best of
        # the columns' maxima, which are far fewer to rank.
        rows = max(1, len(scores) // (8 * size))
        tops = scores[: len(scores) // rows * rows].view(rows, -1).amax(dim=0)
        least = tops.topk(size, sorted=False).values.min().clamp_min(lowest)
        found = (scores >= least).nonzero()[:, 0]  # all that equal the least, so that index ranks
        order = scores[found].sort(descending=True, stable=True).indices
        yield from found[order].split(BLOCK)
        if len(found) < size:
            return
        scores[found] = -math.inf
        size *= GROWTH
