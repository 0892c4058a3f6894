"""What MMDetection's own box head needs to score as a sigmoid classifier with objectness.

An exported variant is a stock Faster R-CNN whose `loss_cls` is the class below; MMDetection asks
its `loss_cls` for the number of columns and for the activation.
"""

import torch
from mmdet.models.losses import accuracy
from mmdet.registry import MODELS
from torch import Tensor, nn

from bacl import fcbl


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
        loss: Tensor = fcbl.bce(cls_score[kept], labels[kept])
        return loss / torch.as_tensor(avg_factor)
