"""Layers of RoI features that variants read, the same in training, at test and in exported
detectors."""

from collections.abc import Mapping, Sequence

import torch
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from torch import Tensor

from bacl.variants import LAYERS, Variant


def layers(head: ConvFCBBoxHead, pooled: Tensor) -> dict[str, Tensor]:
    """The layers in LAYERS, each (N, its width), of pooled RoI features (N, channels, height,
    width)."""
    features = [pooled.flatten(1)]
    for fc in head.shared_fcs:
        features.append(head.relu(fc(features[-1])))
    return dict(zip(LAYERS, features, strict=True))


def read(found: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """The layers named by `names`, concatenated along the width."""
    parts = [found[name] for name in names]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def passed(
    head: ConvFCBBoxHead, pooled: Tensor, variants: Sequence[Variant]
) -> tuple[dict[str, Tensor], Tensor]:
    """Layers and box deltas of pooled RoI features that pass a box head once, or several times if
    the only variant has several `passes`; the variant then reads the layers of all passes."""
    found = layers(head, pooled)
    deltas: Tensor = head.fc_reg(found["fc2"])
    refining = [variant for variant in variants if variant.passes > 1]
    if not refining:
        return found, deltas
    (variant,) = refining
    all_passes = [found]
    for _ in range(variant.passes - 1):
        pooled = variant.refine(pooled, read(found, variant.reads), deltas)
        found = layers(head, pooled)
        deltas = head.fc_reg(found["fc2"])
        all_passes.append(found)
    return {n: torch.cat([one[n] for one in all_passes], dim=1) for n in variant.reads}, deltas
