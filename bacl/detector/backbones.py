"""Backbones that MMDetection lacks: torchvision's ConvNeXt, and any network of timm's that gives
features at strides 4, 8, 16 and 32.

timm is an optional package, `pip install 'bacl[timm]'`.
"""

from collections.abc import Collection
from typing import Any

import torchvision
from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from bacl.detector.timm_networks import create


@MODELS.register_module()
class ConvNeXt(BaseModule):
    """torchvision's ConvNeXt of a size, `tiny`, `small` or `base`, under torchvision's names, and a
    layer norm after each of its four levels, as detectors with it have."""

    def __init__(self, size: str, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        network = getattr(torchvision.models, f"convnext_{size}")()
        self.features = network.features
        channels = [stage[-1].block[0].in_channels for stage in self.features[1::2]]
        self.norms = nn.ModuleList([LayerNorm2d(width, eps=1e-6) for width in channels])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of images (B, 3, H, W) at strides 4, 8, 16 and 32."""
        found = []
        for number, stage in enumerate(self.features):
            x = stage(x)
            if number % 2:  # between stages are layers that halve the size
                found.append(self.norms[number // 2](x))
        return tuple(found)


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """A network of timm's by its name, as features at strides 4, 8, 16 and 32.

    Batch norms stay in evaluation mode. Weights are taken under timm's own names.
    """

    def __init__(self, name: str, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.net: Any = create(name)
        own = set(self.net.state_dict())
        self._register_load_state_dict_pre_hook(
            lambda state, prefix, *_: _rename(state, prefix, own)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Features of images (B, 3, H, W), channels first."""
        widths = self.net.feature_info.channels()
        return tuple(
            level if level.size(1) == width else level.permute(0, 3, 1, 2).contiguous()
            for level, width in zip(self.net(x), widths, strict=True)
        )

    def train(self, mode: bool = True) -> "TimmBackbone":
        super().train(mode)
        for module in self.net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self


def _rename(state: dict[str, Any], prefix: str, own: Collection[str]) -> None:
    """Give weights under timm's names, in place, those of a `TimmBackbone`."""
    foreign = {
        name: value
        for name, value in state.items()
        if name.startswith(prefix) and not name.startswith(f"{prefix}net.")
    }
    for name, value in foreign.items():
        if (there := flattened(name.removeprefix(prefix), own)) in own:
            state[f"{prefix}net.{there}"] = value
            del state[name]


def flattened(name: str, own: Collection[str]) -> str:
    """The name that a network of features has for a parameter of the whole network: timm flattens
    outer sequences, `stages.0.blocks` to `stages_0.blocks`."""
    joined = name.replace(".", "_", 1)
    return joined if joined in own and name not in own else name
