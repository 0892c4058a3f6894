"""A step over a frozen trunk that is read in bfloat16, channels-last or compiled, beside as it is.

One variant, two images. Also how far what the trunk hands on then is from what it hands on as it
is.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
from mmdet.structures.bbox import bbox2roi

from bacl.detector.layers import layers
from bacl.settings import Detector, Recipe, Trunk
from bacl_platform.bench.measure import Row, Setting, synchronize
from bacl_platform.bench.rows.throughput import IMAGES, tf32, times, with_rate
from bacl_platform.bench.training import R50, RECIPE, Training, batch_of

HALF, COMPILED = Trunk(precision="bfloat16"), Trunk(compile=True)
WAYS: dict[str, dict[str, Any]] = {
    "bfloat16": {"trunk": HALF},
    "channels_last": {"channels_last": True},
    "bfloat16_channels_last": {"trunk": HALF, "channels_last": True},
    "compiled": {"trunk": COMPILED},
}
"""What a recipe says, by name."""
ON_GPU: dict[str, dict[str, Any]] = {
    "all": {"trunk": Trunk(precision="bfloat16", compile=True), "channels_last": True},
    # as the rest is in bfloat16 too
    "bfloat16_throughout": {"precision": "bfloat16"},
    "bfloat16_throughout_channels_last": {"precision": "bfloat16", "channels_last": True},
}


def measure(setting: Setting, detector: Detector = R50) -> list[Row]:
    """Times of a step, and deviations; a first step that compiles takes a minute or more."""
    more = ON_GPU if setting.device == "cuda" else {}
    return [
        row
        for name, recipe in (WAYS | more).items()
        for row in ways(name, recipe, setting, detector)
    ]


def ways(
    name: str, recipe: dict[str, Any], setting: Setting, detector: Detector = R50
) -> Iterator[Row]:
    """A step's time with these fields of the recipe, and how far features are from those without,
    as a part of their norm."""
    other = RECIPE.model_copy(update=recipe)
    with tf32():
        ours, theirs = (_training(setting, detector, one) for one in (other, RECIPE))
        what = "1 variant, frozen trunk"
        if other.trunk and other.trunk.compile:
            began = time.perf_counter()
            ours.step()
            synchronize(setting.device)
            what += f", compiled in {time.perf_counter() - began:.0f} s"
        found = times([ours.step, theirs.step], setting)
        yield Row(f"trunk_{name}", with_rate(what, found[0]), found[0], "as it is", found[1], None)
        away = (_features(ours) - (plain := _features(theirs))).norm() / plain.norm()
    yield Row(
        f"trunk_{name}_away", "features of boxes", away.item(), "their norm", 1.0, None, unit=""
    )


def _training(setting: Setting, detector: Detector, recipe: Recipe) -> Training:
    return Training(1, setting, detector, recipe=recipe, images=IMAGES)


@torch.no_grad()
def _features(training: Training) -> Tensor:
    """What the box head makes of the boxes of a batch, while training reads the trunk."""
    model: Any = training.model
    data = model.data_preprocessor(batch_of(IMAGES, training.setting), training=False)
    half = training.recipe.precision == "bfloat16"
    with (
        model.trunk.read(),
        torch.autocast(training.setting.device, torch.bfloat16 if half else None, enabled=half),
    ):
        x = model.extract_feat(data["inputs"])
        rois = bbox2roi([sample.gt_instances.bboxes for sample in data["data_samples"]])
        pooled = model.roi_head.pooled(model.roi_head.bbox_roi_extractor, x, rois)
        return layers(model.roi_head.bbox_head, pooled)["fc2"].float()
