"""Gumbel optimised loss against a loop with Gumbel's distribution function, by scipy."""

import math

import pytest
import torch
from batches import COUNTS, IMAGES, C, built, labelled, loss_of, on_ranks, step
from scipy.stats import gumbel_r

TAIL = [0, 1, 2, 3]


def gol(share=None):
    variant = built({"method": "gol", "tail": None, "counts": COUNTS}).double()
    if share is not None:
        variant.share.fill_(share)
    return variant


def loop(logits, batch, share):
    total = 0.0
    for row, label, drawn in zip(logits.tolist(), batch.labels.tolist(), batch.uniform(C).tolist()):
        for j, z in enumerate(row):
            z = min(max(z, -4.0), 10.0)
            if j == label:
                total -= gumbel_r.logcdf(z)
            elif j not in TAIL or (label == C and drawn[j] < share):
                total -= gumbel_r.logsf(z)
    return total


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("scale", [1.0, 4.0, 20.0])
def test_loss_equals_loop_over_the_equation(share, scale):
    batch, logits = labelled(IMAGES, C, scale=scale)
    expected = loop(logits, batch, share)
    assert loss_of(gol(share), batch, logits).item() == pytest.approx(expected, rel=1e-10)


def test_loss_is_precise_in_float32():
    batch, logits = labelled(IMAGES, C, scale=20.0)
    expected = loop(logits, batch, 1.0)
    found = loss_of(gol(1.0).float(), batch, logits.float()).item()
    assert found == pytest.approx(expected, rel=1e-5)


def test_gradient_equals_finite_differences_and_is_none_beyond_the_limits():
    variant = gol(0.5)
    batch, logits = labelled(IMAGES, C, scale=3.0)
    logits = logits[(logits.abs() - 4).abs().min(dim=1).values > 0]
    own = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda moved: loss_of(variant, batch, moved), own)
    (gradient,) = torch.autograd.grad(loss_of(variant, batch, own), own)
    assert not gradient[own < -4].any() and gradient[own > 0].any()


def test_scores_are_gumbels_and_none_for_background():
    _, logits = labelled(IMAGES, C, scale=5.0)
    for row, scores in zip(logits.tolist(), gol().probabilities(logits).tolist()):
        assert scores == pytest.approx([*gumbel_r.cdf(row), 0.0], rel=1e-10)
    extreme = torch.tensor([[-1e4, 1e4] + [0.0] * (C - 2)])
    assert gol().probabilities(extreme)[0, :2].tolist() == [0.0, 1.0]


def test_share_of_the_tail_moves_as_drop_losses():
    variant = gol()
    step(variant, on_ranks(IMAGES), torch.zeros(15, C))
    foreground = [label for image in IMAGES for label in image if label < C]
    tail = sum(label in TAIL for label in foreground)
    assert variant.share.item() == pytest.approx(tail / len(foreground))


def test_biases_start_at_the_releases():
    assert gol().fc_cls.bias.tolist() == [-2.0] * C
    assert math.exp(-math.exp(2)) == pytest.approx(6e-4, rel=0.05)
