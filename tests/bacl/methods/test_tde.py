"""TDE against loops over samples, columns and heads, in float64."""

import math

import pytest
import torch
from batches import C, D, batch_of, built, drawn_labels, on_ranks, step
from scalars import softmax

SETTINGS = {"method": "tde", "heads": 2, "scale": 16.0, "momentum": 0.9, "alpha": 1.5}


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def parts(row, heads):
    values, size = row.tolist(), D // heads
    return [values[at : at + size] for at in range(0, D, size)]


def loop_logit(h, w, direction, heads, scale, alpha):
    """A logit, without the effect of the direction where one is given."""
    total = 0.0
    for h_k, w_k, e_k in zip(parts(h, heads), parts(w, heads), parts(direction, heads)):
        length = math.hypot(*w_k) + 1 / 32
        unit = [x / length for x in w_k]
        total += dot(h_k, unit) / math.hypot(*h_k)
        if alpha:
            along = [x / math.hypot(*e_k) for x in e_k]
            total -= alpha * dot(h_k, along) / math.hypot(*h_k) * dot(along, unit)
    return scale / heads * total


def loop_logits(variant, features, heads=2, alpha=0.0):
    return [
        [loop_logit(h, w, variant.direction, heads, 16.0, alpha) for w in variant.fc_cls.weight]
        for h in features
    ]


def at_test(**settings):
    """A variant in float64 whose direction has been set, as a test has it."""
    variant = built({**SETTINGS, **settings}).double().eval()
    variant.direction.copy_(torch.randn(D, generator=torch.Generator().manual_seed(5)))
    return variant


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_logits_in_training_sum_normalised_heads(heads):
    variant = built({**SETTINGS, "heads": heads}).double()
    features = batch_of([[0, 1, C], [2]]).features.double()
    expected = torch.tensor(loop_logits(variant, features, heads), dtype=torch.double)
    torch.testing.assert_close(variant.logits(features), expected)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_logits_at_test_come_with_and_without_the_directions_effect(heads):
    variant = at_test(heads=heads)
    features = batch_of([[0, 1, C], [2]]).features.double()
    plain, without = variant.logits(features).chunk(2, dim=1)
    for found, alpha in ((plain, 0.0), (without, 1.5)):
        expected = loop_logits(variant, features, heads, alpha)
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.double))
    assert variant.columns == 2 * (C + 1)


def test_direction_of_zero_has_no_effect():
    variant = built(SETTINGS).eval()
    plain, without = variant.logits(batch_of([[0, 1, C]]).features).chunk(2, dim=1)
    assert torch.equal(plain, without)


def test_gradient_of_logits_equals_finite_differences():
    classifier = built(SETTINGS).double().fc_cls
    features = batch_of([[0, 1, C]]).features.double().requires_grad_()

    def logits(features, weight):
        return torch.func.functional_call(classifier, {"weight": weight}, (features,))

    assert torch.autograd.gradcheck(logits, (features, classifier.weight))


STEPS = [drawn_labels(4, 10), [[C]] * 4, [[C], [C], [2, C], [C]], drawn_labels(4, 10, seed=1)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_direction_follows_the_mean_foreground_of_all_ranks(ranks):
    variant = built(SETTINGS)
    expected = [0.0] * D
    for number, images in enumerate(STEPS):
        step(variant, on_ranks(images, 4 * number, ranks=ranks))
        whole = batch_of(images, 4 * number)
        shown = [h for h, label in zip(whole.features.tolist(), whole.labels) if label < C]
        if shown:  # the second step shows background only
            means = [sum(column) / len(shown) for column in zip(*shown)]
            expected = [0.9 * e + mean for e, mean in zip(expected, means)]
        assert variant.direction.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_direction_counts_exactly_whatever_the_precision():
    variant, batch = built(SETTINGS), batch_of([[0] * 700, [1] * 601])
    ones = torch.ones(1301, D, dtype=torch.bfloat16)
    object.__setattr__(batch, "features", ones)
    with torch.autocast("cpu", torch.bfloat16):
        increment = variant.increment(torch.zeros(1301, C + 1), batch)
    assert increment.tolist() == [1301.0] * (D + 1)


def test_background_keeps_its_score_and_foreground_shares_the_rest():
    variant = at_test()
    logits = variant.logits(batch_of([[0, 1, C], [2]]).features.double())
    for row, scores in zip(logits.tolist(), variant.probabilities(logits).tolist()):
        background = softmax(row[: C + 1])[C]
        without = softmax(row[C + 1 :])[:C]
        expected = [(1 - background) * q / sum(without) for q in without]
        assert scores == pytest.approx([*expected, background], rel=1e-4)


def test_scores_where_nothing_is_taken_out_are_the_plain_softmax():
    variant = at_test(alpha=0.0)
    features = batch_of([[0, 1, C], [2]]).features.double()
    scores = variant.probabilities(variant.logits(features)).tolist()
    for row, found in zip(loop_logits(variant, features), scores):
        assert found == pytest.approx(softmax(row), rel=1e-5)
