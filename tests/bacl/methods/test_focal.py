"""Focal loss against torchvision's, and what it is divided by."""

import pytest
import torch
import torch.nn.functional as F
from batches import IMAGES, C, built, labelled
from torchvision.ops import sigmoid_focal_loss

FOCAL = {"method": "focal", "gamma": 2.0, "alpha": 0.25, "prior": 0.01}


@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.5, 0.5), (0.0, 0.75), (5.0, 0.0)])
def test_loss_and_gradient_are_torchvisions(gamma, alpha):
    variant = built({**FOCAL, "gamma": gamma, "alpha": alpha})
    batch, logits = labelled(IMAGES, C)
    targets = F.one_hot(batch.labels, C + 1)[:, :-1].to(logits)
    mine, theirs = (logits.clone().requires_grad_() for _ in range(2))
    found = variant.loss(mine, batch.labels)
    expected = sigmoid_focal_loss(theirs, targets, alpha=alpha, gamma=gamma).sum(dim=1)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_loss_is_over_the_foreground_samples():
    variant = built(FOCAL).double()
    batch, logits = labelled(IMAGES, C)
    total, count = variant.terms(logits, batch)["cls"]
    assert count == sum(label < C for image in IMAGES for label in image)
    torch.testing.assert_close(total, variant.loss(logits, batch.labels).sum())


def test_every_probability_is_the_prior_before_training():
    variant = built({**FOCAL, "prior": 0.2})
    variant.fc_cls.weight.data.zero_()
    scores = variant.probabilities(variant.logits(torch.randn(3, 8)))
    torch.testing.assert_close(scores[:, :-1], torch.full((3, C), 0.2))


def test_gradient_is_finite_where_a_sigmoid_is_exactly_its_target():
    logits = torch.tensor([[300.0] + [-300.0] * (C - 1)]).requires_grad_()
    built({**FOCAL, "gamma": 0.5}).loss(logits, torch.tensor([0])).sum().backward()
    assert logits.grad.isfinite().all()
