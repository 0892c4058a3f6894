"""The actor that holds the state of trials, which Tune, the driver and the jobs' workers share."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from bacl_platform.plan.sweep_plan import Cell
from bacl_platform.run.mailbox import Mailbox

PATIENCE = 20
"""Seconds that a bank waits for trials to judge an evaluation."""

Result = dict[str, float] | str
"""Metrics of a cell, or a sentence that says why it has none."""

Wanted = tuple[int, dict[str, Any], list[Cell]]
"""Which sweep, the values that its search proposes, and the cells of that trial."""


class TrialStateActor(Mailbox):
    """A Ray actor that knows which cells trials ask for, the cells' results, and which were
    stopped.

    It is the jobs' mailbox as well, because one process starts sooner than two.
    """

    def __init__(self, stopped: Sequence[str], judged: Sequence[str]) -> None:
        super().__init__()
        self._wanted: list[Wanted] = []
        self._rows: dict[str, list[dict[str, float]]] = {}
        self._ends: dict[str, str | None] = {}
        self._results: dict[str, Result] = {}
        self._stopped = set(stopped)
        self._over: str | None = None
        """Why the driver has stopped following jobs, once it has."""
        self._asked = dict.fromkeys(judged, 0)
        """How many evaluations of each cell that a scheduler judges its trial has asked for."""
        self._news = asyncio.Condition()

    async def want(self, wanted: "Wanted") -> None:
        """A trial that a search proposed asks for its cells."""
        self._wanted.append(wanted)

    async def wanted(self) -> list["Wanted"]:
        """The trials that asked since the last call, each returned once."""
        wanted, self._wanted = self._wanted, []
        return wanted

    async def evaluated(self, rows: dict[str, dict[str, float]]) -> None:
        """Add an evaluation of each of some cells, by their keys."""
        for key, row in rows.items():
            self._rows.setdefault(key, []).append(row)
        async with self._news:
            self._news.notify_all()

    async def end(self, ends: dict[str, str | None], results: dict[str, Result]) -> None:
        """Note that jobs have ended. ends: why each job has no result, None where it has one, by
        the jobs' keys. results: of the cells of jobs with a result, by the cells' keys."""
        self._ends |= ends
        self._results |= results
        async with self._news:
            self._news.notify_all()

    async def abandon(self, sentence: str) -> None:
        """Note that the driver has stopped following jobs; trials that wait get the sentence as
        their result."""
        async with self._news:
            self._over = sentence
            self._news.notify_all()

    def _ended(self, job: str) -> bool:
        return self._over is not None or job in self._ends

    async def row(self, cell: str, job: str, number: int) -> Result:
        """The evaluation of a cell with that number, once there is one; where its job ends before,
        the cell's final result."""
        async with self._news:
            if cell in self._asked:
                self._asked[cell] = number + 1
            self._news.notify_all()
            await self._news.wait_for(
                lambda: len(self._rows.get(cell, [])) > number or self._ended(job)
            )
        rows = self._rows.get(cell, [])
        return rows[number] if len(rows) > number else self._outcome(cell, job)

    async def outcome(self, cell: str, job: str) -> Result:
        """The final result of a cell, once its job has ended."""
        async with self._news:
            await self._news.wait_for(lambda: self._ended(job))
        return self._outcome(cell, job)

    def _outcome(self, cell: str, job: str) -> Result:
        return self._ends.get(job, self._over) or self._results[cell]

    async def stop(self, cell: str) -> None:
        """Let a cell's variant be stopped; ignored once the driver has stopped following jobs."""
        async with self._news:
            if self._over is None:
                self._stopped.add(cell)
            self._news.notify_all()

    async def stopped(self) -> list[str]:
        """The cells that were stopped."""
        return sorted(self._stopped)

    async def verdict(self, cells: list[str], evaluations: int) -> list[str]:
        """Which of a job's cells are stopped after so many evaluations.

        Waits a limited time for trials whose scheduler has not judged the last evaluation; a trial
        that goes on asks for the next one.
        """

        def judged() -> bool:
            asked = [self._asked.get(cell) for cell in cells if cell not in self._stopped]
            return self._over is not None or all(
                count is None or count > evaluations for count in asked
            )

        async with self._news:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait_for(judged), PATIENCE)
        return sorted(self._stopped.intersection(cells))
