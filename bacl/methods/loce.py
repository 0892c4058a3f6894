"""Learning with equilibrium: loss and memory-augmented sampling, Feng et al. 2021."""

import torch
import torch.nn.functional as F
from torch import Tensor

from bacl.methods.memory import Memory
from bacl.variants import METHODS, Batch, Softmax

_FIRST = 0.01
"""Initial score of categories, and the constant score of background; the release's."""


@METHODS.register_module(name="loce")
class LOCE(Softmax):
    """Softmax weighted by `score`, each category's recent mean probability; features, mostly of
    categories with low scores, are replayed from memory."""

    training_only = ("memory",)
    score: Tensor

    def __init__(
        self,
        width: int,
        categories: int,
        generator: torch.Generator,
        momentum: float,
        drawn: int,
        samples: int,
        slots: int,
        batch: int,
    ) -> None:
        super().__init__(width, categories, generator)
        self.momentum, self.drawn, self.samples = momentum, drawn, samples
        self.register_buffer("score", torch.full((categories + 1,), _FIRST))
        self.memory = Memory(categories, width, slots, batch, samples)

    @torch.no_grad()
    def replay(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Replayed features (H, D), labels (H,) and whether the memory has them (H,), for the
        rank's pairs."""
        chance = 1 / (self.score[:-1] + 1e-7)
        features, labels, held = [batch.features[:0]], [batch.labels[:0]], [batch.labels[:0] > 0]
        for pair in batch.pairs:
            draw = batch.generator("replay", pair)
            drawn = torch.multinomial(chance, self.drawn, replacement=True, generator=draw)
            labels.append(drawn.repeat_interleave(self.samples))
            found, there = self.memory.draw(labels[-1], draw)
            features.append(found.to(batch.features))
            held.append(there)
        return torch.cat(features), torch.cat(labels), torch.cat(held)

    def terms(self, logits: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        features, labels, held = self.replay(batch)
        logits = torch.cat([logits, self.logits(features)]).float() + self.score.log()
        shown = batch.with_made(labels, held)
        return {"cls": shown.total(F.cross_entropy(logits, shown.labels, reduction="none"))}

    @torch.no_grad()
    def increment(self, logits: Tensor, batch: Batch) -> Tensor:
        """Flat concatenation of two increments. The first, (C, 2), has for each category the sum of
        its mean probabilities, one for each image and each replay, and their number. The second is
        the memory's."""
        features, labels, held = self.replay(batch)
        own = logits.float().softmax(dim=1).gather(1, batch.labels[:, None])[:, 0]
        groups = len(batch.positions) * (self.categories + 1)
        group = batch.images.long() * (self.categories + 1) + batch.labels
        pairs = torch.stack([own, torch.ones_like(own)], dim=1)
        found = pairs.new_zeros(groups, 2).index_add_(0, group, pairs)
        found = found.view(-1, self.categories + 1, 2)[:, :-1]
        means = found[..., 0] / found[..., 1].clamp_min(1)
        scores = torch.stack([means, (found[..., 1] > 0).float()], dim=2).sum(dim=0)
        if len(labels):
            again = self.logits(features).float().softmax(dim=1).gather(1, labels[:, None])[:, 0]
            again = again.view(-1, self.samples).mean(dim=1)
            seen = held.view(-1, self.samples)[:, 0].float()
            rows = torch.stack([again * seen, seen], dim=1)
            scores.index_add_(0, labels[:: self.samples], rows)
        packed = self.memory.increment(batch, batch.labels < self.categories)
        return torch.cat([scores.flatten(), packed.flatten()])

    def add(self, increment: Tensor) -> None:
        scores, packed = increment.tensor_split([2 * self.categories])
        total, count = scores.view(-1, 2).unbind(dim=1)
        share = 1 - self.momentum**count
        self.score[:-1] = self.score[:-1].lerp(total / count.clamp_min(1), share)
        self.memory.add(packed.view(self.memory.images * self.memory.rows, -1))
