"""Intervals and p-values beside explicit loops, and how often they are right where the truth is
known."""

import itertools

import numpy as np
import pytest
import scipy.stats

from bacl_platform.analysis.uncertainty import (
    MOST_SEEDS,
    Pooled,
    Spread,
    holm,
    images_suffice,
    seeds_to_settle,
)

IMAGES = 40


def spread(images, seeds, count=3):
    of_images, of_seeds = np.array([images], dtype=float), np.array([seeds], dtype=float)
    return Spread(of_images, of_seeds, of_images, np.array([IMAGES]), 500, count, count - 1)


@pytest.mark.parametrize("seed", range(20))
def test_holm_steps_down_from_the_smallest(seed):
    generator = np.random.default_rng(seed)
    values = np.round(generator.random(generator.integers(1, 12)) ** 3, 2)
    for limit in (0.01, 0.05, 0.2, 0.5):
        rejected = set()
        left = dict(enumerate(values.tolist()))
        while left:  # Holm (1979): compare the smallest with limit / how many are left
            place = min(left, key=left.get)
            if left[place] > limit / len(left):
                break
            rejected.add(place)
            del left[place]
        assert {k for k, p in enumerate(holm(values)) if p <= limit + 1e-12} == rejected


def test_holm_leaves_unknown_p_values_out():
    corrected = holm(np.array([0.01, np.nan, 0.04]))
    assert corrected.tolist()[::2] == pytest.approx([0.02, 0.04]) and np.isnan(corrected[1])
    assert np.isnan(holm(np.array([np.nan]))).all() and not len(holm(np.array([])))


@pytest.mark.parametrize(("images", "seeds"), [(1, 0), (0, 1), (1, 1), (5, 0.2), (0.01, 3)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_p_value_is_one_less_confidence_at_the_interval_s_end(images, seeds, count):
    one = spread(images, seeds, count)
    for confidence in (0.5, 0.95, 0.999):
        end = one.half_width(confidence)
        assert one.p_value(end) == pytest.approx(1 - confidence, rel=1e-6)
        assert one.p_value(-end) == pytest.approx(1 - confidence, rel=1e-6)


def test_one_source_alone_gives_student_s_interval():
    quantile = scipy.stats.t.ppf(0.975, IMAGES - 1)
    assert spread(4, 0).half_width(0.95) == pytest.approx(2 * quantile)
    assert spread(4, np.nan, 1).half_width(0.95) == pytest.approx(2 * quantile)
    assert spread(0, 4, 5).half_width(0.95) == pytest.approx(2 * scipy.stats.t.ppf(0.975, 4))
    assert spread(4, np.nan, 1).p_value(np.array([3.0])) == pytest.approx(
        2 * scipy.stats.t.sf(1.5, IMAGES - 1)
    )


def test_what_never_varies_is_sure():
    one = spread(0, 0)
    assert one.p_value(np.zeros(1)) == 1 and one.p_value(np.ones(1)) == 0
    assert one.half_width(0.95) == 0


def test_variances_are_those_of_a_loop_over_resamples():
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 3, 1))
    drawn = generator.normal(size=(3, 50, 1)) + generator.normal(size=(1, 50, 1))
    together = np.mean(
        [
            np.cov(drawn[a, :, 0], drawn[b, :, 0])[0, 1]
            for a, b in itertools.permutations(range(3), 2)
        ]
    )
    scale = IMAGES / (IMAGES - 1)
    shown = np.array([IMAGES])
    paired = Spread.of(first, second, drawn, shown, paired=True)
    apart = Spread.of(first, second, drawn, shown, paired=False)
    assert paired.images[0] == pytest.approx(together * scale)
    assert paired.seeds[0] == pytest.approx(np.var(second - first, ddof=1) / 3)
    assert apart.seeds[0] == pytest.approx((np.var(first, ddof=1) + np.var(second, ddof=1)) / 3)
    mean = drawn[:, :, 0].mean(axis=0)
    assert paired.alone[0] == pytest.approx(np.var(mean, ddof=1) * scale)


def test_resamples_that_show_nothing_are_left_out():
    drawn = np.random.default_rng(0).normal(size=(1, 30, 1))
    drawn[0, ::3] = np.nan
    one = Spread.of(np.zeros((1, 1)), np.ones((1, 1)), drawn, np.array([IMAGES]), True)
    expected = np.nanvar(drawn, ddof=1) * IMAGES / (IMAGES - 1)
    assert one.images[0] == pytest.approx(expected)


def test_pooled_variance_is_that_of_a_loop_over_variants_and_seeds():
    points = np.random.default_rng(0).normal(size=(4, 3, 1))
    squares = 0.0
    for variant, seed in itertools.product(range(4), range(3)):
        expected = points[variant].mean() + points[:, seed].mean() - points.mean()
        squares += (points[variant, seed, 0] - expected) ** 2
    pooled = Pooled.of(points)
    assert (pooled.freedom, pooled.variance[0]) == (6, pytest.approx(2 * squares / 6))
    # with two variants it is the pair's own
    assert Pooled.of(points[:2]).variance[0] == pytest.approx(np.var(points[1] - points[0], ddof=1))


@pytest.mark.parametrize(("images", "seeds"), [(0.02, 1), (0.2, 0.4), (0.0001, 0.01)])
def test_seeds_that_settle_are_the_fewest_whose_interval_leaves_out_zero(images, seeds):
    one = spread(images, seeds)
    difference = 1.3

    def half_width(count):
        of_seeds = seeds * 3 / count
        quantiles = [scipy.stats.t.ppf(0.975, freedom) for freedom in (IMAGES - 1, count - 1)]
        share = of_seeds / (images + of_seeds)
        quantile = (1 - share) * quantiles[0] + share * quantiles[1]
        return quantile * (images + of_seeds) ** 0.5

    expected = next(count for count in range(2, 100) if half_width(count) < difference)
    assert seeds_to_settle(np.array([difference]), one, 0.95) == [expected]
    assert images_suffice(np.array([difference]), one, 0.95)


def test_images_that_limit_are_told_from_too_few_seeds():
    limited, hard = spread(1, 0.1), spread(0.001, 10)
    assert seeds_to_settle(np.ones(1), limited, 0.95) == [None]
    assert not images_suffice(np.ones(1), limited, 0.95)
    assert seeds_to_settle(np.full(1, 0.5), hard, 0.95) == [None]
    assert images_suffice(np.full(1, 0.5), hard, 0.95) and MOST_SEEDS == 50
    assert seeds_to_settle(np.ones(1), spread(1, np.nan, 1), 0.95) == [None]


# How often intervals are right


MIXES = {
    "images": (1, 0.02, 0.1),
    "both": (1, 0.2, 0.5),
    "seeds": (0.3, 0.3, 0.5),
    "other images for each seed": (0.1, 0, 2),
}
"""Standard deviations of an image, of a seed, and of an image with a seed."""


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_cover_a_known_difference(mix, seeds):
    """400 experiments of 40 images: a difference of each image, that all seeds share or not."""
    generator = np.random.default_rng([seeds, len(mix)])
    truth, covered, experiments = 0.3, 0, 400
    of_image, of_seed, of_both = MIXES[mix]
    for _ in range(experiments):
        each = (
            truth
            + generator.normal(0, of_image, IMAGES)
            + generator.normal(0, of_seed, (seeds, 1))
            + generator.normal(0, of_both, (seeds, IMAGES))
        )
        weights = generator.multinomial(IMAGES, np.full(IMAGES, 1 / IMAGES), size=150)
        drawn = (each @ weights.T / IMAGES)[..., None]
        second = each.mean(axis=1, keepdims=True)
        one = Spread.of(np.zeros_like(second), second, drawn, np.array([IMAGES]), True)
        covered += abs(second.mean() - truth) <= one.half_width(0.95)[0]
    assert 0.9 <= covered / experiments <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "noise"), [(2, (1, 1, 1, 1, 1, 1)), (3, (1, 2, 1, 2, 1, 2))])
def test_claims_over_all_pairs_are_rarely_wrong(seeds, noise):
    """Six variants that do not differ, of equal and of unequal variance over seeds."""
    generator = np.random.default_rng(seeds)
    wrong, experiments = 0, 150
    pairs = list(itertools.combinations(range(len(noise)), 2))
    for _ in range(experiments):
        points = generator.normal(size=(len(noise), seeds, 1)) * np.reshape(noise, (-1, 1, 1))
        first, second = (
            np.stack([points[pair[side], :, 0] for pair in pairs], axis=1) for side in (0, 1)
        )
        drawn = np.zeros((seeds, 2, len(pairs)))
        shown = np.full(len(pairs), IMAGES)
        one = Spread.of(first, second, drawn, shown, True, Pooled.of(points))
        wrong += holm(one.p_value((second - first).mean(axis=0))).min() < 0.05
    assert wrong / experiments < 0.1
