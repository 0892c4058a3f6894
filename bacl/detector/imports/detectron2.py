"""Checkpoints of detectron2's Faster, Mask and Cascade R-CNN with FPN.

Background, order of anchors and of box deltas are as in MMDetection. Images are BGR, mostly with
the statistics of Caffe, so the configurations are those called `caffe`.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from bacl.detector.imports.found import Found, Options

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_BLOCK = r"backbone\.bottom_up\.res(\d)\.(\d+)\."
_HEAD = r"roi_heads\.box_(?:head|predictor)\.((?:\d\.)?)"
_ANCHORS = "of anchors, which the configuration says"


def recognises(names: Collection[str], said: bool = False) -> bool:
    """Whether tensors of these names are of such a checkpoint. said: the user says so."""
    return any(
        name.startswith(("backbone.bottom_up.", "proposal_generator.rpn_head.")) for name in names
    )


def read(state: Mapping[str, Tensor], rest: Mapping[str, Any], _: Options) -> Found:
    found = Found()
    for name, value in state.items():
        if name in ("pixel_mean", "pixel_std"):
            continue
        stock = _named(name, state)
        if stock is None:
            anchors = "anchor_generator" in name
            found.left_out[name] = _ANCHORS if anchors else "no part of a detector known here"
        else:
            found.state[stock] = value
    _repeat_mask_head(found)
    if "pixel_mean" in state and "pixel_std" in state:
        mean, std = (state[name].flatten().tolist() for name in ("pixel_mean", "pixel_std"))
        found.pixels = mean, std
    return found


def _named(name: str, state: Mapping[str, Tensor]) -> str | None:
    """MMDetection's name of a tensor; None where it has none."""
    if match := re.fullmatch(r"backbone\.bottom_up\.stem\.conv1\.(norm\.)?(.+)", name):
        return f"backbone.{'bn1' if match[1] else 'conv1'}.{match[2]}"
    if match := re.fullmatch(rf"{_BLOCK}conv(\d)\.(norm\.)?{_NORM}", name):
        part = f"{'bn' if match[4] else 'conv'}{match[3]}"
        return f"backbone.layer{int(match[1]) - 1}.{match[2]}.{part}.{match[5]}"
    if match := re.fullmatch(rf"{_BLOCK}shortcut\.(norm\.)?{_NORM}", name):
        part = f"downsample.{1 if match[3] else 0}"
        return f"backbone.layer{int(match[1]) - 1}.{match[2]}.{part}.{match[4]}"
    if match := re.fullmatch(rf"backbone\.fpn_(lateral|output)(\d)\.(norm\.)?{_NORM}", name):
        convs = "lateral_convs" if match[1] == "lateral" else "fpn_convs"
        part = _layer(name, bool(match[3]), state)
        return f"neck.{convs}.{int(match[2]) - 2}.{part}.{match[4]}"
    if match := re.fullmatch(r"proposal_generator\.rpn_head\.(\w+)\.(weight|bias)", name):
        parts = {"conv": "rpn_conv", "objectness_logits": "rpn_cls", "anchor_deltas": "rpn_reg"}
        part = parts.get(match[1], "")
        return f"rpn_head.{part}.{match[2]}" if part else None
    if match := re.fullmatch(rf"{_HEAD}(fc|conv)(\d)\.(norm\.)?{_NORM}", name):
        number = int(match[3]) - 1
        if match[2] == "fc":
            return f"roi_head.bbox_head.{match[1]}shared_fcs.{number}.{match[5]}"
        part = _layer(name, bool(match[4]), state)
        return f"roi_head.bbox_head.{match[1]}shared_convs.{number}.{part}.{match[5]}"
    if match := re.fullmatch(rf"{_HEAD}(cls_score|bbox_pred)\.(weight|bias)", name):
        part = "fc_cls" if match[2] == "cls_score" else "fc_reg"
        return f"roi_head.bbox_head.{match[1]}{part}.{match[3]}"
    if match := re.fullmatch(rf"roi_heads\.mask_head\.mask_fcn(\d)\.(norm\.)?{_NORM}", name):
        part = _layer(name, bool(match[2]), state)
        return f"roi_head.mask_head.convs.{int(match[1]) - 1}.{part}.{match[3]}"
    if match := re.fullmatch(r"roi_heads\.mask_head\.(deconv|predictor)\.(weight|bias)", name):
        part = "upsample" if match[1] == "deconv" else "conv_logits"
        return f"roi_head.mask_head.{part}.{match[2]}"
    return None


def _layer(name: str, norm: bool, state: Mapping[str, Tensor]) -> str:
    """What MMDetection calls the layer of a convolution module: its convolution, or its norm, by
    its kind."""
    if not norm:
        return "conv"
    return "bn" if f"{name.rsplit('.', 1)[0]}.running_mean" in state else "gn"


def _repeat_mask_head(found: Found) -> None:
    """Give each stage of a cascade the only mask head: MMDetection averages the masks of all."""
    stages = {
        match[1]
        for name in found.state
        if (match := re.match(r"roi_head\.bbox_head\.(\d)\.", name))
    }
    masks = {name: value for name, value in found.state.items() if ".mask_head." in name}
    if not stages or not masks:
        return
    for name, value in masks.items():
        del found.state[name]
        part = name.removeprefix("roi_head.mask_head.")
        found.state |= {f"roi_head.mask_head.{stage}.{part}": value for stage in sorted(stages)}
    found.remarks.append("the only mask head is that of every stage of the cascade")
