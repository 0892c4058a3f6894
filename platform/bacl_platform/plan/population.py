"""Population-based training (Jaderberg et al., 2017) inside one bank.

All members share the trunk and are evaluated at the same step, so who copies whom is a function of
the evaluation and the seed alone: it needs no messages, and a resumed job decides as an undisturbed
one would.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field

from bacl.schema import Settings
from bacl_platform.spec.space import Axis, Space

FACTORS = (0.8, 1.2)
"""A number moves by one of these; in a list, to a neighbour."""


class Population(Settings):
    """How the variants of a job compete; part of each variant's key."""

    metric: str
    mode: Literal["max", "min"]
    interval: int = Field(gt=0)
    """Evaluations between copies."""
    quantile: float = Field(gt=0, le=0.5)
    """Share of the members that are replaced, and of those that are copied."""
    resample: float = Field(ge=0, le=1)
    """Chance that a field is drawn anew instead of moved."""
    space: Space
    """The fields that change, as paths from the variant."""
    members: dict[str, dict[str, Any]]
    """The values that each variant starts with."""


class Move(NamedTuple):
    """A member that goes on from another's state, with values of its own."""

    member: str
    source: str
    values: dict[str, Any]


def evolve(
    population: Population,
    scores: Mapping[str, float],
    values: Mapping[str, dict[str, Any]],
    generator: np.random.Generator,
) -> list[Move]:
    """Which members are replaced by copies of others, after an evaluation with these scores.

    scores: of the members that are left; NaN is worse than any. values: what they train with.
    """
    sign = -1.0 if population.mode == "max" else 1.0
    ranked = sorted(scores, key=lambda name: (math.isnan(scores[name]), sign * scores[name], name))
    count = min(math.ceil(len(ranked) * population.quantile), len(ranked) // 2)
    moves = []
    for member in ranked[len(ranked) - count :]:
        source = ranked[int(generator.integers(count))]
        moved = {
            path: explored(axis, values[source][path], population.resample, generator)
            for path, axis in population.space.items()
        }
        moves.append(Move(member, source, moved))
    return moves


def explored(axis: Axis, value: Any, resample: float, generator: np.random.Generator) -> Any:
    """A value near another, within the axis, or with chance `resample` any of the axis."""
    if generator.random() < resample:
        return axis.draw(generator)
    up = int(generator.integers(2))
    if axis.choice is not None:
        place = axis.choice.index(value) + (1 if up else -1)
        return axis.choice[min(max(place, 0), len(axis.choice) - 1)]
    low, high = axis.randint or axis.uniform or axis.loguniform or (0, 0)
    moved = min(max(value * FACTORS[up], low), high)
    return round(moved) if axis.randint else moved
