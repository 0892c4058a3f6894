"""Spaces: what is drawn of them."""

import math

import numpy as np

from bacl_platform.spec.space import Axis


def test_ranges_draw_from_their_distributions():
    draw = np.random.default_rng(0)
    logs = [math.log10(Axis(loguniform=(1e-4, 1)).draw(draw)) for _ in range(4000)]
    counts, _ = np.histogram(logs, bins=4, range=(-4, 0))
    assert ((counts - 1000) ** 2 / 1000).sum() < 16.3  # chi-square, 3 degrees, p = 0.001
    whole = [Axis(randint=(1, 3)).draw(draw) for _ in range(3000)]
    assert ((np.bincount(whole)[1:] - 1000) ** 2 / 1000).sum() < 13.8
