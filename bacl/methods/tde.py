"""De-confounded training with total direct effect at test, Tang et al. 2020."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacl.variants import METHODS, Batch, Softmax

_FLOOR = 1 / 32
"""Number added to the weights' norms; the release's."""


class HeadsClassifier(nn.Module):
    """Classifier whose logits are summed over heads, each of which uses the direction of its part
    of the features."""

    def __init__(
        self, width: int, columns: int, heads: int, scale: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.heads, self.scale = heads, scale
        bound = width**-0.5
        weight = torch.empty(columns, width).uniform_(-bound, bound, generator=generator)
        self.weight = nn.Parameter(weight)

    def _by_head(self, rows: Tensor) -> Tensor:
        """Rows (N, D) as (K, N, D / K)."""
        return rows.view(len(rows), self.heads, -1).transpose(0, 1)

    def directions(self) -> Tensor:
        """Weights by their norms, (K, columns, D / K)."""
        weight = self._by_head(self.weight)
        return weight / (weight.norm(dim=2, keepdim=True) + _FLOOR)

    def forward(self, features: Tensor) -> Tensor:
        normed = F.normalize(self._by_head(features), dim=2)
        return self.scale / self.heads * (normed @ self.directions().transpose(1, 2)).sum(dim=0)

    def effect(self, features: Tensor, direction: Tensor) -> Tensor:
        """Logits of the features' projection on `direction` (D,) alone."""
        mean = F.normalize(self._by_head(direction[None]), dim=2)
        normed = F.normalize(self._by_head(features), dim=2)
        share = normed @ mean.transpose(1, 2)
        along = mean @ self.directions().transpose(1, 2)
        return self.scale / self.heads * (share * along).sum(dim=0)


@METHODS.register_module(name="tde")
class TDE(Softmax):
    """Softmax over normalised heads. At test the columns are the logits twice: unchanged, and
    without the effect of the foreground's mean direction."""

    stock_loss = None
    plain_loss = None
    not_plain = "it takes the effect of a mean direction from the logits at test"
    direction: Tensor
    fc_cls: HeadsClassifier

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        heads: int,
        scale: float,
        momentum: float,
        alpha: float,
    ) -> None:
        self._heads = heads, scale
        super().__init__(width, categories, generator)
        self.momentum, self.alpha = momentum, alpha
        self.register_buffer("direction", torch.zeros(width))

    def classifier(self, width: int, columns: int, generator: torch.Generator) -> nn.Module:
        return HeadsClassifier(width, columns, *self._heads, generator)

    @property
    def columns(self) -> int:
        return 2 * (self.categories + 1)

    def logits(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc_cls(features)
        if self.training:
            return logits
        without = logits - self.alpha * self.fc_cls.effect(features, self.direction)
        return torch.cat([logits, without], dim=1)

    def probabilities(self, logits: Tensor) -> Tensor:
        plain, without = logits.float().chunk(2, dim=1)
        scores = plain.softmax(dim=1)
        foreground = scores[:, :-1].sum(dim=1, keepdim=True)  # more precise than 1 - background
        share = without[:, :-1].softmax(dim=1)
        return torch.cat([share * foreground, scores[:, -1:]], dim=1)

    @torch.no_grad()
    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """Sum of the foreground's features, and the number of them, (D + 1,)."""
        foreground = (batch.labels < self.categories)[:, None]
        rows = F.pad(batch.features.float(), (0, 1), value=1.0)
        return (rows * foreground).sum(dim=0)

    def add(self, increment: Tensor) -> None:
        total, count = increment[:-1], increment[-1]
        moved = self.momentum * self.direction + total / count.clamp_min(1)
        self.direction.copy_(torch.where(count > 0, moved, self.direction))
