"""Anchors as torchvision's detectors place them."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.task_modules import AnchorGenerator
from mmdet.registry import TASK_UTILS
from torch import Tensor


@TASK_UTILS.register_module()
class TorchvisionAnchorGenerator(AnchorGenerator):
    """Anchors of whole pixels, at distances that divide the image.

    The distance on a pyramid level is the padded image's side over the level's, rounded down, which
    is less than the level's stride where the stride does not divide the side. The finest level does
    divide it.
    """

    strides: list[tuple[int, int]]

    def gen_single_level_base_anchors(self, *args: Any, **kwargs: Any) -> Tensor:
        anchors: Tensor = super().gen_single_level_base_anchors(*args, **kwargs)
        return anchors.round()

    def grid_priors(
        self,
        featmap_sizes: Sequence[tuple[int, int]],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cuda",
    ) -> list[Tensor]:
        finest = self.strides[0]
        sides = [featmap_sizes[0][1] * finest[0], featmap_sizes[0][0] * finest[1]]
        strides = self.strides
        try:
            self.strides = [
                (sides[0] // width, sides[1] // height) for height, width in featmap_sizes
            ]
            found: list[Tensor] = super().grid_priors(featmap_sizes, dtype, device)
        finally:
            self.strides = strides
        return found
