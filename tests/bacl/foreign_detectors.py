"""Detectors of other projects with weights that detect things, and banks that take them in."""

from pathlib import Path

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
import mmdet
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.config import Config

import bacl
from bacl.detector.imports.fitting import take

register_all_modules(init_default_scope=True)

CONFIGS = Path(bacl.__file__).parent / "detector" / "configs"
ZOO = Path(mmdet.__file__).parent / ".mim" / "configs"


def banked(name, categories, proposals, variant="detector", settings=None):
    """A bank of one variant over a detector of BACL's configurations, or of a file of the zoo.

    proposals: as many of an image, before and after suppression.
    """
    model = Config.fromfile(ZOO / name if "/" in name else CONFIGS / f"{name}.py").model
    model.backbone.init_cfg = None
    head = model.roi_head.bbox_head
    model.type, model.roi_head.type, head.type = "BankDetector", "BankRoIHead", "BankBBoxHead"
    del head.loss_cls
    head.update(
        variants={variant: settings or {"method": "softmax"}}, seed=0, num_classes=categories
    )
    if "mask_head" in model.roi_head:
        model.roi_head.mask_head.num_classes = categories
    model.test_cfg.rpn.update(nms_pre=proposals, max_per_img=proposals)
    return MODELS.build(model).eval()


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
