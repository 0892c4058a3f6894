"""Gumbel optimised loss, Alexandridis et al. 2022."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.methods.droploss import DropLoss
from bacl.precision import at_least_float32
from bacl.variants import METHODS

_LEAST, _LARGEST = -4.0, 10.0
"""Between these logits train; the release's."""


@METHODS.register_module(name="gol")
class GOL(DropLoss):
    """DropLoss with probabilities exp(-exp(-z)), the distribution function of Gumbel's."""

    prior_bias = -2.0
    stock_loss = None  # type: ignore[assignment]
    plain_loss = None  # type: ignore[assignment]
    not_plain = "its scores are exp(-exp(-z)), which none of MMDetection's losses gives"

    def of_columns(self, logits: Tensor, targets: Tensor) -> Tensor:
        positive = (-logits.clamp(_LEAST, _LARGEST)).exp()  # -log p
        negative = -(-torch.expm1(-positive)).log()  # -log(1 - p)
        return torch.where(targets.bool(), positive, negative)

    def probabilities(self, logits: Tensor) -> Tensor:
        return F.pad((-(-at_least_float32(logits)).exp()).exp(), (0, 1))
