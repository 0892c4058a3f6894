"""Effective class-margin loss against a loop over the paper's surrogate."""

import math

import pytest
import torch
from batches import COUNTS, IMAGES, C, D, built, labelled, loss_of
from scalars import sigmoid

SETTINGS = {"method": "ecm", "background": 6.3313, "classifier": "linear", "counts": COUNTS}


def ecm(**changes):
    return built({**SETTINGS, **changes}).double()


def loop(logits, labels, background=6.3313):
    """The surrogate as the paper has it: scores against and for, each with its margin."""
    counts = [*COUNTS["images"], background * sum(COUNTS["images"])]
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist()):
        for j, z in enumerate(row):
            for_it, against = counts[j], sum(counts) - counts[j]
            roots = for_it**0.25 + against**0.25
            up = math.exp(z + math.log(roots / against**0.25))
            down = math.exp(-z + math.log(roots / for_it**0.25))
            ratio = against / for_it
            weight = ratio * math.log((1 + ratio) / ratio)
            total -= weight * math.log((up if j == label else down) / (up + down))
    return total


@pytest.mark.parametrize("background", [0.5, 6.3313, 50.0])
def test_loss_equals_loop_over_the_surrogate(background):
    batch, logits = labelled(IMAGES, C + 1)
    found = loss_of(ecm(background=background), batch, logits).item()
    assert found == pytest.approx(loop(logits, batch.labels, background), rel=1e-5)


def test_gradient_equals_finite_differences():
    variant = ecm()
    batch, logits = labelled(IMAGES, C + 1)
    own = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda moved: loss_of(variant, batch, moved), own)


def test_boundary_of_a_category_is_nearer_to_its_negatives_the_rarer_it_is():
    """Logits of equal positive and negative surrogate: margins for rare categories lower them."""
    boundaries = (-ecm().margins[:-1] / 2).tolist()
    assert boundaries == sorted(boundaries, reverse=True) and boundaries[0] > 0


def test_scores_multiply_sigmoids_by_objectness():
    _, logits = labelled(IMAGES, C + 1)
    for row, scores in zip(logits.tolist(), ecm().probabilities(logits).tolist()):
        expected = [sigmoid(z) * (1 - sigmoid(row[C])) for z in row[:C]]
        assert scores == pytest.approx([*expected, sigmoid(row[C])], rel=1e-10)


def test_cosine_classifier_has_the_releases_temperature_and_a_bias_at_the_prior():
    variant = built({**SETTINGS, "classifier": "cosine"})
    assert variant.fc_cls.bias.tolist() == pytest.approx([math.log(1 / 999)] * (C + 1))
    h = torch.randn(1, D)
    for w, z in zip(variant.fc_cls.weight.tolist(), variant.logits(h)[0].tolist()):
        cosine = sum(a * b for a, b in zip(h[0].tolist(), w)) / math.hypot(*w) / h.norm().item()
        assert z == pytest.approx(20 * cosine - math.log(999), abs=1e-4)


def test_category_without_images_counts_as_shown_once():
    counts = {**COUNTS, "images": [0, 5, 10, 40, 300, 900]}
    variant = ecm(counts=counts)
    assert variant.margins.isfinite().all() and variant.weights.isfinite().all()
