"""Measurements that a card has no memory for, or that cannot be compiled, are told by name."""

from types import SimpleNamespace

import fast
import torch

from bacl.errors import RunError
from bacl_platform.bench.measure import Row


def test_what_a_card_cannot_measure_is_left_out_and_the_rest_goes_on(monkeypatch):
    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore.")

    def uncompiled():
        raise RunError("recipe.trunk.compile: expected a backbone that torch.compile can compile")

    card = SimpleNamespace(total_memory=8 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    row = Row("loss", "FCBL", 1.0, "cross-entropy", 2.0, 1.25)
    measured = {"large": too_large, "compiled": uncompiled, "loss": lambda: [row]}
    found = {}
    for piece in fast.rows(measured, small=False):
        found |= piece
    assert found["large"] == (
        "left out: the card's 8.0 GiB are too little (CUDA out of memory. Tried to allocate 9 GiB.)"
    )
    assert found["compiled"].startswith("left out: torch.compile could not (recipe.")
    assert found["loss"] == [row.as_json()]
