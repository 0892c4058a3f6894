"""The cosine classifier against loops over samples and columns, in float64."""

import math

import pytest
import torch
from batches import C, D, batch_of, built

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


def test_gradient_of_logits_equals_finite_differences():
    classifier = built(SETTINGS).double().fc_cls
    features = batch_of([[0, 1, C]]).features.double().requires_grad_()

    def logits(features, weight, scale):
        changed = {"weight": weight, "scale": scale}
        return torch.func.functional_call(classifier, changed, (features,))

    weight = classifier.weight.detach() * 100  # at 0.01 a finite difference turns it around
    inputs = (features, weight.requires_grad_(), classifier.scale)
    assert torch.autograd.gradcheck(logits, inputs)
