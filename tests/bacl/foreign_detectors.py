"""Detectors of other projects with weights that detect things, and banks that take them in."""

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
