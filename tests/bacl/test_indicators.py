"""The confusion matrix against a loop over Table II's last row."""

import math

import torch

from bacl.indicators import ConfusionMatrix


def steps(categories=4, count=3):
    draw = torch.Generator().manual_seed(5)
    for _ in range(count):
        logits = torch.randn(12, categories + 1, generator=draw) * 2
        yield logits, torch.randint(0, categories + 1, (12,), generator=draw)


def loop_matrix(batches, categories):
    sums = [[0.0] * categories for _ in range(categories)]
    counts = [0] * categories
    for logits, labels in batches:
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            if label == categories:
                continue
            total = sum(math.exp(z) for z in row[:categories])
            for j in range(categories):
                sums[label][j] += math.exp(row[j]) / total
            counts[label] += 1
    return [[s / max(n, 1) for s in row] for row, n in zip(sums, counts, strict=True)]


def filled(batches):
    indicator = ConfusionMatrix(4)
    for logits, labels in batches:
        indicator.add(indicator.increment(logits, labels))
    return indicator


def test_matrix_equals_loop_over_all_samples_of_all_steps():
    batches = list(steps())
    expected = torch.tensor(loop_matrix(batches, 4))
    torch.testing.assert_close(filled(batches).matrix(), expected)


def test_increments_of_parts_sum_to_the_increment_of_the_whole():
    (logits, labels), *_ = steps()
    indicator = ConfusionMatrix(4)
    parts = indicator.increment(logits[:5], labels[:5]) + indicator.increment(
        logits[5:], labels[5:]
    )
    torch.testing.assert_close(parts, indicator.increment(logits, labels))


def test_category_never_seen_has_no_strength_and_no_margin():
    indicator = ConfusionMatrix(4)
    logits, labels = next(steps())
    indicator.add(indicator.increment(logits[labels == 1], labels[labels == 1]))
    assert indicator.strength()[0] == 0
    own, other = ConfusionMatrix(4).pairwise(torch.tensor([2]))
    assert (own == 0).all() and (other == 0).all()


def test_pairwise_gives_equation_7s_indicators():
    indicator = filled(steps())
    matrix = indicator.matrix()
    own, other = indicator.pairwise(torch.tensor([3, 1]))
    for j in range(4):
        assert other[0, j] == matrix[3, j] and own[0, j] == matrix[j, 3]
        assert other[1, j] == matrix[1, j] and own[1, j] == matrix[j, 1]


def test_strength_is_the_diagonal_within_0_and_1():
    strength = filled(steps()).strength()
    assert ((strength >= 0) & (strength <= 1)).all() and strength.max() > 0
