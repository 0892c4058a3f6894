"""What the store remembers of a sweep's trials: results, and why others have none."""

import json
from collections.abc import Sequence

from bacl.errors import RunError
from bacl_platform.plan.sweep_plan import Cell, SweepPlan
from bacl_platform.store.store import Store


class Notes:
    """A sweep's notes on trials without a result: the reason, by key.

    cells: the plan's if not given; a search proposes more.
    """

    def __init__(
        self, plan: SweepPlan, store: Store, what: str, cells: Sequence[Cell] | None = None
    ) -> None:
        self.own = {cell.key for cell in cells or plan.cells}
        of = f"{plan.file.sweep.name}.confirmed" if plan.confirms else plan.file.sweep.name
        self.store, self.name = store, f".sweeps/{of}.{what}.json"

    def read(self) -> dict[str, str]:
        """Those of the sweep's present cells."""
        known = json.loads(self.store.note(self.name) or "{}")
        return {key: why for key, why in known.items() if key in self.own}

    def write(self, notes: dict[str, str]) -> None:
        """Replace them."""
        own = {key: why for key, why in notes.items() if key in self.own}
        self.store.write_note(self.name, json.dumps(own))


def stopped_before(plan: SweepPlan, store: Store) -> dict[str, str]:
    """The cells that the sweep's scheduler stopped in an earlier run, by key."""
    return Notes(plan, store, "stopped").read() if plan.file.sweep.stops else {}


def failed_before(plan: SweepPlan, store: Store) -> dict[str, str]:
    """The cells whose jobs failed in an earlier run, by key, with their error messages."""
    return Notes(plan, store, "failed").read()


def result_of(cell: Cell, store: Store) -> dict[str, float]:
    """Final metrics of a cell that the store has."""
    path = store.entry(cell.job.key) / "variants" / cell.trial.variant / "metrics.json"
    if not path.exists():
        raise RunError(
            f"{cell.trial.label}: expected its result in job {cell.job.name}, which ended without "
            "it: the trial was stopped early or failed there"
        )
    metrics = json.loads(path.read_text(encoding="utf-8"))["metrics"]
    return {name: value for name, value in metrics.items() if value is not None}


def results_of(cells: Sequence[Cell], store: Store) -> dict[str, dict[str, float]]:
    """Final metrics of the cells that the store has, by their keys."""
    return {cell.key: result_of(cell, store) for cell in cells if store.complete(cell.job.key)}
