"""Forest R-CNN's classifier against loops over trees and categories."""

import math

import pytest
import torch
from batches import C, D, batch_of, built, drawn_labels, logits_of, slopes
from scalars import softmax

TREES = [[0, 0, 1, 1, 2, 2], [1, 0, 1, 0, 1, 0]]
SETTINGS = {"method": "forest", "trees": TREES}
SIZES = [C + 1, 4, 3]
"""Categories, and each tree's parents, with the background."""


def parts(row):
    return row[: C + 1], row[C + 1 : C + 5], row[C + 5 :]


def parent(tree, label):
    return tree[label] if label < C else max(tree) + 1


def loop(logits, labels):
    """(cross-entropies of categories, of parents)."""
    own = of_parents = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        first, *trees = parts(row)
        own -= math.log(softmax(first)[label])
        for tree, part in zip(TREES, trees, strict=True):
            of_parents -= math.log(softmax(part)[parent(tree, label)])
    return own, of_parents


def test_columns_are_categories_and_the_parents_of_each_tree_with_background():
    variant = built(SETTINGS)
    assert variant.columns == sum(SIZES)
    assert variant.logits(torch.randn(3, D)).shape == (3, sum(SIZES))


@pytest.mark.parametrize("images", [drawn_labels(2, 20), [[C, C], [C]], [[0], [5]]])
def test_loss_is_of_categories_and_of_their_parents(images):
    batch = batch_of(images)
    logits = logits_of(len(batch.labels), sum(SIZES))
    terms = built(SETTINGS).terms(logits, batch)
    own, of_parents = loop(logits, batch.labels)
    assert terms["cls"][0].item() == pytest.approx(own, rel=1e-5)
    assert terms["parents"][0].item() == pytest.approx(of_parents, rel=1e-5)
    assert [count.item() for _, count in terms.values()] == [len(batch.labels)] * 2


def test_gradient_equals_finite_differences():
    variant, batch = built(SETTINGS), batch_of([[0, C, 3], [5, C]])
    logits = logits_of(5, sum(SIZES)).float().requires_grad_()
    total = sum(part for part, _ in variant.terms(logits, batch).values())
    (gradient,) = torch.autograd.grad(total, logits)
    expected = slopes(lambda z: sum(loop(z, batch.labels)), logits)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


def test_score_is_the_parents_mean_times_the_categorys_own_normalised():
    logits = logits_of(6, sum(SIZES))
    for row, scores in zip(logits.tolist(), built(SETTINGS).probabilities(logits).tolist()):
        own, *trees = parts(row)
        expected = []
        for label in range(C + 1):
            of_parents = [softmax(p)[parent(t, label)] for t, p in zip(TREES, trees, strict=True)]
            expected.append(sum(of_parents) / 2 * math.exp(own[label]))
        expected = [value / sum(expected) for value in expected]
        assert scores == pytest.approx(expected, rel=1e-5)


def test_scores_of_certain_and_hopeless_logits_are_finite():
    logits = torch.zeros(2, sum(SIZES))
    logits[0, 0], logits[1, C] = 1e4, -1e4
    scores = built(SETTINGS).probabilities(logits)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores.sum(dim=1), torch.ones(2))


def test_parents_give_features_no_gradient():
    variant = built(SETTINGS)
    features = torch.randn(4, D, requires_grad=True)
    logits = variant.logits(features)
    terms = variant.terms(logits, batch_of([[0, C], [2, 1]]))
    (of_parents,) = torch.autograd.grad(
        terms["parents"][0], features, retain_graph=True, allow_unused=True
    )
    assert of_parents is None or not of_parents.any()
    (own,) = torch.autograd.grad(terms["cls"][0], features)
    assert own.any()
