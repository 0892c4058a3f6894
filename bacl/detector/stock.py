"""Losses and box heads with which a stock MMDetection detector runs an exported variant, and
quickly.

An exported variant is a stock detector whose `loss_cls` is one of the losses below, because
MMDetection takes the number of columns and the activation from `loss_cls`. Its box head is
MMDetection's with BACL's post-processing.
"""

from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.losses import accuracy
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from bacl import fcbl
from bacl.detector.layers import ConvFCs, passed, read
from bacl.detector.unlimited import HandsOn
from bacl.variants import build_variant

WIDTH = 2
"""Feature width of a variant that is built only to compute probabilities."""


@MODELS.register_module()
class TopKBBoxHead(HandsOn, ConvFCs):
    """MMDetection's box head with the same weights and the same detections, found by
    `bacl.detector.postprocess`."""

    def _predict_by_feat_single(
        self,
        *args: Any,
        img_meta: dict[str, Any],
        rescale: bool = False,
        rcnn_test_cfg: ConfigDict | None = None,
        **kwargs: Any,
    ) -> InstanceData:
        # Without a configuration, MMDetection returns all boxes and scores.
        found = super()._predict_by_feat_single(
            *args, img_meta=img_meta, rescale=rescale, rcnn_test_cfg=None, **kwargs
        )
        if rcnn_test_cfg is None:
            return found
        return self.limited(found.bboxes, found.scores, rcnn_test_cfg, 0, img_meta, rescale)


@MODELS.register_module()
class VariantBBoxHead(TopKBBoxHead):
    """`TopKBBoxHead` whose classifier is a whole variant, which receives the layers that it
    reads."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(the variant's logits (N, K), box deltas) of pooled RoI features."""
        variant = self.fc_cls.variant
        found, deltas = passed(self, x, [variant])
        return variant.logits(read(found, variant.reads)), deltas


@MODELS.register_module()
class SigmoidObjectnessLoss(nn.Module):
    """Eq. (2) as `loss_cls` of a stock head; scores are Eq. (5)'s."""

    custom_cls_channels = True
    custom_activation = True

    def get_cls_channels(self, num_classes: int) -> int:
        return num_classes + 1

    def get_activation(self, cls_score: Tensor) -> Tensor:
        return fcbl.probabilities(cls_score)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"acc": accuracy(fcbl.probabilities(cls_score), labels)}

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        avg_factor: float,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Eq. (2), summed over columns, averaged over samples of weight above 0."""
        kept = label_weights > 0
        loss: Tensor = fcbl.bce(cls_score[kept], labels[kept]).sum()
        return loss / torch.as_tensor(avg_factor)


@MODELS.register_module()
class VariantClassifier(nn.Module):
    """A whole variant as `fc_cls` of a `VariantBBoxHead`."""

    def __init__(
        self, in_features: int, out_features: int, settings: dict[str, Any], categories: int
    ) -> None:
        super().__init__()
        self.variant = build_variant(settings, in_features, categories, torch.Generator())
        for name in self.variant.training_only:
            delattr(self.variant, name)

    def forward(self, features: Tensor) -> Tensor:
        return self.variant.logits(features)


@MODELS.register_module()
class VariantLoss(nn.Module):
    """The variant's mapping from logits to scores, as `loss_cls` of a stock head."""

    custom_cls_channels = True
    custom_activation = True

    def __init__(self, settings: dict[str, Any], categories: int) -> None:
        super().__init__()
        variant = build_variant(settings, WIDTH, categories, torch.Generator())
        self._variant = [variant.requires_grad_(False)]  # in a list: it is no part of the state

    def get_cls_channels(self, num_classes: int) -> int:
        return self._variant[0].columns

    def get_activation(self, cls_score: Tensor) -> Tensor:
        return self._variant[0].to(cls_score.device).probabilities(cls_score)

    def forward(self, *_: Any, **__: Any) -> Tensor:
        raise NotImplementedError("an exported variant cannot be trained; train it in a bank")


@MODELS.register_module()
class SigmoidLoss(SigmoidObjectnessLoss):
    """Sigmoids without a background column: background samples have no target."""

    def get_cls_channels(self, num_classes: int) -> int:
        return num_classes

    def get_activation(self, cls_score: Tensor) -> Tensor:
        return F.pad(cls_score.float().sigmoid(), (0, 1))

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"acc": accuracy(cls_score, labels)}

    def forward(
        self,
        cls_score: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        avg_factor: float,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Binary cross-entropy, summed over columns, averaged over samples of weight above 0."""
        targets = F.one_hot(labels, cls_score.size(1) + 1)[:, :-1].to(cls_score)
        losses = F.binary_cross_entropy_with_logits(cls_score, targets, reduction="none")
        return losses[label_weights > 0].sum() / avg_factor
