"""Statistics over seeds: intervals of means and paired differences.

S seeds.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import mean, stdev

LEAST_SEEDS = 3
"""Seeds from which on an interval says anything."""
LEVEL = 0.05
"""Probability that an interval leaves out the true mean, and that a test errs."""


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of values (S,) by Student's t; None of fewer than `LEAST_SEEDS`.

    Few seeds make it wide: with three, 2.5 standard deviations to each side.
    """
    if len(values) < LEAST_SEEDS:
        return None
    from scipy.stats import t

    reach = float(t.ppf(1 - LEVEL / 2, len(values) - 1)) * stdev(values) / math.sqrt(len(values))
    return mean(values) - reach, mean(values) + reach


def paired(own: Mapping[int, float], other: Mapping[int, float]) -> list[float]:
    """`own` less `other`, for each seed that both have (S,)."""
    return [value - other[seed] for seed, value in own.items() if seed in other]


def chance(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of differences (S,) by Student's t, for a mean of 0; None of fewer than
    `LEAST_SEEDS`."""
    if len(differences) < LEAST_SEEDS:
        return None
    from scipy.stats import t

    deviation = stdev(differences)
    if deviation == 0:
        return 1.0 if mean(differences) == 0 else 0.0
    statistic = abs(mean(differences)) / deviation * math.sqrt(len(differences))
    return float(2 * t.sf(statistic, len(differences) - 1))
