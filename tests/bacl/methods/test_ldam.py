"""LDAM against a loop over its margins, and its deferred weights."""

import math

import pytest
import torch
from batches import COUNTS, IMAGES, C, D, batch_of, built, labelled, slopes
from scalars import cross_entropy, effective, softmax
from training import config_of

from bacl.method_settings.priors import LDAM

SETTINGS = {"method": "ldam", "margin": 0.5, "scale": 30.0, "deferred": 8, "beta": 0.99}


def ldam(**changes):
    return built({**SETTINGS, "counts": COUNTS, **changes})


def loop(logits, labels, margin, scale):
    """Losses of samples: cosines are given times `scale`."""
    least = min(COUNTS["instances"])
    losses = []
    for row, label in zip(logits.tolist(), labels.tolist()):
        cosines = [z / scale for z in row]
        if label < C:
            cosines[label] -= margin * (least / COUNTS["instances"][label]) ** 0.25
        losses.append(cross_entropy([scale * cosine for cosine in cosines], label))
    return losses


def test_logits_are_scaled_cosines_and_scores_their_softmax():
    variant, features = ldam(), torch.randn(4, D)
    logits = variant.logits(features)
    for h, row in zip(features.tolist(), logits.tolist()):
        for w, z in zip(variant.fc_cls.weight.tolist(), row, strict=True):
            product = sum(a * b for a, b in zip(h, w))
            assert z == pytest.approx(30 * product / math.hypot(*h) / math.hypot(*w), abs=1e-4)
    for row, scores in zip(logits.tolist(), variant.probabilities(logits).tolist()):
        assert scores == pytest.approx(softmax(row), rel=1e-4)
    assert not variant.fc_cls.scale.requires_grad


@pytest.mark.parametrize(("margin", "scale"), [(0.5, 30.0), (0.2, 4.0), (0.0, 16.0)])
def test_loss_lowers_the_own_cosine_by_a_margin_that_falls_with_the_count(margin, scale):
    variant = ldam(margin=margin, scale=scale)
    batch, logits = labelled(IMAGES, C + 1)
    total, count = variant.terms(logits, batch)["cls"]
    assert total.item() == pytest.approx(sum(loop(logits, batch.labels, margin, scale)), rel=1e-5)
    assert count == len(logits)


def test_gradient_equals_finite_differences():
    variant = ldam(scale=4.0)
    batch, logits = labelled([[0, C, 3], [5]], C + 1)
    logits = logits.float().requires_grad_()
    (gradient,) = torch.autograd.grad(variant.terms(logits, batch)["cls"][0], logits)
    expected = slopes(lambda moved: sum(loop(moved, batch.labels, 0.5, 4.0)), logits)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("first", "deferred"), [(8, 8), (4, 0), (4, 8), (4, None)])
def test_samples_are_weighted_from_the_deferred_start_on(first, deferred):
    variant = ldam(deferred=deferred)
    batch, logits = labelled(IMAGES, C + 1, first)
    started = deferred is not None and first >= deferred
    weights = [*effective(0.99, COUNTS["instances"]), 1.0]
    shares = [weights[label] if started else 1.0 for label in batch.labels.tolist()]
    total, count = variant.terms(logits, batch)["cls"]
    losses = loop(logits, batch.labels, 0.5, 30.0)
    assert total.item() == pytest.approx(sum(w * x for w, x in zip(shares, losses)), rel=1e-5)
    assert count.item() == pytest.approx(sum(shares), rel=1e-5)


@pytest.mark.parametrize(("share", "start"), [(0.8, 24), (0.5, 16), (None, None)])
def test_start_is_a_share_of_the_stage_as_a_position(dataset_info, share, start):
    config = config_of(dataset_info, {"mine": LDAM(method="ldam", deferred=share)})
    options = config["model"]["roi_head"]["bbox_head"]["variants"]["mine"]
    iterations = config["train_cfg"]["max_iters"]
    batch = config["train_dataloader"]["batch_size"]
    expected = None if share is None else round(share * iterations) * batch
    assert options["deferred"] == expected


def test_sample_of_a_rare_category_needs_the_whole_margin():
    batch = batch_of([[0], [5]])
    logits = torch.zeros(2, C + 1)
    rare, frequent = ldam().loss(logits, batch.labels).tolist()
    assert rare == pytest.approx(math.log(C + math.exp(-15)) + 15, rel=1e-5)
    assert frequent < rare
