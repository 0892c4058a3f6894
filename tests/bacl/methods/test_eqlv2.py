"""EQLv2 against loops over its gradients so far, step by step."""

import pytest
import torch
from batches import (
    IMAGES,
    C,
    batch_of,
    built,
    labelled,
    logits_of,
    loss_of,
    on_ranks,
    step,
    weights_of,
)
from scalars import bce, sigmoid

STEPS = [IMAGES, [[0, 0], [C], [], [4]], [[C], [C, C], [C], []], [[2], [2, 3], [1], [C, 0]]]
OPTIONS = [{"mu": 0.8, "gamma": 12.0, "alpha": 4.0}, {"mu": 0.2, "gamma": 3.0, "alpha": 1.5}]


def eqlv2(options=OPTIONS[0]):
    return built({"method": "eqlv2", **options}).double()


class Gradients:
    """Sums of gradients of all samples so far, and the weights that follow from them."""

    def __init__(self, mu, gamma, alpha):
        self.mu, self.gamma, self.alpha = mu, gamma, alpha
        self.positive, self.negative = [0.0] * C, [0.0] * C
        self.steps = 0

    def weight(self, j, target):
        if j == C:
            return 1.0
        ratio = self.positive[j] / (self.negative[j] + 1e-10) if self.steps else 100.0
        negative = sigmoid(self.gamma * (ratio - self.mu))
        return 1 + self.alpha * (1 - negative) if target else negative

    def loss(self, logits, labels):
        return sum(
            self.weight(j, j == label) * bce(z, j == label)
            for row, label in zip(logits.tolist(), labels.tolist())
            for j, z in enumerate(row)
        )

    def collect(self, logits, labels):
        found = [
            (j, j == label, abs(sigmoid(z) - (j == label)) * self.weight(j, j == label))
            for row, label in zip(logits.tolist(), labels.tolist())
            for j, z in enumerate(row[:C])
        ]
        for j, target, gradient in found:
            (self.positive if target else self.negative)[j] += gradient
        self.steps += 1


@pytest.mark.parametrize("options", OPTIONS)
def test_losses_and_gradients_of_steps_equal_loops_over_them(options):
    variant, expected, first = eqlv2(options), Gradients(**options), 0
    for images in STEPS:
        batch, logits = labelled(images, C + 1, first, seed=first)
        loss = loss_of(variant, batch, logits).item()
        assert loss == pytest.approx(expected.loss(logits, batch.labels), rel=1e-10)
        step(variant, on_ranks(images, first), logits)
        expected.collect(logits, batch.labels)
        assert variant.gradients[0].tolist() == pytest.approx(expected.positive, rel=1e-10)
        assert variant.gradients[1].tolist() == pytest.approx(expected.negative, rel=1e-10)
        first += len(images)


def test_first_step_is_plain_binary_cross_entropy():
    batch, logits = labelled(IMAGES, C + 1)
    weights = weights_of(eqlv2(), batch, logits)
    torch.testing.assert_close(weights, torch.ones_like(weights))


def test_category_without_samples_is_discouraged_little_and_encouraged_much():
    variant = eqlv2()
    images = [[0, C]] * 4
    step(variant, on_ranks(images), logits_of(8, C + 1))
    weights = weights_of(variant, *labelled([[1, C]], C + 1))
    little = sigmoid(12 * -0.8)
    assert weights[0, 1].item() == pytest.approx(1 + 4 * (1 - little))
    assert weights[1, 1].item() == pytest.approx(little)
    assert weights[:, C].tolist() == pytest.approx([1, 1])


def test_loss_in_autocast_is_no_less_precise():
    variant, batch = eqlv2().float(), batch_of([[0, C, 3]])
    logits = torch.full((3, C + 1), -7.0)
    logits[range(3), batch.labels] = 7.0
    logits.requires_grad_()
    plain = loss_of(variant, batch, logits)
    with torch.autocast("cpu", torch.bfloat16):
        cast = loss_of(variant, batch, logits)
    torch.testing.assert_close(cast, plain)
    gradients = (torch.autograd.grad(loss, logits)[0] for loss in (cast, plain))
    torch.testing.assert_close(*gradients)


def test_probabilities_multiply_sigmoids_by_objectness():
    logits = logits_of(5, C + 1)
    for row, scores in zip(logits.tolist(), eqlv2().probabilities(logits).tolist()):
        background = sigmoid(row[C])
        expected = [sigmoid(z) * (1 - background) for z in row[:C]]
        assert scores == pytest.approx([*expected, background], rel=1e-12)
