"""A pass over an image with eight corrections of a variant, as evaluation makes it, beside the pass
with the variant alone.

The detector is R50-FPN over LVIS v1.0's 1203 categories, with random weights: the classifier's are
drawn wide, so that scores are as far apart as a trained one's.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl.config import bank_heads, corrections_config, stage_config
from bacl.method_settings.corrections import Correction, LogitAdjustment, NorCal, Temperature
from bacl.method_settings.paper import Softmax
from bacl.settings import Detector
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.bench.training import CATEGORIES, R50, RECIPE, build
from bacl_platform.tools.stand_in import stand_in

LIMIT = 1.15
SPREAD = 0.1
"""Deviation of the classifier's weights."""
CORRECTIONS: dict[str, Correction] = {
    **{
        f"norcal_{tenths}": NorCal(method="norcal", of="softmax", gamma=tenths / 10)
        for tenths in (2, 4, 6, 8, 10)
    },
    **{
        f"adjusted_{tenths}": LogitAdjustment(
            method="logit_adjustment", of="softmax", tau=tenths / 10
        )
        for tenths in (5, 10)
    },
    "tempered": Temperature(method="temperature", of="softmax", temperatures=[0.8, 1.0, 1.2]),
}


def measure(setting: Setting, detector: Detector = R50) -> list[Row]:
    """Time of an image of the setting's size, in each pass."""
    one, eight = detectors(detector, setting.device)
    height, width = setting.image
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=draw)

    def passes(model: Any) -> None:
        with torch.no_grad():
            model.test_step(_batch(pixels))

    repeat = 5 if setting.repeat is None else setting.repeat
    ours, theirs = in_turns([lambda: passes(eight), lambda: passes(one)], repeat, 1, setting.device)
    what = f"an image of {width}x{height}, {len(CORRECTIONS)} corrections of softmax"
    return [Row("corrections", what, ours, "softmax alone", theirs, LIMIT)]


def detectors(detector: Detector, device: str) -> tuple[Any, Any]:
    """A bank of softmax alone, and one of its corrections, with the same weights."""
    prepared = stand_in(CATEGORIES)
    variants = {"softmax": Softmax(method="softmax")}
    trained = stage_config(detector, prepared, Path("-"), RECIPE, variants, [], 0, workers=1)
    corrected = corrections_config(trained, prepared, RECIPE, CORRECTIONS, None)
    torch.manual_seed(0)
    one: Any = build(trained["model"])
    eight: Any = build(corrected["model"])
    base = one.roi_head.bbox_head.variants["softmax"]
    nn.init.normal_(base.fc_cls.weight, std=SPREAD)
    eight.load_state_dict(one.state_dict(), strict=False)
    for variant in eight.roi_head.bbox_head.variants.values():
        variant.base.load_state_dict(base.state_dict())
    assert list(bank_heads(corrected)[0]["variants"]) == list(CORRECTIONS)
    return one.to(device).eval(), eight.to(device).eval()


def _batch(pixels: torch.Tensor) -> dict[str, list[object]]:
    """A batch of one image (3, H, W), as a loader hands it over."""
    from mmdet.structures import DetDataSample

    size = tuple(pixels.shape[1:])
    sample = DetDataSample(
        metainfo={
            "img_id": 0,
            "img_shape": size,
            "ori_shape": size,
            "scale_factor": (1.0, 1.0),
        }
    )
    return {"inputs": [pixels], "data_samples": [sample]}
