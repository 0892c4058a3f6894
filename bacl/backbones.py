"""Table of the backbones that the setting `detector.backbone` may name.

This module does not import torch, because `bacl.settings`, which reads the names, must load
quickly.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Backbone:
    """A backbone of four levels."""

    config: dict[str, Any]
    """MMDetection's configuration, without weights."""
    channels: tuple[int, int, int, int]
    """Channels of each level."""
    parameter: str = ""
    """A parameter by which files of its weights are recognised, of a backbone that converts them
    from another form; those of others are compared with the network."""
    torchvision: str = ""
    """Name of torchvision's ImageNet weights, as MMEngine knows it; empty where it has none."""
    other_weights: str = "give a file"
    """Advice for the error message on how to get weights where torchvision has none."""


_IN_RESNETS = "layer1.0.conv1.weight"


def _resnet(depth: int, weights: str, **more: Any) -> Backbone:
    config = {
        "type": "ResNet",
        "depth": depth,
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "frozen_stages": 1,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "norm_eval": True,
        "style": "pytorch",
        **more,
    }
    return Backbone(config, _doubling(256), _IN_RESNETS, torchvision=weights)


def _swin(width: int, heads: int, blocks: int, drop_path: float) -> Backbone:
    config = {
        "type": "SwinTransformer",
        "embed_dims": width,
        "depths": [2, 2, blocks, 2],
        "num_heads": [heads, 2 * heads, 4 * heads, 8 * heads],
        "window_size": 7,
        "drop_path_rate": drop_path,
        "out_indices": (0, 1, 2, 3),
        "convert_weights": True,
    }
    return Backbone(
        config,
        _doubling(width),
        "layers.0.blocks.0.attn.qkv.weight",
        other_weights="give a file in Swin's own format",
    )


def _convnext(size: str, width: int) -> Backbone:
    config = {"type": "ConvNeXt", "size": size}
    return Backbone(config, _doubling(width), torchvision=f"convnext_{size}.imagenet1k_v1")


def _doubling(channels: int) -> tuple[int, int, int, int]:
    """Channels of levels each of which has twice those of the one before."""
    return channels, 2 * channels, 4 * channels, 8 * channels


BACKBONES = {
    "tiny": Backbone(
        {
            "type": "ResNet",
            "depth": 18,
            "base_channels": 16,
            "out_indices": (0, 1, 2, 3),
            "norm_cfg": {"type": "GN", "num_groups": 8},
        },
        _doubling(16),
        _IN_RESNETS,
        other_weights="none exist",
    ),
    "resnet50": _resnet(50, "resnet50"),
    "resnet101": _resnet(101, "resnet101"),
    "resnext101": _resnet(101, "resnext101_32x8d", type="ResNeXt", groups=32, base_width=8),
    "swin_t": _swin(96, 3, blocks=6, drop_path=0.2),
    "swin_s": _swin(96, 3, blocks=18, drop_path=0.2),
    "swin_b": _swin(128, 4, blocks=18, drop_path=0.3),
    "convnext_t": _convnext("tiny", 96),
    "convnext_s": _convnext("small", 96),
    "convnext_b": _convnext("base", 128),
    "mobilenet_v2": Backbone(
        {
            "type": "MobileNetV2",
            "out_indices": (1, 2, 4, 7),
            "frozen_stages": 1,
            "norm_cfg": {"type": "BN", "requires_grad": True},
            "norm_eval": True,
        },
        (24, 32, 96, 1280),
        "layer1.0.depthwise_conv.conv.weight",
        other_weights="give a file with MMDetection's names",
    ),
}
