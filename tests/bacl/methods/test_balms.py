"""BALMS against a loop over sigmoids of z_j - log((1 - f_j) / f_j)."""

import math

import pytest
import torch
from batches import COUNTS, IMAGES, C, built, labelled, loss_of
from scalars import bce

UNSEEN_AND_EVERYWHERE = {**COUNTS, "images": [0, 1, 31, 1000, 999, 400]}


def balms(counts=COUNTS):
    return built({"method": "balms", "counts": counts}).double()


def loop(logits, labels, counts):
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist()):
        for j, z in enumerate(row):
            shown = min(max(counts["images"][j], 1), counts["total"] - 1)
            frequency = shown / counts["total"]
            if label < C:
                z -= math.log((1 - frequency) / frequency)
            total += bce(z, j == label)
    return total


@pytest.mark.parametrize("counts", [COUNTS, UNSEEN_AND_EVERYWHERE])
def test_loss_equals_loop_over_the_equation(counts):
    batch, logits = labelled(IMAGES, C)
    expected = loop(logits, batch.labels, counts)
    # the shift is kept in float32
    assert loss_of(balms(counts), batch, logits).item() == pytest.approx(expected, rel=1e-6)


def test_background_trains_on_logits_as_they_are():
    batch, logits = labelled([[C, C]], C)
    expected = sum(bce(z, False) for z in logits.flatten().tolist())
    assert loss_of(balms(), batch, logits).item() == pytest.approx(expected, rel=1e-12)


def test_split_of_one_image_shifts_nothing_to_infinity():
    counts = {**COUNTS, "images": [1, 0, 1, 0, 1, 1], "total": 1}
    batch, logits = labelled(IMAGES, C)
    assert torch.isfinite(loss_of(balms(counts), batch, logits))
