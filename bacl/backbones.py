"""Table of the backbones that the setting `detector.backbone` may name.

This module does not import torch, because `bacl.settings`, which reads the names, must load
quickly.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Backbone:
    """A backbone of four levels, each with twice the channels of the one before."""

    config: dict[str, Any]
    """MMDetection's configuration, without weights."""
    channels: int
    """Channels of the first level."""
    torchvision: bool = False
    """Whether torchvision has ImageNet weights, by the backbone's name."""
    other_weights: str = "give a file"
    """Advice for the error message on how to get weights where torchvision has none."""


def _resnet(depth: int) -> Backbone:
    config = {
        "type": "ResNet",
        "depth": depth,
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "frozen_stages": 1,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "norm_eval": True,
        "style": "pytorch",
    }
    return Backbone(config, channels=256, torchvision=True)


BACKBONES = {
    "tiny": Backbone(
        {
            "type": "ResNet",
            "depth": 18,
            "base_channels": 16,
            "out_indices": (0, 1, 2, 3),
            "norm_cfg": {"type": "GN", "num_groups": 8},
        },
        channels=16,
        other_weights="none exist",
    ),
    "resnet50": _resnet(50),
    "resnet101": _resnet(101),
    "swin_t": Backbone(
        {
            "type": "SwinTransformer",
            "embed_dims": 96,
            "depths": [2, 2, 6, 2],
            "num_heads": [3, 6, 12, 24],
            "window_size": 7,
            "drop_path_rate": 0.2,
            "out_indices": (0, 1, 2, 3),
            "convert_weights": True,
        },
        channels=96,
        other_weights="give a file in Swin's own format",
    ),
}
