"""Layers of RoI features that variants and the box regressor read, the same in training, at test
and in exported detectors."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from mmdet.models.roi_heads.bbox_heads import BBoxHead, ConvFCBBoxHead
from torch import Tensor, nn

from bacl.variants import Variant

_BRANCHES = ("shared_convs", "shared_fcs", "cls_convs", "cls_fcs", "reg_convs", "reg_fcs")


class ConvFCs(ConvFCBBoxHead):
    """MMDetection's box head of any number of convolutions and FCs: two shared FCs unless options
    say otherwise, or none at all, as `BBoxHead`, which pools what it is given."""

    def __init__(self, num_shared_fcs: int = 2, **options: Any) -> None:
        counts = [num_shared_fcs, *(options.get(f"num_{branch}", 0) for branch in _BRANCHES)]
        if any(counts):
            super().__init__(num_shared_fcs=num_shared_fcs, **options)
            return
        BBoxHead.__init__(self, **options)
        for branch in _BRANCHES:
            setattr(self, f"num_{branch}", 0)
            setattr(self, branch, nn.ModuleList())
        width = self.in_channels * (1 if self.with_avg_pool else self.roi_feat_area)
        self.shared_out_channels = self.in_channels
        self.cls_last_dim = self.reg_last_dim = width
        self.relu = nn.ReLU(inplace=True)


def layer_modules(head: ConvFCBBoxHead) -> list[nn.Module]:
    """What makes the layers, and what the regressor reads."""
    return [layer for name in _BRANCHES for layer in getattr(head, name)]


def layers(head: ConvFCBBoxHead, pooled: Tensor) -> dict[str, Tensor]:
    """The layers in LAYERS, each (N, its width), of pooled RoI features (N, channels, height,
    width). Heads without two shared FCs have no `fc1`; `fc2` is h, what `fc_cls` reads, of any."""
    return _branches(head, pooled)[0]


def _branches(head: ConvFCBBoxHead, pooled: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The layers, and what the regressor reads."""
    x, fcs = pooled, []
    for convolution in head.shared_convs:
        x = convolution(x)
    if len(head.shared_fcs):
        x = _flat(head, x)
        for fc in head.shared_fcs:
            x = head.relu(fc(x))
            fcs.append(x)
    of_classifier = _branch(head, x, head.cls_convs, head.cls_fcs, fcs)
    own = len(head.reg_convs) or len(head.reg_fcs)
    of_regressor = _branch(head, x, head.reg_convs, head.reg_fcs, []) if own else of_classifier
    if own == 0 and (len(head.cls_convs) or len(head.cls_fcs)):
        of_regressor = _branch(head, x, (), (), [])
    found = {"pooled": pooled.flatten(1), "fc2": of_classifier}
    if len(fcs) == 2:
        found["fc1"] = fcs[0]
    return found, of_regressor


def _branch(
    head: ConvFCBBoxHead,
    x: Tensor,
    convolutions: Iterable[nn.Module],
    fcs: Iterable[nn.Module],
    passed_fcs: list[Tensor],
) -> Tensor:
    """What a branch of a box head makes of the shared layers' output; adds what each of its FCs
    makes to `passed_fcs`."""
    for convolution in convolutions:
        x = convolution(x)
    if x.dim() > 2:
        x = _flat(head, x)
    for fc in fcs:
        x = head.relu(fc(x))
        passed_fcs.append(x)
    return x


def _flat(head: ConvFCBBoxHead, x: Tensor) -> Tensor:
    return (head.avg_pool(x) if head.with_avg_pool else x).flatten(1)


def read(found: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """The layers named by `names`, concatenated along the width."""
    parts = [found[name] for name in names]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def passed(
    head: ConvFCBBoxHead, pooled: Tensor, variants: Sequence[Variant]
) -> tuple[dict[str, Tensor], Tensor]:
    """Layers and box deltas of pooled RoI features that pass a box head once, or several times if
    the only variant has several `passes`; the variant then reads the layers of all passes."""
    found, of_regressor = _branches(head, pooled)
    deltas: Tensor = head.fc_reg(of_regressor)
    refining = [variant for variant in variants if variant.passes > 1]
    if not refining:
        return found, deltas
    (variant,) = refining
    all_passes = [found]
    for _ in range(variant.passes - 1):
        pooled = variant.refine(pooled, read(found, variant.reads), deltas)
        found, of_regressor = _branches(head, pooled)
        deltas = head.fc_reg(of_regressor)
        all_passes.append(found)
    return {n: torch.cat([one[n] for one in all_passes], dim=1) for n in variant.reads}, deltas
