"""Population-based training: who copies whom."""

from collections import Counter

import numpy as np
import pytest

from bacl_platform.plan.population import Population, evolve, explored
from bacl_platform.spec.space import Axis


def population(**options):
    names = "abcdefgh"
    given = {
        "metric": "AP",
        "mode": "max",
        "interval": 1,
        "quantile": 0.25,
        "resample": 0.0,
        "space": {"alpha": Axis(uniform=(0, 1)), "term": Axis(choice=["x", "y", "z"])},
        "members": {name: {"alpha": 0.5, "term": "y"} for name in names},
    }
    return Population(**{**given, **options})


def test_worst_quarter_goes_on_from_the_best_quarter():
    scores = dict(zip("abcdefgh", [0.1, 0.9, 0.3, float("nan"), 0.5, 0.8, 0.2, 0.4]))
    sources = Counter()
    for seed in range(200):
        moves = evolve(population(), scores, population().members, np.random.default_rng(seed))
        assert [move.member for move in moves] == ["a", "d"]
        sources.update(move.source for move in moves)
    assert sources.keys() == {"b", "f"} and min(sources.values()) > 150
    least = evolve(population(mode="min"), scores, population().members, np.random.default_rng(0))
    assert {m.member for m in least} == {"b", "d"} and {m.source for m in least} <= {"a", "g"}


@pytest.mark.parametrize("names", ["", "a"])
def test_population_of_none_or_one_stays_as_it_is(names):
    scores = dict.fromkeys(names, 0.5)
    assert evolve(population(), scores, population().members, np.random.default_rng(0)) == []


def test_values_move_by_a_fifth_or_to_a_neighbour_and_stay_in_their_axis():
    draw = np.random.default_rng(0)
    floats = {explored(Axis(uniform=(0, 0.55)), 0.5, 0.0, draw) for _ in range(50)}
    assert floats == {0.4, 0.55}
    assert {explored(Axis(choice=[1, 2, 5]), 2, 0.0, draw) for _ in range(50)} == {1, 5}
    assert {explored(Axis(choice=[1, 2, 5]), 5, 0.0, draw) for _ in range(50)} == {2, 5}
    assert {explored(Axis(randint=(1, 10)), 9, 0.0, draw) for _ in range(50)} == {7, 10}
    anew = [explored(Axis(uniform=(2, 3)), 2.5, 1.0, draw) for _ in range(200)]
    assert min(anew) < 2.1 and max(anew) > 2.9
