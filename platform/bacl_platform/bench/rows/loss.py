"""BACL's loss (FCBL) beside cross-entropy of the same features and width, without a detector."""

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

import bacl.register  # noqa: F401  before anything imports mmdet.models
from bacl.draws import generator
from bacl.method_settings.paper import BACL, Hallucination
from bacl.variants import Batch, build_variant
from bacl_platform.bench.measure import Row, Setting, in_turns


@dataclass(frozen=True)
class Size:
    """How much a step handles; the defaults are LVIS v1.0 at the paper's settings."""

    categories: int = 1203
    width: int = 1024
    proposals: int = 1024
    """Samples of two images, a quarter of them foreground."""


LVIS = Size()


def measure(setting: Setting, size: Size = LVIS) -> list[Row]:
    """FCBL as `BankBBoxHead.loss` uses it: forward, backward and the update of the indicator."""
    draw = torch.Generator().manual_seed(0)
    settings = BACL(method="bacl")
    made = settings.hallucination or Hallucination()
    labels = torch.full((size.proposals,), size.categories)
    labels[: size.proposals // 4] = torch.randint(
        size.categories, (size.proposals // 4,), generator=draw
    )
    drawn = torch.randint(size.categories, (made.categories,), generator=draw)
    labels = torch.cat([labels, drawn.repeat_interleave(made.samples)]).to(setting.device)
    features = torch.randn(len(labels), size.width, generator=draw).relu().to(setting.device)
    variant = build_variant(settings.model_dump(), size.width, size.categories, draw)
    variant.to(setting.device)
    no_image = torch.zeros_like(labels)
    batch = Batch(features, labels, no_image, [0], [0], partial(generator, setting.device))
    plain = torch.nn.Linear(size.width, size.categories + 1, device=setting.device)

    def ours() -> None:
        variant.zero_grad()
        logits = variant.logits(features)
        total, count = variant.terms(logits, batch)["cls"]
        value = total / count
        variant.update(logits, batch)
        value.backward()

    def theirs() -> None:
        plain.zero_grad()
        F.cross_entropy(plain(features), labels).backward()

    repeat = 30 if setting.repeat is None else setting.repeat
    found = in_turns([ours, theirs], repeat, 5, setting.device)
    return [Row("loss", "FCBL", found[0], "cross-entropy", found[1], 1.25)]
