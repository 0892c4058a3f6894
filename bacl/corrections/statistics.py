"""A pass over training images, or their stored features, that tells corrections their
statistics."""

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_world_size

from bacl.corrections.logn import LogN

if TYPE_CHECKING:
    from bacl.detector.bank import BankDetector


@torch.no_grad()
def observe(model: "BankDetector", loader: Iterable[Any]) -> int:
    """Show a bank the sampled regions of the first training images, as many as its corrections ask
    for; returns how many images that were.

    loader: of training batches in the order of training, this rank's part of each. Called by all
    ranks, whose statistics are summed. No weights move, and all layers compute as at test.
    """
    banks = [head.bank().values() for head in model.heads()]
    asked = max(v.images for bank in banks for v in bank if isinstance(v, LogN))
    size: int = loader.batch_size * get_world_size()  # type: ignore[attr-defined]
    steps = -(-asked // size)
    model.eval()
    for head, bank in zip(model.heads(), banks, strict=True):
        head.training = True
        for variant in bank:
            variant.train()
    for batch in itertools.islice(loader, steps):
        model(**model.data_preprocessor(batch, True), mode="loss")
    model.eval()
    return asked
