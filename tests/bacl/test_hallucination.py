"""Feature hallucination against explicit loops and closed forms."""

import itertools

import numpy as np
import pytest
import torch

from bacl.hallucination import FeatureStatistics, jitter_boxes, moments


def test_jittered_boxes_equal_loop_over_equation_10():
    boxes = torch.tensor([[10.0, 20.0, 40.0, 80.0], [0.0, 0.0, 6.0, 3.0]])
    magnitudes = torch.rand(16, 4, generator=torch.Generator().manual_seed(0))
    jittered = jitter_boxes(boxes, magnitudes, (90, 50))
    for b, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        sides = [x2 - x1, y2 - y1] * 2
        for k, signs in enumerate(itertools.product((-1, 1), repeat=4)):
            for c, corner in enumerate((x1, y1, x2, y2)):
                moved = corner + signs[c] * magnitudes[k, c].item() * sides[c] / 6
                expected = min(max(moved, 0.0), (50, 90)[c % 2])
                assert jittered[b * 16 + k, c].item() == pytest.approx(expected, abs=1e-5)


def batches(categories, width, count=3):
    draw = torch.Generator().manual_seed(2)
    for step in range(count):
        features = torch.rand(30, width, generator=draw) * 2
        labels = torch.randint(
            0, categories - 1 if step == 0 else categories, (30,), generator=draw
        )
        yield features, labels


def test_statistics_equal_loop_over_equation_11():
    statistics = FeatureStatistics(categories=4, width=3, beta=0.9)
    expected: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for features, labels in batches(4, 3):
        statistics.update(moments(features, labels, 4))
        for i in set(labels.tolist()):
            mine = features[labels == i].double().numpy()
            u, v = mine.mean(0), mine.var(0, ddof=1)
            old = expected.get(i)
            expected[i] = (
                (u, v) if old is None else (0.9 * old[0] + 0.1 * u, 0.9 * old[1] + 0.1 * v)
            )
    assert statistics.seen.all() and len(expected) == 4
    for i, (u, v) in expected.items():
        np.testing.assert_allclose(statistics.prototype[i], u, rtol=1e-5)
        np.testing.assert_allclose(statistics.variance[i], v, rtol=1e-4)


def test_moments_of_parts_sum_to_the_moments_of_the_whole():
    features, labels = next(batches(4, 3))
    parts = moments(features[:7], labels[:7], 4) + moments(features[7:], labels[7:], 4)
    torch.testing.assert_close(parts, moments(features, labels, 4))


@pytest.mark.parametrize("deviation", [1, 0.02, 0.002, 0.0002])
@pytest.mark.parametrize("ranks", [1, 2])
def test_variance_keeps_its_digits_where_the_deviation_is_small_beside_the_mean(deviation, ranks):
    """Of a first sight and of what follows, however ranks share the step, numpy's in float64."""
    draw = np.random.default_rng(0)
    statistics = FeatureStatistics(categories=3, width=5, beta=0.9)
    expected = np.zeros((3, 5))
    means = draw.uniform(0.5, 20, (3, 5))
    for step in range(3):
        labels = torch.from_numpy(np.repeat([0, 1, 2], 32))
        noise = draw.standard_normal((96, 5))
        features = torch.from_numpy(means[labels] * (1 + deviation * noise)).float()
        shuffled = torch.from_numpy(draw.permutation(96))
        shares = [moments(features[s], labels[s], 3) for s in shuffled.chunk(ranks)]
        statistics.update(sum(shares[1:], shares[0]))
        own = [features[labels == c].double().numpy().var(axis=0, ddof=1) for c in range(3)]
        expected = np.array(own) if step == 0 else 0.9 * expected + 0.1 * np.array(own)
        np.testing.assert_allclose(statistics.variance, expected, rtol=1e-5)
        assert statistics.variance.dtype == torch.float32


def test_sampling_follows_equation_12_by_chi_square():
    statistics = FeatureStatistics(categories=4, width=1, beta=0.9)
    statistics.seen.fill_(True)
    strength = torch.tensor([0.9, 0.5, 0.0, 1.0])
    _, labels = statistics.synthesize(strength, 6000, 1, [torch.Generator().manual_seed(0)])
    observed = torch.bincount(labels, minlength=4).numpy()
    chance = np.array([0.1, 0.5, 1.0]) / 1.6
    assert observed[3] == 0
    statistic = ((observed[:3] - 6000 * chance) ** 2 / (6000 * chance)).sum()
    assert statistic < 13.8  # chi-square, 2 degrees of freedom, p = 0.001


def test_synthesised_features_have_the_stored_mean_and_variance():
    statistics = FeatureStatistics(categories=2, width=3, beta=0.9)
    statistics.seen[1] = True
    statistics.prototype[1] = torch.tensor([1.0, -2.0, 0.5])
    statistics.variance[1] = torch.tensor([0.25, 4.0, 0.0])
    features, labels = statistics.synthesize(
        torch.tensor([1.0, 0.0]), 500, 40, [torch.Generator().manual_seed(1)]
    )
    assert (labels == 1).all() and len(features) == 20000
    np.testing.assert_allclose(features.mean(0), [1.0, -2.0, 0.5], atol=0.05)
    np.testing.assert_allclose(features.var(0), [0.25, 4.0, 0.0], rtol=0.05)


def test_rows_of_categories_never_seen_are_labelled_background():
    statistics = FeatureStatistics(categories=3, width=2, beta=0.9)
    statistics.seen[1] = True
    chance = torch.tensor([0.0, 0.0, 1.0])  # strength: the first two are drawn, evenly
    features, labels = statistics.synthesize(chance, 8, 12, [torch.Generator().manual_seed(0)])
    assert set(labels.tolist()) == {1, 3}
    assert features.shape == (96, 2) and not features.any()


def test_full_strength_everywhere_samples_evenly():
    statistics = FeatureStatistics(categories=3, width=1, beta=0.9)
    statistics.seen.fill_(True)
    _, labels = statistics.synthesize(torch.ones(3), 300, 1, [torch.Generator().manual_seed(0)])
    assert torch.bincount(labels, minlength=3).min() > 60
