"""Detectors of other projects with weights that detect things, and banks that take them in."""

import re

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict

from bacl.detector.imports.fitting import take
from bacl.detector.refusals import box_heads
from bacl.detector.two_stage import model_config
from bacl.settings import Detector, Recipe, Schedule

register_all_modules(init_default_scope=True)


def banked(name, categories, proposals, settings=None):
    """A bank of one variant, a plain softmax without `settings`, over the detector of a
    configuration.

    proposals: as many of an image, before and after suppression.
    """
    detector = Detector(
        config=name, test_proposals=proposals, score_threshold=0.05, max_detections=100
    )
    recipe = Recipe(schedule=Schedule(iterations=1))
    model = model_config(detector, recipe, categories, 0)
    for head in box_heads(model["roi_head"]):
        head["variants"] = {"detector": settings or {"method": "softmax"}}
    return MODELS.build(ConfigDict({"type": "BankDetector", **model})).eval()


def taken(model, path, wanted):
    """What a bank takes in of a file: the account."""
    state, account = take(path, model.state_dict(), wanted)
    model.load_state_dict(state, strict=False)
    return account


def detected(model, image):
    """Detections of a bank on an image (3, height, width) of bytes in RGB, as it is."""
    size = tuple(image.shape[1:])
    meta = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
    sample = DetDataSample(metainfo=meta)
    with torch.no_grad():
        return model.test_step({"inputs": [image[[2, 1, 0]]], "data_samples": [sample]})[
            0
        ].pred_instances


def plain(state):
    """A bank's weights under the names of MMDetection's plain detector."""
    return {name.replace("variants.detector.", ""): value for name, value in state.items()}


def detectron2_name(name):
    """detectron2's name of a tensor of MMDetection, as its model zoo has them."""
    rules = [
        (r"backbone\.conv1\.(.*)", r"backbone.bottom_up.stem.conv1.\1"),
        (r"backbone\.bn1\.(.*)", r"backbone.bottom_up.stem.conv1.norm.\1"),
        (r"neck\.lateral_convs\.(\d)\.conv\.(.*)", r"backbone.fpn_lateral{+2}.\2"),
        (r"neck\.fpn_convs\.(\d)\.conv\.(.*)", r"backbone.fpn_output{+2}.\2"),
        (r"rpn_head\.rpn_conv\.(.*)", r"proposal_generator.rpn_head.conv.\1"),
        (r"rpn_head\.rpn_cls\.(.*)", r"proposal_generator.rpn_head.objectness_logits.\1"),
        (r"rpn_head\.rpn_reg\.(.*)", r"proposal_generator.rpn_head.anchor_deltas.\1"),
        (r"roi_head\.bbox_head\.shared_fcs\.(\d)\.(.*)", r"roi_heads.box_head.fc{+1}.\2"),
        (r"roi_head\.bbox_head\.fc_cls\.(.*)", r"roi_heads.box_predictor.cls_score.\1"),
        (r"roi_head\.bbox_head\.fc_reg\.(.*)", r"roi_heads.box_predictor.bbox_pred.\1"),
        (r"roi_head\.mask_head\.convs\.(\d)\.conv\.(.*)", r"roi_heads.mask_head.mask_fcn{+1}.\2"),
        (r"roi_head\.mask_head\.upsample\.(.*)", r"roi_heads.mask_head.deconv.\1"),
        (r"roi_head\.mask_head\.conv_logits\.(.*)", r"roi_heads.mask_head.predictor.\1"),
    ]
    if match := re.fullmatch(r"backbone\.layer(\d)\.(\d+)\.(.*)\.(\w+)", name):
        part = {
            "downsample.0": "shortcut",
            "downsample.1": "shortcut.norm",
            **{f"conv{n}": f"conv{n}" for n in (1, 2, 3)},
            **{f"bn{n}": f"conv{n}.norm" for n in (1, 2, 3)},
        }[match[3]]
        return f"backbone.bottom_up.res{int(match[1]) + 1}.{match[2]}.{part}.{match[4]}"
    for ours, theirs in rules:
        if match := re.fullmatch(ours, name):
            later = re.search(r"\{\+(\d)\}", theirs)
            if later is None:
                return match.expand(theirs)
            number = str(int(match[1]) + int(later[1]))
            return theirs.replace(later[0], number).replace(r"\2", match[2])
    raise AssertionError(name)


def of_detectron2(model):
    """The file that detectron2's trainer would have written of the same detector."""
    state = {
        detectron2_name(name): value
        for name, value in plain(model.state_dict()).items()
        if not name.endswith("num_batches_tracked")  # its frozen batch norm counts none
    }
    mean = torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    state |= {"pixel_mean": mean, "pixel_std": torch.ones(3, 1, 1)}
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    return {"model": state, "optimizer": {"state": {}}, "scheduler": {}, "iteration": 90_000}
