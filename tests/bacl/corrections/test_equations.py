"""Each correction is its equation: the oracles are loops over it, region by region."""

import math
from functools import partial

import pytest
import torch

from bacl.corrections.corrected import Corrected
from bacl.draws import generator
from bacl.variants import Batch, build_variant

IMAGES, INSTANCES, GROUPS = [0, 3, 40, 170], [0, 5, 90, 900], [0, 0, 1, 2]
COUNTS = {"images": IMAGES, "instances": INSTANCES, "groups": GROUPS, "total": 200}
C, D, N = len(IMAGES), 8, 11
SOFTMAX, SIGMOID, OBJECTNESS = {"method": "softmax"}, {"method": "sigmoid"}, {"method": "bce"}
TDE = {"method": "tde", "heads": 2, "scale": 16.0, "momentum": 0.9, "alpha": 1.5}


def corrected(base, **settings) -> Corrected:
    """A correction of a variant whose classifier is drawn at random."""
    made = build_variant({"of": "it", "base": base, **settings}, D, C, generator("cpu", "init"))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator("cpu", name)))
    return made.eval()


def scores_of(variant):
    """Logits (N, K) of the trained variant, and corrected scores (N, C + 1)."""
    features = torch.randn(N, D, generator=generator("cpu", "features"))
    with torch.no_grad():
        return variant.base.logits(features), variant.probabilities(variant.logits(features))


def normalised(numerators, background):
    total = sum(numerators) + background
    return [one / total for one in (*numerators, background)]


@pytest.mark.parametrize(("by", "counts"), [("images", IMAGES), ("instances", INSTANCES)])
def test_norcal_divides_softmax_scores_by_powers_of_counts_and_normalises(by, counts):
    variant = corrected(SOFTMAX, method="norcal", gamma=0.7, by=by, counts=COUNTS)
    logits, found = scores_of(variant)
    for row, scores in zip(logits.softmax(dim=1).tolist(), found):
        divided = [row[j] / max(counts[j], 1) ** 0.7 for j in range(C)]
        torch.testing.assert_close(scores, torch.tensor(normalised(divided, row[C])))


def test_norcal_divides_each_sigmoids_score_against_everything_else():
    variant = corrected(SIGMOID, method="norcal", gamma=0.4, by="images", counts=COUNTS)
    logits, found = scores_of(variant)
    for row, scores in zip(logits.tolist(), found):
        for j in range(C):
            own = 1 / (1 + math.exp(-row[j]))
            own, others = own / max(IMAGES[j], 1) ** 0.4, 1 - own
            assert scores[j].item() == pytest.approx(own / (own + others), rel=1e-5)
        assert scores[C] == 0


def test_norcal_leaves_objectness_as_it_is():
    variant = corrected(OBJECTNESS, method="norcal", gamma=0.4, by="images", counts=COUNTS)
    logits, found = scores_of(variant)
    for row, scores in zip(logits.tolist(), found):
        background = 1 / (1 + math.exp(-row[C]))
        for j in range(C):
            own = 1 / (1 + math.exp(-row[j]))
            own, others = own / max(IMAGES[j], 1) ** 0.4, 1 - own
            expected = own / (own + others) * (1 - background)
            assert scores[j].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("by", "counts"), [("images", IMAGES), ("instances", INSTANCES)])
def test_logit_adjustment_subtracts_logarithms_of_foreground_shares(by, counts):
    variant = corrected(SOFTMAX, method="logit_adjustment", tau=1.3, by=by, counts=COUNTS)
    logits, found = scores_of(variant)
    shown = [max(count, 1) for count in counts]
    for row, scores in zip(logits.tolist(), found):
        moved = [math.exp(row[j] - 1.3 * math.log(shown[j] / sum(shown))) for j in range(C)]
        torch.testing.assert_close(scores, torch.tensor(normalised(moved, math.exp(row[C]))))


@pytest.mark.parametrize("base", [SOFTMAX, SIGMOID, OBJECTNESS])
def test_temperature_divides_logits_of_each_group_by_its_own(base):
    given = [0.5, 1.0, 2.0]
    variant = corrected(base, method="temperature", temperatures=given, counts=COUNTS)
    logits, found = scores_of(variant)
    divided = logits.clone()
    for j in range(C):
        divided[:, j] = logits[:, j] / given[GROUPS[j]]
    torch.testing.assert_close(found, variant.base.probabilities(divided))


def shown_batch(labels, positions, weights=None):
    images = torch.arange(len(labels)) * len(positions) // len(labels)
    features = torch.randn(len(labels), D, generator=generator("cpu", "shown", positions[0]))
    return Batch(
        features=features,
        labels=torch.tensor(labels),
        images=images,
        positions=positions,
        ids=positions,
        generator=partial(generator, "cpu", "variant"),
        weights=None if weights is None else torch.tensor(weights),
    )


def observed(variant, batches):
    variant.train()
    logits = []
    for batch in batches:
        logits.append(variant.logits(batch.features).detach())
        variant.update(logits[-1], batch)
    variant.eval()
    return logits


def test_logn_normalises_by_the_statistics_of_the_regions_it_was_shown():
    variant = corrected(SOFTMAX, method="logn", images=3)
    batches = [shown_batch([0, 4, 1, 2], [0, 1]), shown_batch([4, 4, 3, 1], [2, 3])]
    rows = torch.cat(observed(variant, batches)).tolist()[:6]  # an image has two regions
    logits, found = scores_of(variant)
    means = [sum(row[j] for row in rows) / 6 for j in range(C)]
    deviations = [math.sqrt(sum((row[j] - means[j]) ** 2 for row in rows) / 5) for j in range(C)]
    for row, scores in zip(logits.tolist(), found):
        moved = [(row[j] - means[j] + min(means)) / deviations[j] for j in range(C)]
        expected = normalised([math.exp(one) for one in moved], math.exp(row[C]))
        torch.testing.assert_close(scores, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_logn_is_mmdetections_batch_norm_in_the_release():
    """The release's head, with statistics of one batch: momentum None keeps their plain mean."""
    variant = corrected(SOFTMAX, method="logn", images=100)
    (rows,) = observed(variant, [shown_batch([0, 4, 1, 2, 4, 4], [0, 1])])
    norm = torch.nn.BatchNorm1d(C + 1, affine=False, momentum=None)
    norm(rows)
    mean, deviation = norm.running_mean.clone(), norm.running_var.sqrt()
    mean[-1], deviation[-1] = 0, 1
    beta = torch.zeros(C + 1)
    beta[:-1] = mean[:-1].min()
    logits, found = scores_of(variant)
    expected = ((logits - (mean - beta)) / deviation).softmax(dim=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_regions_that_stand_for_several_count_as_often():
    weighted, repeated = (corrected(SOFTMAX, method="logn", images=9) for _ in range(2))
    one = shown_batch([0, 4, 1, 4], [0, 1], weights=[1.0, 3.0, 1.0, 2.0])
    (rows,) = observed(weighted, [one])
    again = torch.tensor([1, 3, 1, 2])
    many = shown_batch([0] * 7, [0])
    repeated.update(rows.repeat_interleave(again, dim=0), many)
    torch.testing.assert_close(weighted.correction(), repeated.correction())


def test_tde_alpha_is_tde_trained_with_that_alpha():
    variant = corrected(TDE, method="tde_alpha", alpha=0.3)
    own = build_variant({**TDE, "alpha": 0.3}, D, C, generator("cpu", "init")).eval()
    for one in (own, variant.base):
        one.direction.copy_(torch.randn(D, generator=generator("cpu", "direction")))
    own.fc_cls.load_state_dict(variant.base.fc_cls.state_dict())
    features = torch.randn(N, D, generator=generator("cpu", "features"))
    expected = own.probabilities(own.logits(features))
    assert torch.equal(variant.probabilities(variant.logits(features)), expected)
    other = corrected(TDE, method="tde_alpha", alpha=1.5)
    other.base.direction.copy_(own.direction)
    assert not torch.allclose(other.probabilities(other.logits(features)), expected)


@pytest.mark.parametrize("base", [SOFTMAX, SIGMOID, OBJECTNESS])
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "norcal", "gamma": 0.0, "by": "images", "counts": COUNTS},
        {"method": "temperature", "temperatures": [1.0, 1.0, 1.0], "counts": COUNTS},
    ],
)
def test_correction_of_nothing_changes_no_bit(base, settings):
    variant = corrected(base, **settings)
    logits, found = scores_of(variant)
    assert torch.equal(found, variant.base.probabilities(logits))


@pytest.mark.parametrize("base", [SOFTMAX, SIGMOID, OBJECTNESS])
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "norcal", "gamma": 0.6, "by": "images", "counts": COUNTS},
        {"method": "temperature", "temperatures": [0.6, 1.0, 1.4], "counts": COUNTS},
        {"method": "logn", "images": 4},
    ],
)
def test_linear_classifier_takes_the_correction_into_its_weights(base, settings):
    variant = corrected(base, **settings)
    if settings["method"] == "logn":
        observed(variant, [shown_batch([0, 4, 1, 2, 3, 4], [0, 1])])
    own = {"of": "it", "base": base, **settings}
    state = type(variant).stock_state(own, variant.state_dict())
    features = torch.randn(N, D, generator=generator("cpu", "features"))
    expected = variant.logits(features)
    found = torch.nn.functional.linear(features, state["weight"], state["bias"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
