"""Classifiers that compare directions, and softmax over them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacl.variants import METHODS, Softmax


class CosineClassifier(nn.Module):
    """Cosine classifier z_j = s cos(h, w_j), with an optional bias and an optionally learnable
    s."""

    def __init__(
        self,
        width: int,
        columns: int,
        scale: float,
        generator: torch.Generator,
        bias: bool = False,
        learnable: bool = True,
    ) -> None:
        super().__init__()
        weight = torch.empty(columns, width).normal_(0, 0.01, generator=generator)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(columns)) if bias else None
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=learnable)

    def forward(self, features: Tensor) -> Tensor:
        directions = F.normalize(features, dim=1)
        return F.linear(self.scale * directions, F.normalize(self.weight, dim=1), self.bias)


@METHODS.register_module(name="cosine")
class Cosine(Softmax):
    """Softmax over a cosine classifier with a learnable scale."""

    stock_loss = None

    def __init__(
        self, width: int, categories: int, generator: torch.Generator, scale: float
    ) -> None:
        self.first_scale = scale
        super().__init__(width, categories, generator)

    def classifier(self, width: int, columns: int, generator: torch.Generator) -> nn.Module:
        return CosineClassifier(width, columns, self.first_scale, generator)
