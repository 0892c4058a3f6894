"""Steps of training pipelines that MMDetection lacks or has otherwise than the released code."""

from typing import Any

from mmcv.transforms import BaseTransform
from mmdet.datasets.transforms import Pad
from mmdet.registry import TRANSFORMS


@TRANSFORMS.register_module()
class RequireBoxes(BaseTransform):
    """None for a sample without boxes to train on, so that the dataset replaces it. Crowds are no
    such boxes."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        return None if results["gt_ignore_flags"].all() else results


@TRANSFORMS.register_module()
class PadBehindShape(Pad):
    """Pads image and masks and leaves `img_shape` what it was before.

    Proposals and jittered boxes are clipped at `img_shape`: at the image, not at what is padded to
    it. MMDetection's own step has done otherwise since its version 3, which the release precedes.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        shape = results["img_shape"]
        padded: dict[str, Any] = super().transform(results)
        padded["img_shape"] = shape
        return padded
