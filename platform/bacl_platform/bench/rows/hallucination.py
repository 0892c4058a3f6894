"""Feature hallucination beside the same written as plain loops, without a detector.

C categories, D feature width, G ground-truth boxes, H made features.
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl.hallucination import FeatureStatistics, moments
from bacl.method_settings.paper import Hallucination
from bacl_platform.bench.measure import Row, Setting, in_turns


@dataclass(frozen=True)
class Size:
    """How much a step handles; the defaults are LVIS v1.0 at the paper's settings."""

    categories: int = 1203
    width: int = 1024
    objects: int = 24
    """Ground-truth boxes of two images, with 16 jittered boxes each."""


LVIS = Size()


def measure(setting: Setting, size: Size = LVIS) -> list[Row]:
    """Statistics, sampling and synthesis."""
    draw = torch.Generator().manual_seed(0)
    settings = Hallucination()
    labels = torch.randint(size.categories, (size.objects,), generator=draw).repeat_interleave(16)
    labels = labels.to(setting.device)
    features = torch.randn(len(labels), size.width, generator=draw).relu().to(setting.device)
    strength = torch.rand(size.categories, generator=draw).to(setting.device)
    statistics = FeatureStatistics(size.categories, size.width, settings.beta).to(setting.device)
    statistics.seen.fill_(True)
    looped = LoopedStatistics(size.categories, size.width, settings.beta, setting.device)
    looped.seen = [True] * size.categories
    noise = torch.Generator(setting.device).manual_seed(0)
    walk = random.Random(0)

    def ours() -> None:
        statistics.update(moments(features, labels, size.categories))
        statistics.synthesize(strength, settings.categories, settings.samples, [noise])

    def theirs() -> None:
        looped.update(features, labels)
        looped.synthesize(strength, settings.categories, settings.samples, walk)

    repeat = 30 if setting.repeat is None else setting.repeat
    found = in_turns([ours, theirs], repeat, 5, setting.device)
    return [Row("hallucination", "statistics and synthesis", found[0], "loops", found[1], 0.2)]


class LoopedStatistics:
    """`FeatureStatistics` as one writes it first: a loop over whatever there is several of.

    The released code has these loops: over categories present, over draws, over the cumulated
    chances of all categories and over samples. (It walks the chances once, for draws in order.)
    """

    def __init__(self, categories: int, width: int, beta: float, device: str) -> None:
        self.beta = beta
        self.prototype = torch.zeros(categories, width, device=device)
        self.variance = torch.zeros(categories, width, device=device)
        self.seen = [False] * categories

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Eq. (11), category by category. features (G * 16, D), labels (G * 16,)."""
        for label in labels.unique().tolist():
            own = features[labels == label]
            mean, variance = own.mean(dim=0), own.var(dim=0)
            if self.seen[label]:
                mean = self.beta * self.prototype[label] + (1 - self.beta) * mean
                variance = self.beta * self.variance[label] + (1 - self.beta) * variance
            self.prototype[label] = mean
            self.variance[label] = variance
            self.seen[label] = True

    def synthesize(
        self, strength: Tensor, categories: int, samples: int, draw: random.Random
    ) -> tuple[Tensor, Tensor]:
        """Eqs. (12)-(13), draw by draw and sample by sample: features (H, D) and labels (H,)."""
        chance = (1 - strength) / (1 - strength).sum()
        features, labels = [], []
        for _ in range(categories):
            label = self._draw(chance, draw.random())
            if not self.seen[label]:
                continue
            for _ in range(samples):
                noise = torch.randn_like(self.prototype[label])
                features.append(self.prototype[label] + self.variance[label].sqrt() * noise)
                labels.append(label)
        return torch.stack(features), torch.tensor(labels, device=strength.device)

    @staticmethod
    def _draw(chance: Tensor, level: float) -> int:
        """The category at which the cumulated chance (C,) reaches `level`."""
        cumulated = torch.zeros_like(chance[0])
        for label, own in enumerate(chance):
            cumulated = cumulated + own
            if cumulated >= level:
                return label
        return len(chance) - 1
