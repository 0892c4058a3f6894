"""Logit adjustment against a loop, and the scores that it is to give."""

import math

import pytest
import torch
from batches import COUNTS, IMAGES, C, built, labelled, loss_of
from scalars import cross_entropy, softmax

SETTINGS = {"method": "logit_adjusted", "tau": 1.0, "shares": "instances", "background": None}


def adjusted(**changes):
    return built({**SETTINGS, "counts": COUNTS, **changes})


@pytest.mark.parametrize("background", [None, 0.75])
@pytest.mark.parametrize(("tau", "shares"), [(1.0, "instances"), (0.5, "images"), (0.0, "images")])
def test_loss_equals_loop_over_the_equation(tau, shares, background):
    variant = adjusted(tau=tau, shares=shares, background=background)
    batch, logits = labelled(IMAGES, C + 1)
    priors = [n / sum(COUNTS[shares]) for n in COUNTS[shares]]
    if background is None:
        shift = [math.log(C * prior) for prior in priors] + [0.0]
    else:
        shift = [math.log((1 - background) * prior) for prior in priors] + [math.log(background)]
    expected = sum(
        cross_entropy([z + tau * s for z, s in zip(row, shift)], label)
        for row, label in zip(logits.tolist(), batch.labels.tolist())
    )
    assert loss_of(variant, batch, logits).item() == pytest.approx(expected, rel=1e-5)


def test_logits_that_fit_the_shares_score_balanced_categories_and_keep_foreground():
    """With features that say nothing, the loss is least where shifted logits are the samples'
    shares: then all categories score alike at test, and together as often as foreground is."""
    samples = [0.25 * n / sum(COUNTS["instances"]) for n in COUNTS["instances"]] + [0.75]
    variant = adjusted()
    logits = torch.tensor(samples).log() - variant.shift
    balanced = variant.probabilities(logits[None])[0].tolist()
    assert balanced == pytest.approx([0.25 / C] * C + [0.75], rel=1e-5)
    as_a_category = adjusted(background=0.75)
    logits = torch.tensor(samples).log() - as_a_category.shift
    alike = as_a_category.probabilities(logits[None])[0].tolist()
    assert alike == pytest.approx([1 / (C + 1)] * (C + 1), rel=1e-5)


def test_category_without_instances_has_a_finite_shift():
    counts = {**COUNTS, "instances": [0, 9, 10, 99, 400, 2000]}
    assert adjusted(counts=counts).shift.isfinite().all()


def test_scores_are_the_softmax_of_unshifted_logits():
    _, logits = labelled(IMAGES, C + 1)
    for row, scores in zip(logits.tolist(), adjusted().probabilities(logits).tolist()):
        assert scores == pytest.approx(softmax(row), rel=1e-5)
