"""Fast search for the best detections of an image, with the results of MMDetection's
`multiclass_nms`.

N regions, C foreground categories, K detections. A candidate is a region and a category whose score
is above the threshold; there are up to N * C. `multiclass_nms` suppresses among all candidates and
then keeps the best. But a box is suppressed by boxes of higher scores only: once the best
candidates have K survivors, no other candidate can be among the results. So candidates are taken
from the top, a block at a time, until K survive or none is left. (One core, N = 1000, C = 1203, a
million candidates: some 15 ms, `multiclass_nms` 8 s.)

AP-Fixed knows no such limit, but counts the 10,000 best detections of a category over all images.
So of what comes after the K best, only candidates above a threshold of their category matter; they
are few once some images have passed, and are suppressed category by category.

Equal scores rank by region, then by category: so does `multiclass_nms` below its `split_thr`
(10,000 candidates; above, its order among equals is whatever an unstable sort leaves).
"""

import itertools
import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from mmcv.ops import nms
from mmdet.models.layers import multiclass_nms
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor
from torchvision.ops import box_iou
from torchvision.ops import nms as suppressed

BLOCK = 1024
"""Candidates in a block that is suppressed together: time grows with the square of the
survivors."""
FIRST, GROWTH = 2048, 8
"""Number of candidates ranked at first, and the factor by which it grows when they were too few."""


PAIRED = 24
"""Candidates of a category up to which their overlaps are computed pair by pair, for all such
categories together; more of one category are suppressed by themselves."""

Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (K, 4), scores (K,) and labels (K,) in 0..C-1, best first."""


def hands_on(test_cfg: ConfigDict) -> bool:
    """Whether `detect` can tell what `test_cfg` leaves out because of its limit per image."""
    return test_cfg.max_per_img > 0 and _is_hard(test_cfg.nms)


def _is_hard(how: ConfigDict | None) -> bool:
    """Whether it is usual suppression within each category."""
    return how is not None and how.keys() == {"type", "iou_threshold"} and how.type == "nms"


def detect_all(
    boxes: Tensor, probabilities: Tensor, test_cfg: ConfigDict, lowest: Tensor
) -> tuple[InstanceData, Found]:
    """What `detect` finds, and what it leaves out because of the limit per image, with scores above
    those of `lowest` (C,); of a `test_cfg` that `hands_on`."""
    threshold, iou = test_cfg.score_thr, test_cfg.nms.iou_threshold
    (found, scores, labels), rest = ranked_detections(
        boxes, probabilities, threshold, iou, test_cfg.max_per_img, lowest
    )
    return InstanceData(bboxes=found, scores=scores, labels=labels), rest


def detect(boxes: Tensor, probabilities: Tensor, test_cfg: ConfigDict) -> InstanceData:
    """Detections (bboxes, scores, labels) of one image as `test_cfg` of an RoI head asks for them.

    boxes and probabilities are those of `top_detections`. Options that neither that nor
    `soft_detections` supports, such as an unlimited number of detections, are left to MMDetection's
    own function.
    """
    score_threshold, most, how = test_cfg.score_thr, test_cfg.max_per_img, test_cfg.nms
    if most > 0 and how and how.type == "soft_nms" and how.method in ("linear", "gaussian"):
        options = {name: value for name, value in how.items() if name != "type"}
        found, scores, labels = soft_detections(
            boxes, probabilities, score_threshold, most, **options
        )
    elif most > 0 and _is_hard(how):
        found, scores, labels = top_detections(
            boxes, probabilities, score_threshold, how.iou_threshold, most
        )
    else:
        rows, labels = multiclass_nms(boxes, probabilities, score_threshold, how, most)
        found, scores = rows[:, :-1], rows[:, -1]
    return InstanceData(bboxes=found, scores=scores, labels=labels)


def top_detections(
    boxes: Tensor, probabilities: Tensor, score_threshold: float, iou_threshold: float, most: int
) -> Found:
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
    if not len(probabilities):
        return _nothing(boxes, probabilities)
    candidates = _Candidates(boxes, probabilities, score_threshold)
    return candidates.found(candidates.best(iou_threshold, most))


def ranked_detections(
    boxes: Tensor,
    probabilities: Tensor,
    score_threshold: float,
    iou_threshold: float,
    most: int,
    lowest: Tensor,
) -> tuple[Found, Found]:
    """The detections of `top_detections`, and all others that survive and whose score exceeds that
    of their category in `lowest` (C,), on the CPU and by category."""
    if not len(probabilities):
        nothing = _nothing(boxes, probabilities)
        return nothing, nothing
    candidates = _Candidates(boxes, probabilities, score_threshold)
    best = candidates.best(iou_threshold, most)
    rest = candidates.rest(best, iou_threshold, most, lowest)
    return candidates.found(best), candidates.found(rest)


def _nothing(boxes: Tensor, probabilities: Tensor) -> Found:
    corners = boxes.reshape(-1, 4)
    return corners, probabilities.new_zeros(0), corners.new_zeros(0, dtype=torch.long)


class _Candidates:
    """Regions and categories of an image, numbered by region, then by category."""

    def __init__(self, boxes: Tensor, probabilities: Tensor, score_threshold: float) -> None:
        regions, self.categories = len(probabilities), probabilities.size(1) - 1
        self.corners = boxes.reshape(-1, 4)
        self.threshold = score_threshold
        self.foreground = probabilities[:, :-1]
        # Arithmetic instead of masks: on a CPU, the time of `torch.where` depends on the mask.
        self.scores = F.threshold(
            self.foreground.nan_to_num(-math.inf, math.inf), score_threshold, -math.inf
        )
        # categories that have one box in common
        self.sharing = self.categories * regions // len(self.corners)
        counted = (self.scores > -math.inf).reshape(len(self.corners), self.sharing).any(dim=1)
        # `multiclass_nms` moves categories apart by the largest coordinate of all candidates;
        # float32 rounds the moved coordinates, so the overlaps are the same only if the distance
        # is. (Where it is NaN, nothing is suppressed; nor is it where it is infinite.)
        reach = self.corners.amax(dim=1).nan_to_num(math.inf, math.inf, -math.inf)
        self.step = reach.minimum((counted.to(reach) - 0.5) * math.inf).max() + 1

    def found(self, members: Tensor) -> Found:
        """Boxes, scores and labels of some candidates."""
        labels = members % self.categories
        scores = self.foreground[members // self.categories, labels]
        return self.corners[members // self.sharing], scores, labels

    def moved(self, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, moved apart by category, scores and labels of some candidates."""
        boxes, scores, labels = self.found(members)
        return boxes + (labels.to(boxes) * self.step)[:, None], scores, labels

    def best(self, iou_threshold: float, most: int) -> Tensor:
        """The `most` best that survive, best first."""
        kept = torch.zeros(0, dtype=torch.long, device=self.corners.device)
        for block in _descending(self.scores.flatten()):
            members = torch.cat([kept, block])
            boxes, scores, _ = self.moved(members)
            survivors = nms(boxes, scores, iou_threshold)[1]
            kept = members[survivors[:most]]
            if len(kept) == most:
                break
        return kept

    def rest(self, best: Tensor, iou_threshold: float, most: int, lowest: Tensor) -> Tensor:
        """All that survive beyond the `most` best and exceed the score of their category in
        `lowest` (C,), by category and best first."""
        if len(best) < most:  # then those are all that survive
            return best[:0]
        _, scores, _ = self.found(best[-1:])
        above = self.foreground > lowest.clamp_min(self.threshold)
        members = above.flatten().nonzero()[:, 0]
        own = self.foreground[members // self.categories, members % self.categories]
        members = members[(own < scores) | (members > best[-1])]
        boxes, own, labels = (part.cpu() for part in self.moved(torch.cat([best, members])))
        order = own[len(best) :].sort(descending=True, stable=True).indices + len(best)
        order = torch.cat([torch.arange(len(best)), order])
        order = order[labels[order].sort(stable=True).indices]
        known = order < len(best)
        kept = _survivors(boxes[order], labels[order], known, iou_threshold)
        return members[(order[kept & ~known] - len(best)).to(members.device)]


def _survivors(boxes: Tensor, labels: Tensor, known: Tensor, iou_threshold: float) -> Tensor:
    """Whether each box (N, 4) survives suppression by those before it of its label; all on the CPU.

    labels (N,), rising; known (N,): survivors that need not be looked at.
    """
    sizes = labels.bincount()
    sizes = sizes[sizes > 0]
    ends = sizes.cumsum(0)
    kept = torch.ones(len(boxes), dtype=torch.bool)
    for end, size in torch.stack([ends, sizes], dim=1)[sizes > PAIRED].tolist():
        rank = torch.arange(size, 0, -1, dtype=boxes.dtype)
        here = boxes[end - size : end]
        kept[end - size : end] = False
        kept[end - size + suppressed(here, rank, iou_threshold)] = True
    # of the others, each box and those before it of its label
    starts = (ends - sizes).repeat_interleave(sizes)
    before = torch.arange(len(boxes)) - starts
    before[sizes.repeat_interleave(sizes) > PAIRED] = 0
    before[known] = 0
    second = torch.arange(len(boxes)).repeat_interleave(before)
    first = torch.arange(len(second)) - (before.cumsum(0) - before).repeat_interleave(before)
    first += starts[second]
    overlaps = _overlaps(boxes, first, second) > iou_threshold
    first, second = first[overlaps], second[overlaps]
    place = before[second]
    for rank in place.unique().tolist():  # at most PAIRED
        here = place == rank
        kept[second[here][kept[first[here]]]] = False
    return kept | known


def _overlaps(boxes: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """IoU of pairs of boxes, rounded as torchvision's suppression rounds it."""
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    areas = (x2 - x1) * (y2 - y1)
    width = x2[first].minimum(x2[second]) - x1[first].maximum(x1[second])
    height = y2[first].minimum(y2[second]) - y1[first].maximum(y1[second])
    shared = width.clamp_min(0) * height.clamp_min(0)
    return shared / (areas[first] + areas[second] - shared)


def soft_detections(
    boxes: Tensor,
    probabilities: Tensor,
    score_threshold: float,
    most: int,
    iou_threshold: float,
    method: str,
    sigma: float = 0.5,
    min_score: float = 1e-3,
) -> tuple[Tensor, Tensor, Tensor]:
    """The `most` best candidates by soft suppression within each category, as mmcv's `soft_nms`
    has it, which torchvision lacks.

    The best candidate of all is taken, the scores of its category's others fall, and so on: scores
    only fall, so that is the order of each category by itself, and whoever was below the last one
    taken from the beginning had no chance. Boxes, probabilities and what is returned are those of
    `top_detections`; the other options are those of `bacl.settings.SoftNMS`.
    """
    regions, categories = len(probabilities), probabilities.size(1) - 1
    corners = boxes.reshape(-1, 4)
    if not regions:
        return corners, probabilities.new_zeros(0), corners.new_zeros(0, dtype=torch.long)
    foreground = probabilities[:, :-1]
    ranked = F.threshold(foreground.nan_to_num(-math.inf, math.inf), score_threshold, -math.inf)
    sharing = categories * regions // len(corners)  # categories that have one box in common
    blocks = _descending(ranked.flatten())
    members = torch.zeros(0, dtype=torch.long, device=boxes.device)
    wanted = FIRST
    while True:
        members = torch.cat([members, *itertools.islice(blocks, (wanted - len(members)) // BLOCK)])
        labels = members % categories
        scores = foreground[members // categories, labels]
        places, found = _taken(
            corners[members // sharing],
            labels,
            scores,
            most,
            iou_threshold,
            method,
            sigma,
            min_score,
        )
        if len(members) < wanted or (len(found) == most and found[-1] >= scores[-1]):
            break
        wanted *= GROWTH
    chosen = members[places]
    return corners[chosen // sharing], found, labels[places]


def _taken(
    corners: Tensor,
    labels: Tensor,
    scores: Tensor,
    most: int,
    iou_threshold: float,
    method: str,
    sigma: float,
    min_score: float,
) -> tuple[Tensor, Tensor]:
    """Places and scores of at most `most` candidates in the order in which they are taken."""
    left = torch.where(scores >= min_score, scores, -math.inf)
    places, found = [], []
    for _ in range(min(most, len(left))):  # no look at values, for which a device would wait
        best = left.argmax()
        places.append(best)
        found.append(left[best])
        overlap = box_iou(corners[best][None], corners)[0].nan_to_num(0)  # of two without area
        if method == "linear":
            kept = torch.where(overlap >= iou_threshold, 1 - overlap, 1.0)
        else:
            kept = (-(overlap**2) / sigma).exp()
        left = torch.where(labels == labels[best], left * kept, left)
        left = torch.where(left >= min_score, left, -math.inf)
        left[best] = -math.inf
    if not places:
        return labels.new_zeros(0), scores.new_zeros(0)
    there = torch.stack(found)
    some = there > -math.inf
    return torch.stack(places)[some], there[some]


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
