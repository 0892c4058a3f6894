"""Steps of training pipelines that MMDetection lacks or implements differently from the released
code."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import Pad
from mmdet.registry import TRANSFORMS
from mmengine.registry import DefaultScope


@TRANSFORMS.register_module()
class RequireBoxes(BaseTransform):
    """Reject a sample without boxes to train on by returning None, so that the dataset replaces it.
    Crowds do not count as boxes."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        return None if results["gt_ignore_flags"].all() else results


@TRANSFORMS.register_module()
class RoundImage(BaseTransform):
    """Make whole numbers of 0 to 255 of an image's values, as those of a file's are."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        results["img"] = results["img"].round().clip(0, 255).astype(np.uint8)
        return results


def check(step: dict[str, Any]) -> str | None:
    """Why MMDetection cannot make a step of a pipeline, in a sentence; None where it can."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        try:
            TRANSFORMS.build(step)
        except Exception as error:  # each transform has its own
            said = str(error).strip().splitlines()
            reason = f": {said[0]}" if said else ""
            return (
                f"expected options that MMDetection's {step['type']} takes, it refuses them with "
                f"{type(error).__name__}{reason}"
            )
    return None


@TRANSFORMS.register_module()
class PadBehindShape(Pad):
    """Pads image and masks and leaves `img_shape` unchanged.

    Proposals and jittered boxes are clipped to `img_shape`, so they stay inside the image and
    outside its padding, as in the released code. Since version 3, MMDetection's own step includes
    the padding.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        shape = results["img_shape"]
        padded: dict[str, Any] = super().transform(results)
        padded["img_shape"] = shape
        return padded
