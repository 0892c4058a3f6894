"""The cosine classifier against loops over samples and columns, in float64."""

import math

import pytest
import torch
from batches import C, D, batch_of, built, slopes

from bacl.methods.cosine import CosineClassifier

SETTINGS = {"method": "cosine", "scale": 20.0}


def cosine(a, b):
    a, b = a.tolist(), b.tolist()
    return sum(x * y for x, y in zip(a, b)) / (math.hypot(*a) * math.hypot(*b))


def test_logits_are_scaled_cosines_of_features_and_weights():
    variant = built(SETTINGS).double()
    features = batch_of([[0, 1, C], [2]]).features.double()
    for h, row in zip(features, variant.logits(features)):
        expected = [20 * cosine(h, w) for w in variant.fc_cls.weight]
        assert row.tolist() == pytest.approx(expected)


def test_bias_is_added_where_asked_for():
    classifier = CosineClassifier(D, C, 7.0, torch.Generator().manual_seed(0), bias=True).double()
    features = batch_of([[0, 1]]).features.double()
    with torch.no_grad():
        classifier.bias.copy_(torch.arange(C))
    for h, row in zip(features, classifier(features)):
        expected = [7 * cosine(h, w) + j for j, w in enumerate(classifier.weight)]
        assert row.tolist() == pytest.approx(expected)


def test_scale_is_learned_unless_it_is_not_to_be():
    assert built(SETTINGS).fc_cls.scale.item() == 20
    assert built(SETTINGS).fc_cls.scale.requires_grad
    draw = torch.Generator().manual_seed(0)
    assert not CosineClassifier(D, C, 7.0, draw, learnable=False).scale.requires_grad


def loop(logits, labels):
    return sum(
        math.log(sum(map(math.exp, row))) - row[label]
        for row, label in zip(logits.tolist(), labels.tolist())
    )


@pytest.mark.parametrize("images", [[[0, C, 3, 3], [5, C]], [[C], [C]], [[1], [2]]])
def test_loss_is_the_cross_entropy_over_samples(images):
    variant, batch = built(SETTINGS), batch_of(images)
    logits = variant.logits(batch.features)
    ((total, count),) = variant.terms(logits, batch).values()
    assert total.item() == pytest.approx(loop(logits, batch.labels), rel=1e-5)
    assert count == len(batch.labels)


def test_gradient_of_the_loss_equals_finite_differences():
    variant, batch = built(SETTINGS), batch_of([[0, C, 3], [5, C]])
    logits = variant.logits(batch.features).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(variant.terms(logits, batch)["cls"][0], logits)
    expected = slopes(lambda z: loop(z, batch.labels), logits)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


def test_gradient_of_logits_equals_finite_differences():
    classifier = built(SETTINGS).double().fc_cls
    features = batch_of([[0, 1, C]]).features.double().requires_grad_()

    def logits(features, weight, scale):
        changed = {"weight": weight, "scale": scale}
        return torch.func.functional_call(classifier, changed, (features,))

    weight = classifier.weight.detach() * 100  # at 0.01 a finite difference turns it around
    inputs = (features, weight.requires_grad_(), classifier.scale)
    assert torch.autograd.gradcheck(logits, inputs)


def test_scores_are_the_softmax_with_the_background_last():
    variant = built(SETTINGS)
    logits = variant.logits(batch_of([[0, 1, C]]).features)
    for row, scores in zip(logits.tolist(), variant.probabilities(logits).tolist()):
        everything = sum(map(math.exp, row))
        assert scores == pytest.approx([math.exp(z) / everything for z in row], rel=1e-5)
