"""EQL against a loop over w_j = 1 - E(r) T(f_j) (1 - y_j)."""

import pytest
import torch
from batches import COUNTS, IMAGES, C, built, labelled, loss_of, weights_of
from scalars import bce

TAILS = [(None, [0, 1, 2, 3]), (0.01, [0, 1]), (0.011, [0, 1, 2]), (0.5, [0, 1, 2, 3, 4])]
"""Shares of images below which a category is tail, and the tail; 10 of 1000 images are not below
0.01, and without a share it is all but the most frequent group."""


def eql(tail=None):
    return built({"method": "eql", "tail": tail, "counts": COUNTS}).double()


def loop(logits, labels, tail):
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist()):
        for j, z in enumerate(row):
            weight = 1 - (label < C) * (j in tail) * (j != label)
            total += weight * bce(z, j == label)
    return total


@pytest.mark.parametrize("below, tail", TAILS)
def test_loss_equals_loop_over_the_equation(below, tail):
    batch, logits = labelled(IMAGES, C)
    expected = loop(logits, batch.labels, tail)
    assert loss_of(eql(below), batch, logits).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("images", [[[C, C]], [[0, 3, 3]], [[], [1]], [[], []]])
def test_loss_without_foreground_or_background_or_samples_equals_loop(images):
    batch, logits = labelled(images, C)
    expected = loop(logits, batch.labels, [0, 1, 2, 3])
    assert loss_of(eql(), batch, logits).item() == pytest.approx(expected, rel=1e-12)


def test_foreground_of_others_discourages_no_tail_category():
    weights = weights_of(eql(), *labelled([[4, C, 0]], C))
    expected = [[0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 1, 1]]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.double))
