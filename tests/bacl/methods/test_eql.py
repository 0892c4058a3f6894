"""EQL against a loop over w_j = 1 - E(r) T(f_j) (1 - y_j)."""

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
    sigmoid,
    weights_of,
)

TAILS = [(None, [0, 1, 2]), (0.03, [0]), (0.0305, [0, 1]), (0.5, [0, 1, 2, 4])]
"""Shares of images below which a category is tail, and the tail; 30 of 1000 images are not below
0.03, and without a share it is all but the most frequent group."""


def eql(tail=None):
    return built({"method": "eql", "tail": tail, "counts": COUNTS})


def loop(logits, labels, tail):
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist()):
        for j, z in enumerate(row):
            weight = 1 - (label < C) * (j in tail) * (j != label)
            total += weight * bce(z, j == label)
    return total


@pytest.mark.parametrize("below, tail", TAILS)
def test_loss_equals_loop_over_the_equation(below, tail):
    batch, logits = batch_of(IMAGES), logits_of(IMAGES, C)
    expected = loop(logits, batch.labels, tail)
    assert loss_of(eql(below), batch, logits).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("images", [[[C, C]], [[0, 3, 3]], [[], [1]], [[], []]])
def test_loss_without_foreground_or_background_or_samples_equals_loop(images):
    batch, logits = batch_of(images), logits_of(images, C)
    expected = loop(logits, batch.labels, [0, 1, 2])
    assert loss_of(eql(), batch, logits).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_equals_finite_differences():
    assert has_gradient_of_its_differences(eql(), batch_of(IMAGES), logits_of(IMAGES, C))


def test_foreground_of_others_discourages_no_tail_category():
    weights = weights_of(eql(), batch_of([[3, C, 0]]), logits_of([[3, C, 0]], C))
    expected = [[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [1, 0, 0, 1, 1]]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.double))


def test_probabilities_are_sigmoids_and_none_for_background():
    logits = logits_of(IMAGES, C)
    for row, scores in zip(logits.tolist(), eql().probabilities(logits).tolist()):
        assert scores == pytest.approx([*map(sigmoid, row), 0.0], rel=1e-12)


def test_training_leaves_no_state():
    variant, batch = eql(), batch_of(IMAGES)
    assert variant.increment(logits_of(IMAGES, C), batch) is None
    assert set(variant.state_dict()) == {"fc_cls.weight", "fc_cls.bias"}
