"""Steps of training pipelines that MMDetection lacks or implements differently from the released
code."""

from typing import Any

from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import Pad
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RequireBoxes(BaseTransform):
    """Reject a sample without boxes to train on by returning None, so that the dataset replaces it.
    Crowds do not count as boxes."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        return None if results["gt_ignore_flags"].all() else results


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
