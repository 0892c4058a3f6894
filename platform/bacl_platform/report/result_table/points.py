"""Points as text: one decimal, with their spread over seeds."""

from collections.abc import Sequence
from statistics import mean, stdev

from bacl_platform.report.result_table.statistics import interval

EMPTY = "-"


def number(value: float | None, sign: str = "") -> str:
    """Points with one decimal; never -0.0."""
    return EMPTY if value is None else f"{round(value, 1) + 0.0:{sign}.1f}"


def bracket(bounds: tuple[float, float]) -> str:
    """An interval in brackets; a bound that is nearly 0 shows on which side it is."""
    low, high = (
        f"{bound:.2f}" if abs(bound) < 0.05 and bound != 0 else number(bound) for bound in bounds
    )
    return f"[{low}, {high}]"


def spread(values: Sequence[float], sign: str = "", short: bool = False) -> str:
    """`20.0 ± 10.0 [10.0, 30.0]`: mean, standard deviation and interval over seeds (S,).

    short: the mean alone.
    """
    if not values:
        return EMPTY
    shown = number(mean(values), sign)
    if short or len(values) == 1:
        return shown
    bounds = interval(values)
    text = f"{shown} ± {stdev(values):.1f}"
    return text if bounds is None else f"{text} {bracket(bounds)}"
