"""Long-term indicators against explicit loops over Table II and Eq. (14)."""

import math

import pytest
import torch

from bacl.indicators import INDICATORS, ConfusionMatrix

C = 4
COUNTS = {"image_counts": [40, 10, 5, 1], "instance_counts": [90, 30, 6, 2]}


def steps(count=3):
    draw = torch.Generator().manual_seed(5)
    for step in range(count):
        logits = torch.randn(12, C + 1, generator=draw) * 2
        # category 3 is not seen in the first step
        yield logits, torch.randint(0, C + 1, (12,), generator=draw) % (C + (step > 0))


def build(name):
    return INDICATORS.get(name)(categories=C, gamma=0.9, **COUNTS)


def filled(indicator, count=3):
    for logits, labels in steps(count):
        indicator.update(logits, labels)
    return indicator


def samples(count=3):
    """(logits, label) of every foreground sample, step by step."""
    for logits, labels in steps(count):
        rows = zip(logits.tolist(), labels.tolist(), strict=True)
        yield [(row, label) for row, label in rows if label < C]


def loop_matrix(hard):
    sums = [[0.0] * C for _ in range(C)]
    counts = [0] * C
    for step in samples():
        for row, label in step:
            scores = [math.exp(z) for z in row[:C]]
            total, best = sum(scores), max(scores)
            for j in range(C):
                sums[label][j] += float(scores[j] == best) if hard else scores[j] / total
            counts[label] += 1
    return torch.tensor([[s / max(n, 1) for s in row] for row, n in zip(sums, counts, strict=True)])


@pytest.mark.parametrize(("name", "hard"), [("confusion_matrix", 0), ("hard_confusion_matrix", 1)])
def test_confusion_matrix_equals_loop_over_all_samples_of_all_steps(name, hard):
    torch.testing.assert_close(filled(build(name)).matrix(), loop_matrix(hard))


def test_pairwise_of_the_matrix_gives_equation_7s_indicators():
    indicator = filled(build("confusion_matrix"))
    matrix = indicator.matrix()
    own, other = indicator.pairwise(torch.tensor([3, 1]))
    for j in range(C):
        assert other[0, j] == matrix[3, j] and own[0, j] == matrix[j, 3]
        assert other[1, j] == matrix[1, j] and own[1, j] == matrix[j, 1]


def test_frequencies_are_relative_to_the_most_frequent_category():
    assert build("image_frequency").strength().tolist() == pytest.approx([1, 0.25, 0.125, 0.025])
    expected = [1, 30 / 90, 6 / 90, 2 / 90]
    assert build("instance_frequency").strength().tolist() == pytest.approx(expected)


def test_instance_number_counts_foreground_samples():
    counts = [0] * C
    for step in samples():
        for _, label in step:
            counts[label] += 1
    indicator = filled(build("instance_number"))
    assert indicator.level().tolist() == counts
    assert indicator.strength().max() == 1


def test_mean_score_equals_loop_over_the_moving_average():
    scores = [0.0] * C
    for step in samples():
        for i in range(C):
            mine = [1 / (1 + math.exp(-row[i])) for row, label in step if label == i]
            if mine:
                scores[i] = 0.9 * scores[i] + 0.1 * sum(mine) / len(mine)
    indicator = filled(build("mean_score"))
    assert indicator.level().tolist() == pytest.approx(scores, rel=1e-5)


def test_true_positive_rate_equals_loop_over_best_scores():
    right, seen = [0] * C, [0] * C
    for step in samples():
        for row, label in step:
            seen[label] += 1
            right[label] += row[:C].index(max(row[:C])) == label
    expected = [r / max(n, 1) for r, n in zip(right, seen, strict=True)]
    indicator = filled(build("true_positive_rate"))
    assert indicator.level().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("name", sorted(INDICATORS.module_dict))
def test_increments_of_parts_sum_to_the_increment_of_the_whole(name):
    logits, labels = list(steps())[1]
    indicator = build(name)
    whole = indicator.increment(logits, labels)
    parts = indicator.increment(logits[:5], labels[:5]) + indicator.increment(
        logits[5:], labels[5:]
    )
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("name", sorted(INDICATORS.module_dict))
def test_strength_lies_within_0_and_1_and_state_is_in_the_checkpoint(name):
    indicator = filled(build(name))
    strength = indicator.strength()
    assert strength.shape == (C,)
    assert ((strength >= 0) & (strength <= 1)).all() and strength.max() > 0
    copy = build(name)
    copy.load_state_dict(indicator.state_dict())
    assert torch.equal(copy.strength(), strength)


@pytest.mark.parametrize("name", sorted(INDICATORS.module_dict))
def test_step_without_foreground_changes_nothing(name):
    indicator = filled(build(name))
    before = indicator.strength().clone()
    indicator.update(torch.randn(6, C + 1), torch.full((6,), C))
    assert torch.equal(indicator.strength(), before)


@pytest.mark.parametrize("name", sorted(INDICATORS.module_dict))
def test_pairwise_broadcasts_to_samples_by_categories(name):
    indicator = filled(build(name))
    own, other = indicator.pairwise(torch.tensor([2, 0, 2]))
    assert (own / other.clamp_min(1e-3)).shape == (3, C)
    if not isinstance(indicator, ConfusionMatrix):
        assert torch.equal(own[:, 0], indicator.strength()[[2, 0, 2]])
