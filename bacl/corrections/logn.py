"""Logit normalisation, Zhao et al. 2022."""

from typing import Any

import torch
from torch import Tensor

from bacl.corrections.corrected import Corrected
from bacl.variants import METHODS, Batch

_LEAST = 1e-11
"""Least variance; the release's."""


@METHODS.register_module(name="logn")
class LogN(Corrected):
    """(z_j - m_j + min_k m_k) / s_j, m and s the mean and deviation of logits over the sampled
    regions of the first `images` images of training."""

    count: Tensor
    """Regions so far."""
    sums: Tensor
    """Sums of logits and of their squares, (C, 2)."""

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        base: dict[str, Any],
        of: str,
        images: int,
    ) -> None:
        super().__init__(width, categories, generator, base, of)
        self.images = images
        self.register_buffer("count", torch.zeros((), dtype=torch.double))
        self.register_buffer("sums", torch.zeros(categories, 2, dtype=torch.double))

    @torch.no_grad()
    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """(C + 1, 2): sums of logits and of their squares; the last row begins with the number of
        regions."""
        positions = torch.tensor(batch.positions, device=logits.device)
        counts = (positions < self.images)[batch.images.long()].double()
        if batch.weights is not None:
            counts = counts * batch.weights
        rows = logits[:, : self.categories].double()
        sums = torch.stack([counts @ rows, counts @ rows.square()], dim=1)
        return torch.cat([sums, torch.stack([counts.sum(), counts.new_zeros(())])[None]])

    def add(self, increment: Tensor) -> None:
        self.sums += increment[:-1]
        self.count += increment[-1, 0]

    def correction(self) -> tuple[Tensor, Tensor]:
        mean, squares = (self.sums / self.count.clamp_min(1)).unbind(dim=1)
        unbiased = self.count / (self.count - 1).clamp_min(1)
        variance = ((squares - mean.square()) * unbiased).clamp_min(_LEAST)
        scale = variance.rsqrt()
        return scale.float(), ((mean.min() - mean) * scale).float()
