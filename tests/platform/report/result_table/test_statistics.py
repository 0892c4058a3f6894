"""Intervals, paired differences and Holm's correction, against libraries and by hand."""

import numpy as np
import pytest
from scipy import stats

from bacl_platform.report.result_table.statistics import chance, interval, paired


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
