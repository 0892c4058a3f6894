"""DropLoss against a loop over its weights: EQL's on foreground, and background's with a chance."""

import math

import pytest
import torch
from steps import (
    COUNTS,
    IMAGES,
    C,
    batch_of,
    bce,
    built,
    has_gradient_of_its_differences,
    logits_of,
    loss_of,
    on_two_ranks,
    sigmoid,
    step,
    weights_of,
)

TAIL = [0, 1, 2]
STEPS = [IMAGES, [[C], [3, C], [C, 4], [3, 3, 0]], [[C, C], [], [C], [C]], [[], [], [1], [2]]]


def droploss(share=None):
    variant = built({"method": "droploss", "tail": None, "counts": COUNTS})
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
    batch, logits = batch_of(IMAGES), logits_of(IMAGES, C)
    expected = loop(logits, batch, share)
    assert loss_of(droploss(share), batch, logits).item() == pytest.approx(expected, rel=1e-12)


def test_loss_of_steps_goes_by_the_tails_share_of_the_step_before():
    variant, share, first = droploss(), 1.0, 0
    for images in STEPS:
        batch, logits = batch_of(images, first), logits_of(images, C, seed=first)
        expected = loop(logits, batch, share)
        assert loss_of(variant, batch, logits).item() == pytest.approx(expected, rel=1e-12)
        step(variant, images, logits, first)
        foreground = [label for image in images for label in image if label < C]
        share = sum(label in TAIL for label in foreground) / len(foreground) if foreground else 1.0
        assert variant.share.item() == pytest.approx(share, rel=1e-6)
        first += len(images)


def test_gradient_equals_finite_differences():
    assert has_gradient_of_its_differences(droploss(0.5), batch_of(IMAGES), logits_of(IMAGES, C))


def test_background_discourages_each_tail_category_with_the_chance_of_the_share():
    images, share = [[C] * 500] * 8, 0.3
    weights = weights_of(droploss(share), batch_of(images), logits_of(images, C)).round()
    assert set(weights.unique().tolist()) == {0.0, 1.0}
    assert weights[:, 3:].all()
    error = math.sqrt(share * (1 - share) / len(weights))
    tail = weights[:, TAIL]
    assert tail.mean(dim=0).tolist() == pytest.approx([share] * 3, abs=4 * error)
    both = (tail[:, 0] * tail[:, 1]).mean().item()  # each category by itself
    assert both == pytest.approx(share**2, abs=4 * math.sqrt(share**2 / len(weights)))


def test_foreground_is_never_dropped_at_random():
    weights = weights_of(droploss(0.0), batch_of([[3, 0]]), logits_of([[3, 0]], C))
    expected = torch.tensor([[0, 0, 0, 1, 1], [1, 0, 0, 1, 1]], dtype=torch.double)
    torch.testing.assert_close(weights, expected)


def test_same_is_dropped_of_an_image_whichever_rank_holds_it():
    images = [[C] * 6, [C, 0, C], [C] * 5, [C] * 7]
    variant, logits = droploss(0.5), logits_of(images, C)
    whole = weights_of(variant, batch_of(images, 8), logits)
    parts = [weights_of(variant, batch, z) for batch, z in on_two_ranks(images, logits, 8)]
    torch.testing.assert_close(whole, torch.cat(parts))
    later = weights_of(variant, batch_of(images, 12), logits)
    assert not torch.allclose(whole, later)


def test_probabilities_are_sigmoids_and_none_for_background():
    logits = logits_of(IMAGES, C)
    for row, scores in zip(logits.tolist(), droploss().probabilities(logits).tolist()):
        assert scores == pytest.approx([*map(sigmoid, row), 0.0], rel=1e-12)
