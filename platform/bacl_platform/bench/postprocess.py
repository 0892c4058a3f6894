"""From boxes and scores to detections, beside MMDetection's function, and whole inference.

N regions, C categories.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl import fcbl
from bacl.config import stage_config
from bacl.method_settings import Variant
from bacl.postprocess import top_detections
from bacl.settings import BACL, Detector, Recipe, Schedule, Softmax
from bacl_platform.bench.detector import CATEGORIES, R50, build
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.standin import stand_in

IOU = 0.5
THRESHOLD = 1e-4
LIKELY = 10
"""Categories that a softmax classifier gives more than the threshold, in every region."""


@dataclass(frozen=True)
class Size:
    """How much there is to look through; the defaults are LVIS v1.0 at the paper's settings."""

    regions: int = 1000
    categories: int = CATEGORIES
    few: int = 10_000
    """Candidates, where they are few."""
    most: int = 300
    """Detections."""


LVIS = Size()


def postprocess(setting: Setting, size: Size = LVIS, detector: Detector = R50) -> list[Row]:
    """The best detections of a million candidates and of ten thousand, and whole inference."""
    return [*_candidates(setting, size), _inference(setting, detector)]


def _candidates(setting: Setting, size: Size) -> list[Row]:
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

    repeat = 30 if setting.repeat is None else setting.repeat
    many, few = in_turns([lambda: ours(THRESHOLD), lambda: ours(raised)], repeat, 5, setting.device)
    beside = in_turns([theirs], 1, 0, setting.device)[0]  # takes many seconds
    count = int((foreground > THRESHOLD).sum())
    what = f"{count:,} candidates"
    return [
        Row("postprocess_flat", what, many, f"{size.few:,} candidates", few, 1.1),
        Row("postprocess", what, many, "multiclass_nms", beside, 0.1),
    ]


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


def _inference(setting: Setting, detector: Detector) -> Row:
    """A detector with BACL, all of whose scores are candidates, beside one with softmax.

    A trained softmax classifier gives a region to few categories; its stand-in to `LIKELY`.
    """
    balanced = _detector(BACL(method="bacl"), setting, detector)
    plain = _detector(Softmax(method="softmax"), setting, detector)
    head: Any = plain.roi_head.bbox_head  # type: ignore[union-attr]
    with torch.no_grad():
        head.variants["variant"].fc_cls.bias[LIKELY:-1] = -20
    batch = _batch(setting)

    def step(model: Any) -> None:
        with torch.no_grad():
            model.test_step(copy.deepcopy(batch))

    repeat = 5 if setting.repeat is None else setting.repeat
    ours, theirs = in_turns(
        [lambda: step(balanced), lambda: step(plain)], repeat, 1, setting.device
    )
    what = f"BACL, {'x'.join(map(str, setting.image))}"
    return Row("inference", what, ours, "softmax", theirs, 1.1)


def _detector(variant: Variant, setting: Setting, detector: Detector) -> nn.Module:
    """A bank of one variant, ready for inference."""
    config = stage_config(
        detector,
        stand_in(CATEGORIES),
        Path("-"),
        Recipe(schedule=Schedule(iterations=1)),
        {"variant": variant},
        [],
        0,
        workers=1,
    )
    torch.manual_seed(0)
    return build(config["model"]).to(setting.device).eval()


def _batch(setting: Setting) -> dict[str, list[Any]]:
    """One image of noise, as a test pipeline hands it on."""
    from mmdet.structures import DetDataSample

    draw = torch.Generator().manual_seed(0)
    facts = {"img_shape": setting.image, "ori_shape": setting.image, "scale_factor": (1.0, 1.0)}
    image = torch.randint(256, (3, *setting.image), generator=draw, dtype=torch.uint8)
    return {"inputs": [image], "data_samples": [DetDataSample(metainfo=facts)]}
