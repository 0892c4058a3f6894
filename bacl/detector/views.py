"""Test-time augmentation: what a bank detects in several views of an image together."""

from typing import Any

import torch
from mmdet.structures import DetDataSample
from torch import Tensor


def are_several(data: dict[str, Any]) -> bool:
    """Whether a batch has a list for each view, as `TestTimeAug` makes it."""
    inputs: Any = data.get("inputs", ())
    return len(inputs) > 0 and isinstance(inputs[0], list | tuple)


@torch.no_grad()
def detected(model: Any, data: dict[str, Any]) -> list[DetDataSample]:
    """What a bank's detector finds in images of which there are several views.

    Each view passes the detector once, for all variants. The regions of all views, in the original
    image, are then those of one image: scores above the threshold, suppression within a category,
    the best. (MMDetection's DetTTAModel suppresses in each view before, and knows one classifier.)
    """
    head, results = model.heads()[-1], []
    for number in range(len(data["inputs"][0])):
        head.views = []
        try:
            for inputs, samples in zip(data["inputs"], data["data_samples"], strict=True):
                before = len(head.views)
                one = {"inputs": [inputs[number]], "data_samples": [samples[number]]}
                found = model.in_one_view(one)[0]
                if len(head.views) > before and found.get("flip"):
                    boxes, logits = head.views[-1]
                    head.views[-1] = _mirrored(boxes, found.ori_shape[1]), logits
            seen = head.views
        finally:
            head.views = None
        if seen:  # else nothing was proposed in any view, as `found` says
            boxes, logits = (torch.cat(parts) for parts in zip(*seen, strict=True))
            found.pred_instances = head.chosen(boxes, logits, model.test_cfg.rcnn, found.metainfo)
        results.append(found)
    return results


def _mirrored(boxes: Tensor, width: int) -> Tensor:
    """Boxes (N, 4) or (N, C * 4) of a mirrored image, in the image itself."""
    left, top, right, bottom = boxes.view(len(boxes), -1, 4).unbind(dim=2)
    return torch.stack([width - right, top, width - left, bottom], dim=2).view(boxes.shape)
