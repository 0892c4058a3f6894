"""From boxes and scores to detections, beside MMDetection's function.

N regions, C categories.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl import fcbl
from bacl.detector.postprocess import ranked_detections, top_detections
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.bench.training import CATEGORIES

IOU = 0.5
THRESHOLD = 1e-4


@dataclass(frozen=True)
class Size:
    """How much there is to look through; the defaults are LVIS v1.0 at the paper's settings."""

    regions: int = 1000
    categories: int = CATEGORIES
    few: int = 10_000
    """Candidates, where they are few."""
    most: int = 300
    """Detections."""
    per_image: int = 2
    """Detections of a category in an image that AP-Fixed counts on average, once thresholds are
    there: 10,000 over the 5,000 images of LVIS v0.5."""


LVIS = Size()


def measure(setting: Setting, size: Size = LVIS) -> list[Row]:
    """The best detections of a million candidates and of ten thousand; and all that AP-Fixed
    counts, after thousands of images and in the first ones, which have no thresholds yet."""
    from mmdet.models.layers import multiclass_nms

    boxes, probabilities = (tensor.to(setting.device) for tensor in _scores(size))
    foreground = probabilities[:, :-1].flatten()
    # The same scores: only how many of them are candidates differs, not which are the best.
    raised = foreground.topk(size.few + 1).values[-1].item()

    def ours(threshold: float) -> None:
        top_detections(boxes, probabilities, threshold, IOU, size.most)

    def theirs() -> None:
        how = {"type": "nms", "iou_threshold": IOU}
        multiclass_nms(boxes, probabilities, THRESHOLD, how, size.most)

    nowhere = boxes.new_full((size.categories,), -math.inf)
    steady = _thresholds(boxes, probabilities, size)

    def unlimited(lowest: Tensor) -> None:
        ranked_detections(boxes, probabilities, THRESHOLD, IOU, size.most, lowest)

    repeat = 30 if setting.repeat is None else setting.repeat
    many, few, fixed = in_turns(
        [lambda: ours(THRESHOLD), lambda: ours(raised), lambda: unlimited(steady)],
        repeat,
        5,
        setting.device,
    )
    first = in_turns([lambda: unlimited(nowhere)], 1, 0, setting.device)[0]  # takes seconds
    beside = in_turns([theirs], 1, 0, setting.device)[0]  # takes many seconds
    count = int((foreground > THRESHOLD).sum())
    what = f"{count:,} candidates"
    return [
        Row("postprocess_flat", what, many, f"{size.few:,} candidates", few, 1.1),
        Row("postprocess", what, many, "multiclass_nms", beside, 0.1),
        Row("postprocess_fixed", "all for AP-Fixed", fixed, f"the best {size.most}", many, 1.5),
        Row("postprocess_first", "no threshold", first, f"the best {size.most}", many, None),
    ]


def _thresholds(boxes: Tensor, probabilities: Tensor, size: Size) -> Tensor:
    """Scores (C,) that as many detections of each category exceed as count on average."""
    nowhere = boxes.new_full((size.categories,), -math.inf)
    best, rest = ranked_detections(boxes, probabilities, THRESHOLD, IOU, size.most, nowhere)
    scores, labels = (torch.cat([best[n].cpu(), rest[n].cpu()]) for n in (1, 2))
    lowest = nowhere.cpu()
    for label in range(size.categories):
        own = scores[labels == label].sort(descending=True).values
        if len(own) > size.per_image:
            lowest[label] = own[size.per_image]
    return lowest.to(boxes.device)


def _scores(size: Size) -> tuple[Tensor, Tensor]:
    """Boxes (N, C * 4) around some objects, and probabilities (N, C + 1).

    At the default size 94 in 100 are above `THRESHOLD`.
    """
    draw = torch.Generator().manual_seed(0)
    image = torch.tensor([1333.0, 800.0])
    centres = torch.rand(size.regions // 8 + 1, 2, generator=draw) * image
    owner = torch.randint(len(centres), (size.regions,), generator=draw)
    shift = 20 * torch.randn(size.regions, size.categories, 2, generator=draw)
    sides = 50 + 100 * torch.rand(size.regions, size.categories, 2, generator=draw)
    corners = centres[owner][:, None] + shift
    boxes = torch.cat([corners - sides / 2, corners + sides / 2], dim=2)
    boxes = boxes.clamp_min(0).minimum(image.repeat(2))
    logits = 1.5 * torch.randn(size.regions, size.categories + 1, generator=draw) - 6.9
    return boxes.view(size.regions, -1), fcbl.probabilities(logits)
