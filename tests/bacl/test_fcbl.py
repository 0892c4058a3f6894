"""FCBL against explicit loops over Eqs. (2)-(9), in float64."""

import math

import pytest
import torch

from bacl import fcbl


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def loop_bce(logits, labels):
    """Eqs. (2)-(4), sample by sample and column by column."""
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        for column, z in enumerate(row):
            total -= math.log(sigmoid(z) if column == label else sigmoid(-z))
    return total


KEPT = {
    "both": lambda p_j, p_i, p_t: p_j >= p_i or p_j >= p_t,
    "misclassified": lambda p_j, p_i, p_t: p_j >= p_i,
    "overconfident": lambda p_j, p_i, p_t: p_j >= p_t,
    "overconfident_own": lambda p_j, p_i, p_t: p_j >= p_t,
    "none": lambda p_j, p_i, p_t: True,
}


def loop_fcbl(logits, labels, matrix, alpha, threshold, term="both"):
    """Eqs. (6)-(9) for foreground and Eq. (2) for background samples."""
    categories = logits.shape[1] - 1
    total = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        background = row[categories]
        if label == categories:
            total -= math.log(sigmoid(background))
            total -= sum(math.log(sigmoid(-z)) for z in row[:categories])
            continue
        short_term = [sigmoid(z) * (1 - sigmoid(background)) for z in row[:categories]]
        total -= math.log(sigmoid(-background))
        if term != "overconfident_own" or short_term[label] >= threshold:
            total -= math.log(sigmoid(row[label]))
        for j in range(categories):
            if j == label:
                continue
            if KEPT[term](short_term[j], short_term[label], threshold):
                own, other = max(matrix[j][label], 1e-3), max(matrix[label][j], 1e-3)
                delta = alpha * math.log(other / own)
                total -= math.log(sigmoid(-(row[j] + delta)))
    return total


def case(seed, samples=20, categories=5, scale=3.0):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, categories + 1, generator=draw) * scale
    labels = torch.randint(0, categories + 1, (samples,), generator=draw)
    matrix = torch.rand(categories, categories, generator=draw).square()
    matrix[0, 1:3] = 0  # exercises the clamp
    return logits, labels, matrix


def fcbl_of(logits, labels, matrix, alpha=0.85, threshold=0.7, term="both"):
    foreground = labels[labels < logits.shape[1] - 1]
    delta = fcbl.margin(matrix[:, foreground].T, matrix[foreground], alpha)
    return fcbl.fcbl(logits, labels, delta, threshold, term).sum()


@pytest.mark.parametrize("seed", range(5))
def test_bce_equals_loop_over_equation_2(seed):
    logits, labels, _ = case(seed)
    expected = loop_bce(logits, labels)
    assert fcbl.bce(logits, labels).sum().item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.85, 2.0])
@pytest.mark.parametrize("seed", range(4))
def test_fcbl_equals_loop_over_equation_6(seed, alpha):
    logits, labels, matrix = case(seed)
    expected = loop_fcbl(logits, labels, matrix.tolist(), alpha, 0.7)
    assert fcbl_of(logits, labels, matrix, alpha).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("threshold", [0.2, 0.7])
@pytest.mark.parametrize("term", KEPT)
def test_each_weight_term_equals_loop_over_its_condition_of_equation_9(term, threshold):
    logits, labels, matrix = case(11)
    expected = loop_fcbl(logits, labels, matrix.tolist(), 0.85, threshold, term)
    loss = fcbl_of(logits, labels, matrix, 0.85, threshold, term)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("labels", [[5, 5, 5], [0, 3, 3], []])
def test_fcbl_without_positives_or_without_background_equals_loop(labels):
    logits, _, matrix = case(7, samples=len(labels))
    labels = torch.tensor(labels, dtype=torch.long)
    expected = loop_fcbl(logits, labels, matrix.tolist(), 0.85, 0.7)
    assert fcbl_of(logits, labels, matrix).item() == pytest.approx(expected, rel=1e-5)


def test_fcbl_with_one_category_has_nothing_to_suppress():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.5]])
    labels = torch.tensor([0, 1])
    assert fcbl_of(logits, labels, torch.ones(1, 1)).item() == pytest.approx(
        fcbl.bce(logits, labels).sum().item()
    )


def test_gradient_of_fcbl_equals_finite_difference():
    logits, labels, matrix = case(3, samples=6)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(fcbl_of(logits, labels, matrix), logits)
    step = 1e-4
    for row, column in [(0, 0), (1, 2), (2, 5), (3, 4), (5, 1)]:
        moved = []
        for sign in (1, -1):
            shifted = logits.detach().double().clone()
            shifted[row, column] += sign * step
            moved.append(loop_fcbl(shifted, labels, matrix.tolist(), 0.85, 0.7))
        slope = (moved[0] - moved[1]) / (2 * step)
        assert gradient[row, column].item() == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_probabilities_equal_equation_5():
    logits, _, _ = case(1)
    for row, scores in zip(logits.tolist(), fcbl.probabilities(logits).tolist(), strict=True):
        background = sigmoid(row[-1])
        assert scores[-1] == pytest.approx(background, rel=1e-5)
        for z, score in zip(row[:-1], scores[:-1], strict=True):
            assert score == pytest.approx((1 - background) * sigmoid(z), rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_extreme_logits_in_half_precision_give_finite_loss_and_gradient(dtype):
    logits = torch.tensor([[60.0, -60.0, 30.0], [-60.0, 60.0, -30.0]], dtype=dtype)
    logits.requires_grad_()
    loss = fcbl_of(logits, torch.tensor([1, 2]), torch.zeros(2, 2))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite() and gradient.isfinite().all()
