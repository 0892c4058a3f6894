"""PCB against loops over samples and categories."""

import math

import pytest
import torch
from batches import COUNTS, C, D, batch_of, built, drawn_labels, on_ranks, slopes, step
from scalars import softmax

SETTINGS = {"method": "pcb", "mixing": 0.4, "momentum": 0.99, "start": 8, "counts": COUNTS}


def with_matrix(seed=0, unseen=(), **settings):
    """A variant and its confusion matrix, whose rows sum to 1, or 0 where unseen."""
    variant = built({**SETTINGS, **settings})
    matrix = torch.rand(C, C, generator=torch.Generator().manual_seed(seed)).square()
    matrix = matrix / matrix.sum(dim=1, keepdim=True)
    matrix[list(unseen)] = 0
    variant.confusion.copy_(matrix)
    return variant, variant.confusion.tolist()


def loop(logits, labels, matrix, mixing):
    """Cross-entropies, on foreground mixed with the divergence from a column of the matrix."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist()):
        scores = softmax(row)
        own = -math.log(scores[label])
        if label == C or not mixing:
            total += own
            continue
        column = [matrix[j][label] for j in range(C)]
        divergence = 0.0
        for j in range(C):  # the background's target is 0
            if target := column[j] / sum(column):
                divergence += target * math.log(target / scores[j])
        total += (1 - mixing) * own + mixing * divergence
    return total


def case(variant, images, first):
    batch = batch_of(images, first)
    draw = torch.Generator().manual_seed(4)
    logits = torch.randn(len(batch.labels), C + 1, generator=draw) * 2
    ((total, count),) = variant.terms(logits, batch).values()
    assert count == len(batch.labels)
    return total.item(), logits, batch.labels


@pytest.mark.parametrize("images", [drawn_labels(2, 20), [[C, C], [C]], [[0], [1, 5]]])
@pytest.mark.parametrize("mixing", [0.0, 0.4, 1.0])
def test_targets_are_mixed_with_columns_of_the_confusion_matrix(images, mixing):
    variant, matrix = with_matrix(mixing=mixing)
    total, logits, labels = case(variant, images, first=8)
    assert total == pytest.approx(loop(logits, labels, matrix, mixing), rel=1e-5)


def test_targets_are_not_mixed_before_their_time():
    variant, matrix = with_matrix()
    total, logits, labels = case(variant, drawn_labels(2, 20), first=6)
    assert total == pytest.approx(loop(logits, labels, matrix, 0.0), rel=1e-5)


def test_targets_are_not_mixed_before_every_category_has_been_seen():
    variant, matrix = with_matrix(unseen=[3])
    total, logits, labels = case(variant, drawn_labels(2, 20), first=8)
    assert total == pytest.approx(loop(logits, labels, matrix, 0.0), rel=1e-5)


def test_category_that_no_training_image_shows_is_not_waited_for():
    counts = {**COUNTS, "images": [2, 5, 10, 0, 300, 900]}
    variant, matrix = with_matrix(unseen=[3], counts=counts)
    total, logits, labels = case(variant, [[0, 1, C], [5, 5]], first=8)
    assert total == pytest.approx(loop(logits, labels, matrix, 0.4), rel=1e-5)


def test_targets_of_zero_and_of_a_category_never_predicted_give_finite_losses():
    variant, _ = with_matrix()
    variant.confusion[:, 2] = 0
    variant.confusion[0, 1] = 0
    logits = torch.zeros(2, C + 1, requires_grad=True)
    total, _ = variant.terms(logits, batch_of([[1, 2]], first=8))["cls"]
    (gradient,) = torch.autograd.grad(total, logits)
    assert total.isfinite() and gradient.isfinite().all()


def test_gradient_equals_finite_differences():
    variant, matrix = with_matrix()
    batch = batch_of([[0, C, 3], [5, C]], first=8)
    logits = torch.randn(5, C + 1, generator=torch.Generator().manual_seed(4)).requires_grad_()
    (gradient,) = torch.autograd.grad(variant.terms(logits, batch)["cls"][0], logits)
    expected = slopes(lambda z: loop(z, batch.labels, matrix, 0.4), logits)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


STEPS = [[[0, 0, C], [1], [C], [4, 0]], [[C]] * 4, drawn_labels(4, 12), drawn_labels(4, 12, 1)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("momentum", [0.5, 0.99])
def test_confusion_matrix_follows_the_foreground_of_all_ranks(ranks, momentum):
    variant = built({**SETTINGS, "momentum": momentum})
    with torch.no_grad():
        variant.fc_cls.weight.mul_(100)
    matrix = [[0.0] * C for _ in range(C)]
    for number, images in enumerate(STEPS):
        step(variant, on_ranks(images, 4 * number, ranks=ranks))
        whole = batch_of(images, 4 * number)
        rows = variant.logits(whole.features).tolist()
        for i in range(C):
            mine = [softmax(row[:C]) for row, label in zip(rows, whole.labels) if label == i]
            if mine:
                new = [sum(column) / len(mine) for column in zip(*mine)]
                mixed = [momentum * old + (1 - momentum) * add for old, add in zip(matrix[i], new)]
                matrix[i] = [value / sum(mixed) for value in mixed]
        for row, expected in zip(variant.confusion.tolist(), matrix):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert [sum(row) for row in matrix] == pytest.approx([1] * C)


PASSES = {
    "passes": [0.2, 0.3, 0.5],
    "refined": {"channels": 3, "places": 4, "deltas": 24},
}


def test_passes_mix_more_and_more_and_are_weighted():
    variant, matrix = with_matrix(mixing=0.4, **PASSES)
    batch = batch_of(drawn_labels(2, 20), first=8)
    draw = torch.Generator().manual_seed(4)
    logits = torch.randn(len(batch.labels), 3 * (C + 1), generator=draw) * 2
    total, count = variant.terms(logits, batch)["cls"]
    expected = sum(
        weight * loop(part, batch.labels, matrix, mixing)
        for weight, mixing, part in zip((0.2, 0.3, 0.5), (0.0, 0.2, 0.4), logits.chunk(3, dim=1))
    )
    assert count == len(batch.labels)
    assert total.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("ranks", [1, 2])
def test_confusion_matrix_takes_in_each_pass_in_turn(ranks):
    variant = built({**SETTINGS, "momentum": 0.5, **PASSES})
    images = drawn_labels(4, 12)
    logits = torch.randn(48, 3 * (C + 1), generator=torch.Generator().manual_seed(4))
    increments, at = [], 0
    for batch in on_ranks(images, ranks=ranks):
        increments.append(variant.increment(logits[at : at + len(batch.labels)], batch))
        at += len(batch.labels)
    variant.add(sum(increments))
    labels = batch_of(images).labels.tolist()
    for i in range(C):
        row = None
        for part in logits.chunk(3, dim=1):
            mine = [softmax(z[:C]) for z, label in zip(part.tolist(), labels) if label == i]
            new = [sum(column) / len(mine) for column in zip(*mine)]
            row = new if row is None else [(old + add) / 2 for old, add in zip(row, new)]
        assert variant.confusion[i].tolist() == pytest.approx(row, rel=1e-4)


def test_refined_features_are_scaled_at_places_and_shifted_in_channels():
    variant = built({**SETTINGS, **PASSES})
    for part in (variant.shift, variant.scale):
        part[-1].weight.data.normal_(generator=torch.Generator().manual_seed(1))
    pooled, h, deltas = torch.randn(2, 3, 2, 2), torch.randn(2, D), torch.randn(2, 24)
    refined = variant.refine(pooled, h, deltas)

    def perceptron(layers, row):
        hidden = [max(0.0, float(w @ row + b)) for w, b in zip(layers[0].weight, layers[0].bias)]
        return [
            sum(w * v for w, v in zip(ws.tolist(), hidden)) + float(b)
            for ws, b in zip(layers[-1].weight, layers[-1].bias)
        ]

    for sample in range(2):
        scale = perceptron(variant.scale, deltas[sample])
        shift = perceptron(variant.shift, variant.fc_cls(h[sample]))
        for channel in range(3):
            for place in range(4):
                before = pooled[sample, channel].flatten()[place].item()
                after = refined[sample, channel].flatten()[place].item()
                assert after == pytest.approx(before * scale[place] + shift[channel], abs=1e-4)


def test_scores_of_several_passes_are_the_last_ones():
    logits = torch.randn(4, 3 * (C + 1), generator=torch.Generator().manual_seed(0))
    scores = built({**SETTINGS, **PASSES}).probabilities(logits).tolist()
    for row, found in zip(logits.tolist(), scores):
        assert found == pytest.approx(softmax(row[2 * (C + 1) :]), rel=1e-5)
