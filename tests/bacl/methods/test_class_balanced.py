"""Class-balanced loss against loops over the paper's equations."""

import pytest
import torch
from batches import COUNTS, IMAGES, C, built, labelled, loss_of
from pydantic import ValidationError
from scalars import bce, cross_entropy, effective, sigmoid, softmax

from bacl.method_settings.priors import ClassBalanced
from bacl.methods.counts import Counts

SETTINGS = {"method": "class_balanced", "beta": 0.99, "base": "softmax", "gamma": 0.0}


def weights(beta, instances=COUNTS["instances"]):
    """Of each category, then of background."""
    return [*effective(beta, instances), 1.0]


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999, 0.9999])
def test_softmax_is_weighted_by_the_inverse_effective_number(beta):
    variant = built({**SETTINGS, "beta": beta, "counts": COUNTS})
    batch, logits = labelled(IMAGES, C + 1)
    expected = sum(
        weights(beta)[label] * cross_entropy(row, label)
        for row, label in zip(logits.tolist(), batch.labels.tolist())
    )
    assert loss_of(variant, batch, logits).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_sigmoids_are_weighted_in_all_columns_with_the_focal_factor(gamma):
    variant = built({**SETTINGS, "base": "sigmoid", "gamma": gamma, "counts": COUNTS}).double()
    batch, logits = labelled(IMAGES, C)
    expected = 0.0
    for row, label in zip(logits.tolist(), batch.labels.tolist()):
        for j, z in enumerate(row):
            right = sigmoid(z) if j == label else 1 - sigmoid(z)
            expected += weights(0.99)[label] * (1 - right) ** gamma * bce(z, j == label)
    assert loss_of(variant, batch, logits).item() == pytest.approx(expected, rel=1e-6)


def test_weights_are_inverse_counts_where_instances_do_not_overlap():
    found = Counts(**COUNTS).class_balanced(1 - 1e-9)
    inverse = 1 / torch.tensor(COUNTS["instances"], dtype=torch.float)
    torch.testing.assert_close(found, inverse / inverse.mean(), rtol=1e-4, atol=0)


def test_category_without_instances_weighs_as_one_with_one():
    counts = Counts(**{**COUNTS, "instances": [0, 1, 10, 99, 400, 2000]})
    found = counts.class_balanced(0.99).tolist()
    assert found[0] == found[1]
    assert found == pytest.approx(weights(0.99, counts.instances)[:-1], rel=1e-6)


@pytest.mark.parametrize("base", ["softmax", "sigmoid"])
def test_scores_are_those_of_the_base(base):
    variant = built({**SETTINGS, "base": base, "counts": COUNTS})
    _, logits = labelled(IMAGES, variant.columns)
    for row, found in zip(logits.tolist(), variant.probabilities(logits).tolist()):
        expected = softmax(row) if base == "softmax" else [*map(sigmoid, row), 0.0]
        assert found == pytest.approx(expected, rel=1e-5)


def test_focal_factor_of_softmax_is_refused():
    with pytest.raises(ValidationError, match=r"gamma 2\.0 is of base sigmoid: expected 0"):
        ClassBalanced(method="class_balanced", gamma=2)
