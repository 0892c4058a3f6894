"""Checkpoints of torchvision's Faster and Mask R-CNN.

Their background is the first column of the classifier, the box regressor and the mask predictor.
The published ones have 91 columns, by COCO's ids, with gaps.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from bacl.detector.imports.found import Found, Options

PUBLISHED = 90
"""Foreground columns of the published weights."""
BATCH_NORM_EPS = 1e-5

_FPN = {"inner": "lateral_convs", "layer": "fpn_convs"}
_PARTS = (
    # torchvision >= 0.13 has lists of blocks, each a convolution and perhaps its batch norm, where
    # earlier releases have convolutions
    (r"backbone\.body\.(.+)", r"backbone.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.(weight|bias)", r"neck.lateral_convs.\1.conv.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.(weight|bias)", r"neck.fpn_convs.\1.conv.\2"),
    (r"backbone\.fpn\.inner_blocks\.(\d)\.1\.(.+)", r"neck.lateral_convs.\1.bn.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.1\.(.+)", r"neck.fpn_convs.\1.bn.\2"),
    (r"rpn\.head\.conv(?:\.0\.0)?\.(weight|bias)", r"rpn_head.rpn_conv.\1"),
    (r"rpn\.head\.cls_logits\.(.+)", r"rpn_head.rpn_cls.\1"),
    (r"rpn\.head\.bbox_pred\.(.+)", r"rpn_head.rpn_reg.\1"),
    (r"roi_heads\.box_head\.fc6\.(.+)", r"roi_head.bbox_head.shared_fcs.0.\1"),
    (r"roi_heads\.box_head\.fc7\.(.+)", r"roi_head.bbox_head.shared_fcs.1.\1"),
    (r"roi_heads\.box_head\.(\d)\.0\.(.+)", r"roi_head.bbox_head.shared_convs.\1.conv.\2"),
    (r"roi_heads\.box_head\.(\d)\.1\.(.+)", r"roi_head.bbox_head.shared_convs.\1.bn.\2"),
    (r"roi_heads\.box_head\.5\.(weight|bias)", r"roi_head.bbox_head.shared_fcs.0.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"roi_head.bbox_head.fc_cls.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"roi_head.bbox_head.fc_reg.\1"),
    (r"roi_heads\.mask_head\.(\d)\.0\.(.+)", r"roi_head.mask_head.convs.\1.conv.\2"),
    (r"roi_heads\.mask_head\.(\d)\.1\.(.+)", r"roi_head.mask_head.convs.\1.bn.\2"),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.+)", r"roi_head.mask_head.upsample.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.+)", r"roi_head.mask_head.conv_logits.\1"),
)
_OLD_MASK = re.compile(r"roi_heads\.mask_head\.mask_fcn(\d)\.(.+)")
_TWO_CONVS = re.compile(r"rpn\.head\.conv\.(\d)\.0\.(.+)")


def recognises(names: Collection[str], said: bool = False) -> bool:
    """Whether tensors of these names are of such a checkpoint. said: the user says so."""
    return any(name.startswith(("backbone.body.", "backbone.fpn.inner_blocks.")) for name in names)


def read(state: Mapping[str, Tensor], rest: Mapping[str, Any], options: Options) -> Found:
    found = Found()
    deep = "rpn.head.conv.1.0.weight" in state
    for name, value in state.items():
        stock = _named(name, deep)
        if stock is None:
            found.left_out[name] = "no part of a detector of boxes and masks"
        else:
            found.state[stock] = _background_last(stock, value)
    _fix_eps(state, found, options)
    classifier = found.state.get("roi_head.bbox_head.fc_cls.bias")
    if classifier is not None and len(classifier) == PUBLISHED + 1:
        found.categories = published_categories()
    return found


def published_categories() -> list[str]:
    """Names of the foreground columns of the published weights, in their order; those of gaps are
    `N/A`."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

    names: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return names[1:]


def _named(name: str, deep: bool) -> str | None:
    """MMDetection's name of a tensor; None where it has none. deep: the RPN has two
    convolutions."""
    if deep and (match := _TWO_CONVS.fullmatch(name)):
        return f"rpn_head.rpn_conv.{match[1]}.conv.{match[2]}"
    if match := _OLD_MASK.fullmatch(name):
        return f"roi_head.mask_head.convs.{int(match[1]) - 1}.conv.{match[2]}"
    for theirs, ours in _PARTS:
        if match := re.fullmatch(theirs, name):
            return match.expand(ours)
    return None


def _background_last(name: str, value: Tensor) -> Tensor:
    """A tensor with the background's rows behind the categories', or away where MMDetection has
    none."""
    if ".fc_cls." in name:
        return torch.cat([value[1:], value[:1]])
    if ".fc_reg." in name:
        return value[4:]
    return value[1:] if ".conv_logits." in name else value


def _fix_eps(state: Mapping[str, Tensor], found: Found, options: Options) -> None:
    """Put eps into the variances of frozen batch norms.

    The configurations here have an eps of 0, as the published weights of the first generation do; a
    detector trained from an ImageNet backbone has 1e-5. Layers that are not frozen count their
    batches, and have 1e-5 always.
    """
    eps = options.norm_eps
    counts = any(name.endswith("num_batches_tracked") for name in state)
    if eps is None:
        eps = BATCH_NORM_EPS if counts else 0.0
    for name in list(found.state):
        if name.startswith("backbone.") and name.endswith("running_var"):
            found.state[name] = found.state[name] + eps
    remark = f"the backbone's batch norms have an eps of {eps:g}"
    if not counts and options.norm_eps is None:
        remark += (
            ", which is that of the published weights: a detector that was trained from a backbone "
            "of ImageNet needs `norm_eps: 1.0e-5`"
        )
    found.remarks.append(remark)
