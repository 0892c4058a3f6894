"""A sweep file, or several that run as one, with the store of their results."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.errors import RunError, UsageError
from bacl_platform.api.files import Overrides, command_of, override_words, store_of, warn
from bacl_platform.api.shown import Shown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from bacl_platform.analysis.results import Report
    from bacl_platform.plan.sweep_plan import Preparation, SweepPlan
    from bacl_platform.plan.trials import SweepFile
    from bacl_platform.report.result_table.rows import ResultTable
    from bacl_platform.store.store import Store


class Sweep:
    """Sweep files, read and checked. `plan`, `found`, `results` and `report` are of one file alone.

    files: as read. store: where finished trials are.
    """

    def __init__(
        self, files: Sequence["SweepFile"], store: "Store", overrides: Sequence[str] = ()
    ) -> None:
        self.files, self.store, self.overrides = files, store, overrides

    @classmethod
    def load(
        cls,
        files: str | Path | Sequence[str | Path],
        overrides: Overrides = None,
        store: "str | Path | Store | None" = None,
        seeds: Iterable[int] | None = None,
    ) -> "Sweep":
        """Read a sweep file or several; the options are those of `Experiment.load`."""
        from bacl_platform.plan.trials import SweepFile

        paths = [files] if isinstance(files, str | Path) else files
        words = override_words(overrides, seeds)
        return cls([SweepFile(Path(path), words) for path in paths], store_of(store), words)

    @property
    def counts(self) -> dict[Path, int]:
        """How many trials each file has."""
        return {file.path: file.sweep.count() for file in self.files}

    @property
    def command(self) -> str:
        """The `bacl sweep` command that trains what the store lacks of it."""
        return command_of("sweep", [file.path for file in self.files], self.store, self.overrides)

    @cached_property
    def prepare(self) -> "Preparation":
        """What prepares datasets that the store lacks."""
        from bacl_platform.plan.sweep_plan import Preparation

        return Preparation(self.store)

    def plans(self) -> list["SweepPlan"]:
        """The trials of each file, and the jobs that train them."""
        from bacl_platform.plan.sweep_plan import plan_sweeps

        trials = [file.trials(self.store) for file in self.files]
        made = plan_sweeps(self.files, trials, self.prepare, self.store)
        warn(self.prepare)
        return made

    def plan(self) -> "PlannedSweep":
        """What a run would do; starts nothing."""
        from bacl_platform.plan.imports import check_imports
        from bacl_platform.plan.screening import confirmations, expected
        from bacl_platform.plan.weights import check_weights

        plan = self._only()
        missing = plan.missing(self.store)
        check_weights(missing, self.store)
        check_imports(missing)
        then = next(iter(confirmations([plan], self.prepare, self.store)), None)
        known = then is not None
        if plan.file.sweep.screen and not known:
            then = expected(plan, self.prepare, self.store)
        return PlannedSweep(plan, self.store, then, known)

    def run(
        self,
        address: str | None = None,
        console: "Console | None" = None,
        retry_failed: bool = False,
    ) -> None:
        """Run the trials that the store lacks, on a new local Ray or on the cluster at `address`.

        After any interruption the same call goes on. retry_failed: run trials again that have
        failed before. Raises RunError with a sentence for each job without a result.
        """
        from bacl_platform.console import Console
        from bacl_platform.plan.imports import check_imports
        from bacl_platform.plan.weights import check_weights, fetch_named
        from bacl_platform.store.drivers import driving
        from bacl_platform.tune import sweeps

        plans = self.plans()
        missing = [job for plan in plans for job in plan.missing(self.store)]
        check_weights(missing, self.store)
        fetch_named(missing, self.store)
        check_imports(missing)
        with driving(self.store):
            sweeps.run_sweeps(
                plans, self.store, self.prepare, console or Console(), address, retry_failed
            )

    @property
    def found(self) -> "Report":
        """What the store has of the trials, each named by its values, such as `alpha=0.5`.

        Raises RunError where none is finished yet.
        """
        from bacl_platform.analysis.results import Report, read_result
        from bacl_platform.plan.judged import prepared_of

        plan, store = self._only(), self.store
        cells = [cell for cell in plan.cells if store.complete(cell.job.key)]
        if not cells:
            raise RunError(
                f"no trial of {plan.file.path} is in the store {store.url}: run `{self.command}` "
                "first"
            )
        results = [
            replace(
                read_result(cell.job, cell.trial.variant, store),
                variant=cell.trial.label.replace(", ", ","),
            )
            for cell in cells
        ]
        first = cells[0]
        prepared = prepared_of(first.job.dataset_digest, store)
        return Report(
            plan.file.sweep.name, first.trial.experiment, prepared, plan.jobs, [], results, {}
        )

    def results(self) -> "pd.DataFrame":
        """A frame with a row for each finished trial and seed; see `Results`."""
        from bacl_platform.api.results import Results

        return Results.of(self.found)

    def report(
        self, out: str | Path | None = None, paper: bool = False, mixed: bool = False
    ) -> "SweepReport":
        """Write the table of all trials, with pictures, to the folder `out`, which is
        STORE/reports/NAME if not given.

        paper: beside the paper's. mixed: its exact numbers may stand beside replayed ones.
        """
        from bacl_platform.plan.screening import confirmations
        from bacl_platform.report import sweep_report
        from bacl_platform.report.result_table import files

        plan = self._only()
        confirmed = next(iter(confirmations([plan], self.prepare, self.store)), None)
        table = sweep_report.collect(plan, self.store, paper, confirmed, mixed)
        folder = Path(out or self.store.root / "reports" / table.name)
        files.write(table, folder)
        return SweepReport(table, folder)

    def _only(self) -> "SweepPlan":
        if len(self.files) != 1:
            raise UsageError(f"expected one sweep, got {len(self.files)}")
        return self.plans()[0]

    def __repr__(self) -> str:
        names = ", ".join(file.sweep.name for file in self.files)
        return f"<sweep {names}, {sum(self.counts.values())} trials, store {self.store.url}>"


@dataclass(frozen=True, repr=False)
class PlannedSweep(Shown):
    """What a run of a sweep would do. then: of a sweep that screens, the trials that train exactly;
    known: whether these are the ones, and not only as many."""

    plan: "SweepPlan"
    store: "Store"
    then: "SweepPlan | None"
    known: bool

    def show(self, console: "Console") -> None:
        from bacl_platform.report.sweep_shown import print_sweep

        print_sweep(self.plan, self.store, console, self.then, self.known)

    def as_json(self) -> list[dict[str, Any]]:
        done = self.store.complete
        return [
            {"trial": cell.trial.label, "seed": cell.seed, "key": cell.key}
            | {"in_store": done(cell.job.key)}
            for cell in self.plan.cells
        ]


@dataclass(frozen=True, repr=False)
class SweepReport(Shown):
    """The table of a sweep, and the folder that it was written to."""

    table: "ResultTable"
    folder: Path

    def show(self, console: "Console") -> None:
        from bacl_platform.report.result_table import terminal

        terminal.print_table(self.table, self.folder, console)

    def as_json(self) -> dict[str, Any]:
        from bacl_platform.report.result_table import files

        return files.as_json(self.table)
