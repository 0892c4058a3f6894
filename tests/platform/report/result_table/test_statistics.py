"""Intervals, paired differences and Holm's correction, against libraries and by hand."""

import numpy as np
import pytest
from scipy import stats

from bacl_platform.report.result_table.statistics import chance, holm, interval, paired


@pytest.mark.parametrize("count", [3, 5, 12])
def test_interval_equals_scipys_of_student(count):
    values = np.random.default_rng(count).normal(30, 2, count)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(list(values)) == pytest.approx((expected.low, expected.high))


def test_two_seeds_have_no_interval_and_no_chance():
    assert interval([1.0, 2.0]) is None
    assert chance([1.0, 2.0]) is None


@pytest.mark.parametrize("count", [3, 5, 12])
def test_chance_equals_scipys_t_test(count):
    values = np.random.default_rng(count).normal(0.5, 1, count)
    assert chance(list(values)) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_chance_without_any_spread_is_certain():
    assert chance([0.0, 0.0, 0.0]) == 1
    assert chance([0.5, 0.5, 0.5]) == 0


def test_differences_are_of_the_seeds_that_both_have():
    assert paired({0: 3.0, 2: 5.0, 7: 1.0}, {7: 4.0, 0: 1.0, 1: 9.0}) == [2.0, -3.0]


def test_holms_correction_equals_the_worked_example():
    # sorted: 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1 raised to the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_holms_correction_rejects_what_stepping_down_rejects():
    rng = np.random.default_rng(0)
    for _ in range(50):
        chances = list(rng.uniform(0, 0.05, 6) ** 1.5)
        rejected, left = set(), sorted(range(6), key=lambda place: chances[place])
        while left and chances[left[0]] * len(left) < 0.05:  # Holm's own procedure
            rejected.add(left.pop(0))
        assert {place for place, p in enumerate(holm(chances)) if p < 0.05} == rejected
