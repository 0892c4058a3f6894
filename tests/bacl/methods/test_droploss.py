"""DropLoss against a loop over its weights: EQL's on foreground, and background's with a chance."""

import math

import pytest
import torch
from batches import COUNTS, IMAGES, C, built, labelled, loss_of, on_ranks, step, weights_of
from scalars import bce

TAIL = [0, 1, 2, 3]
STEPS = [IMAGES, [[C], [3, C], [C, 4], [3, 3, 0]], [[C, C], [], [C], [C]], [[], [], [1], [2]]]


def droploss(share=None):
    variant = built({"method": "droploss", "tail": None, "counts": COUNTS}).double()
    if share is not None:
        variant.share.fill_(share)
    return variant


def loop(logits, batch, share):
    total = 0.0
    draws = batch.uniform(C).tolist()
    for row, label, drawn in zip(logits.tolist(), batch.labels.tolist(), draws):
        for j, z in enumerate(row):
            if j == label or j not in TAIL:
                weight = 1
            elif label < C:
                weight = 0
            else:
                weight = 0 if drawn[j] >= share else 1
            total += weight * bce(z, j == label)
    return total


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 1.0])
def test_loss_equals_loop_over_the_equation(share):
    batch, logits = labelled(IMAGES, C)
    expected = loop(logits, batch, share)
    assert loss_of(droploss(share), batch, logits).item() == pytest.approx(expected, rel=1e-12)


def test_loss_of_steps_goes_by_the_tails_share_of_the_step_before():
    variant, share, first = droploss(), 1.0, 0
    for images in STEPS:
        batch, logits = labelled(images, C, first, seed=first)
        expected = loop(logits, batch, share)
        assert loss_of(variant, batch, logits).item() == pytest.approx(expected, rel=1e-12)
        step(variant, on_ranks(images, first), logits)
        foreground = [label for image in images for label in image if label < C]
        share = sum(label in TAIL for label in foreground) / len(foreground) if foreground else 1.0
        assert variant.share.item() == pytest.approx(share, rel=1e-6)
        first += len(images)


def test_background_discourages_each_tail_category_with_the_chance_of_the_share():
    images, share = [[C] * 500] * 8, 0.3
    weights = weights_of(droploss(share), *labelled(images, C)).round()
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert weights[:, 4:].all()
    error = math.sqrt(share * (1 - share) / len(weights))
    tail = weights[:, TAIL]
    assert tail.mean(dim=0).tolist() == pytest.approx([share] * 4, abs=4 * error)
    both = (tail[:, 0] * tail[:, 1]).mean().item()  # each category by itself
    assert both == pytest.approx(share**2, abs=4 * math.sqrt(share**2 / len(weights)))


def test_foreground_is_never_dropped_at_random():
    weights = weights_of(droploss(0.0), *labelled([[4, 0]], C))
    expected = torch.tensor([[0, 0, 0, 0, 1, 1], [1, 0, 0, 0, 1, 1]], dtype=torch.double)
    torch.testing.assert_close(weights, expected)
