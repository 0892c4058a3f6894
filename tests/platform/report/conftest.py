"""Tables of results with made-up points, without a store."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from bacl_platform.plan.trials import plain
from bacl_platform.report.result_table.rows import ResultTable, Row


def made_row(
    values: Mapping[str, Any],
    points: Mapping[str, Sequence[float]],
    state: str = "done",
    **more: Any,
) -> Row:
    """A row with these values and, by metric, points of the seeds 0, 1 and so on."""
    found = {metric: dict(enumerate(of)) for metric, of in points.items()}
    seeds = max((len(of) for of in points.values()), default=0)
    varied = {name: plain(value) for name, value in values.items()}
    return Row(varied, state, found, seeds=seeds, values=dict(values), **more)


@pytest.fixture
def row() -> Callable[..., Row]:
    """Makes a row of values and points."""
    return made_row


@pytest.fixture
def table() -> Callable[..., ResultTable]:
    """Makes a table of rows, in LVIS's groups."""

    def made(*rows: Row, **more: Any) -> ResultTable:
        names = (name for row in rows for name in (*row.found, *row.exact, *row.paper))
        return ResultTable(
            "sweep", list(dict.fromkeys(names)), rows, **{"groups": ["r", "c", "f"], **more}
        )

    return made
