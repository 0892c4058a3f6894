"""What several methods do alike: gradients, scores, draws, and classifiers without a loss of their
own."""

import pytest
import torch
from batches import (
    COUNTS,
    IMAGES,
    C,
    batch_of,
    built,
    labelled,
    logits_of,
    loss_of,
    on_ranks,
    slopes,
    split,
    step,
    weights_of,
)
from scalars import cross_entropy, sigmoid, softmax

from bacl.method_settings.registry import METHODS as SETTINGS
from bacl.variants import METHODS

BALMS = {"method": "balms", "counts": COUNTS}
EQL = {"method": "eql", "tail": None, "counts": COUNTS}
DROPLOSS = {"method": "droploss", "tail": None, "counts": COUNTS}
ACSL = {"method": "acsl", "threshold": 0.7, "background_shares": [0.2, 0.6, 1.0], "counts": COUNTS}
EQLV2 = {"method": "eqlv2", "mu": 0.8, "gamma": 12.0, "alpha": 4.0}
COSINE = {"method": "cosine", "scale": 20.0}
TDE = {"method": "tde", "heads": 2, "scale": 16.0, "momentum": 0.9, "alpha": 1.5}
DISALIGN = {"method": "disalign", "rho": 0.8, "shares": "instances", "classifier": "linear"}
FASA = {"method": "fasa", "rate": 0.1, "weight": 0.1, "up": 1.1, "down": 0.9, "held_out": 0.4}
PCB = {"method": "pcb", "mixing": 0.4, "momentum": 0.99, "start": 8, "counts": COUNTS}


def each(*settings):
    """Parametrises a test by methods, named after them."""
    names = [one["method"] for one in settings]
    return pytest.mark.parametrize("settings", settings, ids=names)


def trained(settings):
    """A variant in float64 whose state is not what it was at first."""
    variant = built(settings).double()
    if settings["method"] == "droploss":
        variant.share.fill_(0.5)
    elif settings["method"] == "eqlv2":
        step(variant, on_ranks(IMAGES), logits_of(15, C + 1, seed=1))
    return variant


@each(BALMS, EQL, DROPLOSS, ACSL, EQLV2)
def test_gradient_of_weighted_sigmoids_equals_finite_differences(settings):
    variant = trained(settings)
    batch, logits = labelled(IMAGES, variant.columns)
    own = logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda moved: loss_of(variant, batch, moved), own)


@each(BALMS, EQL, DROPLOSS)
def test_scores_are_sigmoids_and_none_for_background(settings):
    logits = logits_of(15, C)
    scores = built(settings).double().probabilities(logits)
    for row, found in zip(logits.tolist(), scores.tolist(), strict=True):
        assert found == pytest.approx([*map(sigmoid, row), 0.0], rel=1e-12)


@each(COSINE, {**DISALIGN, "counts": COUNTS}, {**FASA, "epoch": 8, "counts": COUNTS}, PCB)
def test_scores_are_the_softmax_with_the_background_last(settings):
    logits = torch.randn(4, C + 1, generator=torch.Generator().manual_seed(0)) * 3
    scores = built(settings).probabilities(logits)
    for row, found in zip(logits.tolist(), scores.tolist(), strict=True):
        assert found == pytest.approx(softmax(row), rel=1e-5)


@each(BALMS, EQL, ACSL)
def test_training_leaves_no_state(settings):
    variant = built(settings)
    batch, logits = labelled(IMAGES, variant.columns)
    assert variant.increment(logits, batch) is None
    assert set(variant.state_dict()) == {"fc_cls.weight", "fc_cls.bias"}


@each(DROPLOSS, ACSL)
def test_same_is_drawn_of_an_image_whichever_rank_holds_it(settings):
    images = [[C] * 6, [C, 0, C], [C] * 5, [C] * 7]
    variant = trained(settings)
    batch, logits = labelled(images, variant.columns, first=8)
    whole = weights_of(variant, batch, logits)
    shares = on_ranks(images, first=8)
    parts = [weights_of(variant, b, z) for b, z in zip(shares, split(logits, shares), strict=True)]
    torch.testing.assert_close(whole, torch.cat(parts))
    assert not torch.allclose(whole, weights_of(variant, batch_of(images, 12), logits))


def cross_entropies(logits, labels):
    return sum(map(cross_entropy, logits.tolist(), labels.tolist()))


@each(COSINE, TDE)
@pytest.mark.parametrize("images", [[[0, C, 3, 3], [5, C]], [[C], [C]], [[1], [2]]])
def test_loss_of_another_classifier_is_the_cross_entropy_over_samples(settings, images):
    variant, batch = built(settings), batch_of(images)
    logits = variant.logits(batch.features)
    assert variant.terms(logits, batch).keys() == {"cls"}
    expected = cross_entropies(logits, batch.labels)
    assert loss_of(variant, batch, logits).item() == pytest.approx(expected, rel=1e-5)


@each(COSINE, TDE)
def test_gradient_of_the_cross_entropy_equals_finite_differences(settings):
    variant, batch = built(settings), batch_of([[0, C, 3], [5, C]])
    logits = variant.logits(batch.features).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of(variant, batch, logits), logits)
    expected = slopes(lambda moved: cross_entropies(moved, batch.labels), logits)
    torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_say_which_layers_the_variant_reads(name):
    assert SETTINGS[name].reads == METHODS.get(name).reads
