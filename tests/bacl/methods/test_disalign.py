"""DisAlign against loops over samples and categories."""

import math

import pytest
import torch
from batches import COUNTS, C, D, batch_of, built, drawn_labels, slopes

SETTINGS = {
    "method": "disalign",
    "rho": 0.8,
    "shares": "instances",
    "classifier": "linear",
    "counts": COUNTS,
}


def moved(**settings):
    """A variant whose corrections correct something, in float64."""
    variant = built({**SETTINGS, **settings}).double()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        variant.scale.copy_(torch.rand(C, generator=draw) + 0.5)
        variant.offset.copy_(torch.randn(C, generator=draw))
        variant.confidence.weight.copy_(torch.randn(1, D, generator=draw))
        variant.confidence.bias.fill_(0.3)
        if settings.get("classifier") != "cosine":
            variant.fc_cls.bias.copy_(torch.randn(C + 1, generator=draw))
    return variant


def base_logit(variant, h, j):
    """What the classifier of the stage before says, linear or of cosines."""
    w = variant.fc_cls.weight[j]
    dot = sum(a * b for a, b in zip(h.tolist(), w.tolist()))
    if not variant.cosine:
        return dot + variant.fc_cls.bias[j].item()
    return variant.fc_cls.scale.item() * dot / (math.hypot(*h.tolist()) * math.hypot(*w.tolist()))


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_logits_are_corrected_as_far_as_the_sample_is_confident(classifier):
    variant = moved(classifier=classifier)
    features = batch_of([[0, 1, C], [2]]).features.double()
    for h, row in zip(features, variant.logits(features)):
        w, v = variant.confidence.weight[0].tolist(), variant.confidence.bias.item()
        c = 1 / (1 + math.exp(-sum(a * b for a, b in zip(h.tolist(), w)) - v))
        for j in range(C):
            z = base_logit(variant, h, j)
            corrected = variant.scale[j].item() * z + variant.offset[j].item()
            assert row[j].item() == pytest.approx(c * corrected + (1 - c) * z)
        assert row[C].item() == pytest.approx(base_logit(variant, h, C))


def test_training_begins_with_the_logits_of_the_stage_before():
    variant = built(SETTINGS)
    features = batch_of([[0, 1, C], [2]]).features
    torch.testing.assert_close(variant.logits(features), variant.fc_cls(features))


def category_weights(counts, rho):
    """Powers of inverse shares, of mean 1 over categories, and 1 for background."""
    total = sum(counts)
    powers = [(1 / (count / total)) ** rho for count in counts]
    return [power / (sum(powers) / len(powers)) for power in powers] + [1.0]


@pytest.mark.parametrize("shares", ["instances", "images"])
@pytest.mark.parametrize("rho", [0.0, 0.8, 1.0])
def test_weights_are_powers_of_inverse_shares(shares, rho):
    variant = built({**SETTINGS, "shares": shares, "rho": rho})
    expected = category_weights(COUNTS[shares], rho)
    assert variant.weights.tolist() == pytest.approx(expected, rel=1e-5)
    assert sum(expected[:C]) / C == pytest.approx(1)


def test_category_without_instances_is_weighted_like_one_with_one():
    without = built({**SETTINGS, "counts": {**COUNTS, "instances": [0, 9, 10, 99, 400, 2000]}})
    with_one = built({**SETTINGS, "counts": {**COUNTS, "instances": [1, 9, 10, 99, 400, 2000]}})
    assert torch.equal(without.weights, with_one.weights)


def loop(logits, labels):
    """Sum of weighted cross-entropies, and of weights."""
    weights, total, divisor = category_weights(COUNTS["instances"], 0.8), 0.0, 0.0
    for row, label in zip(logits.tolist(), labels.tolist()):
        total += weights[label] * (math.log(sum(map(math.exp, row))) - row[label])
        divisor += weights[label]
    return total, divisor


@pytest.mark.parametrize("images", [drawn_labels(2, 20), [[C, C], [C]], [[0], [1]]])
def test_loss_is_averaged_by_the_sum_of_weights(images):
    variant, batch = moved(), batch_of(images)
    logits = variant.logits(batch.features.double())
    ((total, count),) = variant.terms(logits, batch).values()
    expected, divisor = loop(logits, batch.labels)
    assert total.item() == pytest.approx(expected, rel=1e-5)
    assert count.item() == pytest.approx(divisor, rel=1e-5)


def test_gradient_of_the_loss_equals_finite_differences():
    variant, batch = moved(), batch_of([[0, 3, C], [5, C]])
    logits = variant.logits(batch.features.double()).detach().requires_grad_()
    total, _ = variant.terms(logits, batch)["cls"]
    (gradient,) = torch.autograd.grad(total, logits)
    expected = slopes(lambda z: loop(z, batch.labels)[0], logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_gradient_reaches_the_corrections_as_finite_differences_say(classifier):
    variant = moved(classifier=classifier)
    features = batch_of([[0, 3, C], [5, C]]).features.double()
    names = [name for name, parameter in variant.named_parameters() if parameter.requires_grad]
    assert set(names) == {"scale", "offset", "confidence.weight", "confidence.bias"}

    def logits(*values):
        replaced = dict(zip(names, values))
        return torch.func.functional_call(Logits(variant), prefixed(replaced), (features,))

    inputs = [dict(variant.named_parameters())[name] for name in names]
    assert torch.autograd.gradcheck(logits, inputs)


class Logits(torch.nn.Module):
    """Calls a variant's `logits`."""

    def __init__(self, variant):
        super().__init__()
        self.variant = variant

    def forward(self, features):
        return self.variant.logits(features)


def prefixed(parameters):
    return {f"variant.{name}": value for name, value in parameters.items()}


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_classifier_of_the_stage_before_takes_no_gradient(classifier):
    variant = built({**SETTINGS, "classifier": classifier})
    batch = batch_of([[0, 3, C], [5, C]])
    total, _ = variant.terms(variant.logits(batch.features), batch)["cls"]
    total.backward()
    assert all(parameter.grad is None for parameter in variant.fc_cls.parameters())
    assert variant.offset.grad.abs().sum() > 0


def test_half_precision_gives_corrected_logits():
    variant, features = moved().float(), batch_of([[0, 1, C]]).features
    with torch.autocast("cpu", torch.bfloat16):
        logits = variant.logits(features)
    torch.testing.assert_close(logits.float(), variant.logits(features), rtol=0.05, atol=0.05)
