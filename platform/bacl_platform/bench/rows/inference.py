"""Inference of whole detectors on one image: BACL beside softmax, a bank beside one variant."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl.config import stage_config
from bacl.method_settings.paper import BACL, Softmax
from bacl.method_settings.registry import Variant
from bacl.settings import Detector
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.bench.training import CATEGORIES, R50, RECIPE, build
from bacl_platform.tools.stand_in import stand_in

LIKELY = 10
"""Categories that a softmax classifier gives more than the threshold, in every region."""


def measure(setting: Setting, detector: Detector = R50) -> list[Row]:
    """A detector with BACL, all of whose scores are candidates, beside one with softmax; and with
    8 BACL variants beside one.

    A trained softmax classifier gives a region to few categories; its stand-in to `LIKELY`.
    """
    one, eight = (
        _detector({f"bacl{n}": BACL(method="bacl") for n in range(count)}, setting, detector)
        for count in (1, 8)
    )
    plain = _detector({"softmax": Softmax(method="softmax")}, setting, detector)
    head: Any = plain.roi_head.bbox_head  # type: ignore[union-attr]
    with torch.no_grad():
        head.variants["softmax"].fc_cls.bias[LIKELY:-1] = -20
    batch = _batch(setting)

    def step(model: Any) -> None:
        with torch.no_grad():
            model.test_step(copy.deepcopy(batch))

    repeat = 5 if setting.repeat is None else setting.repeat
    steps = [lambda: step(one), lambda: step(plain), lambda: step(eight)]
    ours, theirs, bank = in_turns(steps, repeat, 1, setting.device)
    image = "x".join(map(str, setting.image))
    return [
        Row("inference", f"BACL, {image}", ours, "softmax", theirs, 1.1),
        Row("inference_8", f"8 variants, {image}", bank, "1 variant", ours, None),
    ]


def _detector(variants: Mapping[str, Variant], setting: Setting, detector: Detector) -> nn.Module:
    """A bank, ready for inference."""
    prepared = stand_in(CATEGORIES)
    config = stage_config(detector, prepared, Path("-"), RECIPE, variants, [], 0, workers=1)
    torch.manual_seed(0)
    return build(config["model"]).to(setting.device).eval()


def _batch(setting: Setting) -> dict[str, list[Any]]:
    """One image of noise, as a test pipeline hands it on."""
    from mmdet.structures import DetDataSample

    draw = torch.Generator().manual_seed(0)
    facts = {"img_shape": setting.image, "ori_shape": setting.image, "scale_factor": (1.0, 1.0)}
    image = torch.randint(256, (3, *setting.image), generator=draw, dtype=torch.uint8)
    return {"inputs": [image], "data_samples": [DetDataSample(metainfo=facts)]}
