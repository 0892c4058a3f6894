"""Seesaw against a loop over its mitigation and compensation factors."""

import math

import pytest
import torch
from batches import IMAGES, C, D, built, labelled, logits_of, loss_of, on_ranks, step
from scalars import softmax

SEEN = [0, 1, 40, 3, 500, 2]
STEPS = [IMAGES, [[0, 0], [C], [], [4]], [[C], [C, C], [C], []], [[2], [2, 3], [1], [C, 0]]]


def seesaw(p=0.8, q=2.0, classifier="linear", seen=None):
    variant = built({"method": "seesaw", "p": p, "q": q, "classifier": classifier}).double()
    if seen is not None:
        variant.seen.copy_(torch.tensor(seen))
    return variant


def factors(row, own, seen, p, q):
    """S_ij = M_ij C_ij of a sample of category `own`."""
    scores = softmax(row[:C])
    result = []
    for j in range(C):
        mitigation = min(1, max(seen[j], 1) / max(seen[own], 1)) ** p
        compensation = max(1, scores[j] / max(scores[own], 0.01)) ** q
        result.append(1.0 if j == own else mitigation * compensation)
    return result


def loop(logits, labels, seen, p, q, of=None):
    """The loss; its factors are constants, those of the logits `of`."""
    of = logits if of is None else of
    total = 0.0
    for row, source, label in zip(logits.tolist(), of.tolist(), labels.tolist()):
        total -= math.log(softmax(row[C:])[label == C])
        if label < C:
            weighted = [
                factor * math.exp(z) for factor, z in zip(factors(source, label, seen, p, q), row)
            ]
            total -= math.log(weighted[label] / sum(weighted))
    return total


@pytest.mark.parametrize("p", [0.0, 0.8])
@pytest.mark.parametrize("q", [0.0, 2.0])
def test_loss_equals_loop_over_the_equation(p, q):
    batch, logits = labelled(IMAGES, C + 2, scale=4.0)
    own = [
        softmax(row[:C])[label] for row, label in zip(logits.tolist(), batch.labels) if label < C
    ]
    assert min(own) < 0.01 < max(own)  # on both sides of what a score is clamped to
    expected = loop(logits, batch.labels, SEEN, p, q)
    loss = loss_of(seesaw(p, q, seen=SEEN), batch, logits).item()
    assert loss == pytest.approx(expected, rel=1e-12)


def test_gradient_equals_finite_differences_with_constant_factors():
    images = [[0, C, 4], [2]]
    batch, logits = labelled(images, C + 2)
    own = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(seesaw(seen=SEEN), batch, own), own)
    for row in range(len(logits)):
        for column in range(C + 2):
            moved = []
            for change in (1e-5, -1e-5):
                shifted = logits.clone()
                shifted[row, column] += change
                moved.append(loop(shifted, batch.labels, SEEN, 0.8, 2.0, of=logits))
            slope = (moved[0] - moved[1]) / 2e-5
            assert gradient[row, column].item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_losses_of_steps_go_by_the_samples_of_all_ranks_before():
    variant, seen, first = seesaw(), [0] * C, 0
    for images in STEPS:
        batch, logits = labelled(images, C + 2, first, seed=first)
        expected = loop(logits, batch.labels, seen, 0.8, 2.0)
        assert loss_of(variant, batch, logits).item() == pytest.approx(expected, rel=1e-12)
        step(variant, on_ranks(images, first), logits)
        for image in images:
            for label in image:
                if label < C:
                    seen[label] += 1
        assert variant.seen.tolist() == seen
        first += len(images)


def test_probabilities_multiply_softmax_by_that_of_an_object():
    logits = logits_of(5, C + 2)
    probabilities = seesaw().probabilities(logits)
    for row, scores in zip(logits.tolist(), probabilities.tolist()):
        object_, background = softmax(row[C:])
        expected = [score * object_ for score in softmax(row[:C])]
        assert scores == pytest.approx([*expected, background], rel=1e-12)
        assert sum(scores) == pytest.approx(1)


def test_cosine_classifier_has_a_temperature_of_20_and_a_bias():
    variant = seesaw(classifier="cosine")
    fc_cls = variant.fc_cls
    with torch.no_grad():
        fc_cls.bias.copy_(torch.arange(C + 2.0))
    features = torch.randn(3, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    for row, feature in zip(variant.logits(features).tolist(), features):
        expected = [
            20 * (feature @ weight / (feature.norm() * weight.norm())).item() + j
            for j, weight in enumerate(fc_cls.weight)
        ]
        assert row == pytest.approx(expected)
    assert not fc_cls.scale.requires_grad
