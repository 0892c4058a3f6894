"""An experiment file with the store of its results: planned, run, judged and shipped."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.errors import UsageError
from bacl_platform.api.files import (
    Overrides,
    command_of,
    override_words,
    store_of,
    warn,
)
from bacl_platform.api.shown import Shown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from bacl.datasets.prepared import Prepared
    from bacl_platform.analysis.results import Report
    from bacl_platform.api.judging import VariantComparison, VariantMatrix
    from bacl_platform.api.results import Results
    from bacl_platform.exporting.export import Exported
    from bacl_platform.inference.detector import Detector
    from bacl_platform.plan.job import Plan
    from bacl_platform.registry.register import Registered
    from bacl_platform.report.result_table.rows import ResultTable
    from bacl_platform.spec import experiment as spec
    from bacl_platform.store.store import Store
    from bacl_platform.tools.rehearsal.rehearse import Rehearsed

REHEARSED_STEPS = 40
"""Steps of each stage in a rehearsal."""
REHEARSED_IMAGES = 64
"""Validation images that a rehearsal evaluates on."""


class Experiment:
    """An experiment file, read and checked.

    file, overrides, seeds: as given to `load`. settings: its validated content. store: where its
    finished jobs are.
    """

    def __init__(
        self,
        settings: "spec.Experiment",
        store: "Store",
        file: Path,
        overrides: Sequence[str] = (),
    ) -> None:
        self.settings, self.store, self.file, self.overrides = settings, store, file, overrides

    @classmethod
    def load(
        cls,
        file: str | Path,
        overrides: Overrides = None,
        store: "str | Path | Store | None" = None,
        seeds: Iterable[int] | None = None,
    ) -> "Experiment":
        """Read an experiment file.

        overrides: changes to its fields, such as {"detector.backbone": "tiny"}. store: a folder or
        s3://BUCKET/PREFIX; None is that of BACL_STORE, or `bacl_store` in this folder. seeds: to
        run instead of the file's. Raises UsageError that lists every problem, one sentence a line.
        """
        from bacl_platform.spec.load import load

        words = override_words(overrides, seeds)
        return cls(load(file, words), store_of(store), Path(file), words)

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def variants(self) -> list[str]:
        """Names of what is compared; a representation stage's is the stage's own."""
        from bacl_platform.spec.experiment import FeaturesStage, variants_of

        stages = self.settings.stages.items()
        trained = [(n, stage) for n, stage in stages if not isinstance(stage, FeaturesStage)]
        return [name for n, stage in trained for name in variants_of(n, stage)]

    @cached_property
    def prepared(self) -> "Prepared":
        """Its dataset, prepared where the store lacks it."""
        from bacl_platform.plan.sweep_plan import Preparation

        prepare = Preparation(self.store)
        made = prepare(self.settings.dataset)
        warn(prepare)
        return made

    def jobs(self) -> "Plan":
        """Its jobs, in the groups that the store has of their variants now."""
        from bacl_platform.plan.planner import make_plan

        try:
            return make_plan(self.settings, self.prepared, self.store)
        except UsageError as error:
            raise UsageError(f"{self.file}: {error}") from error

    @property
    def command(self) -> str:
        """The `bacl run` command that trains what the store lacks of it."""
        return command_of("run", [self.file], self.store, self.overrides)

    def plan(self) -> "ExperimentPlan":
        """What a run would do: its jobs, their states, what they share and cost.

        Starts nothing. Raises UsageError for weights and imported checkpoints that do not fit.
        """
        from bacl_platform.plan.imports import check_imports
        from bacl_platform.plan.weights import check_weights

        plan = self.jobs()
        missing = plan.missing(self.store)
        check_weights(missing, self.store)
        return ExperimentPlan(plan, self.store, check_imports(missing))

    def rehearse(
        self,
        steps: int = REHEARSED_STEPS,
        images: int = REHEARSED_IMAGES,
        address: str | None = None,
        console: "Console | None" = None,
    ) -> "ExperimentRehearsal":
        """Run every stage that the store lacks something of for some steps, at full size and where
        it would run; returns what that says of the whole run.

        Only figures stay in the store, which `plan` then uses. steps: of each stage, whose first
        eight do not count. images: of the validation split. address, console: as in `run`. Raises
        RunError where the cluster cannot be reached or has no room for a job.
        """
        from bacl_platform.console import Console
        from bacl_platform.plan.imports import check_imports
        from bacl_platform.plan.weights import check_weights, fetch_named
        from bacl_platform.tools.rehearsal.rehearse import rehearse

        prepared = self.prepared  # which a run finds prepared
        began = time.perf_counter()
        plan = self.jobs()
        missing = plan.missing(self.store)
        check_weights(missing, self.store)
        fetch_named(missing, self.store)
        check_imports(missing)
        console = console or Console()
        command, planning = self.command, time.perf_counter() - began
        found = rehearse(
            plan, prepared, self.store, console, address, steps, images, command, planning
        )
        return ExperimentRehearsal(found)

    def run(self, address: str | None = None, console: "Console | None" = None) -> "Results":
        """Run what the store lacks, on a new local Ray or on the cluster at `address`; returns the
        results.

        After any interruption the same call goes on from the last checkpoints. console: where
        progress is shown; the standard output if not given. Raises RunError with a sentence for
        each job without a result.
        """
        from bacl_platform.console import Console
        from bacl_platform.plan.imports import check_imports
        from bacl_platform.plan.weights import check_weights, fetch_named
        from bacl_platform.report.tracked import plan_page
        from bacl_platform.run.driver import run
        from bacl_platform.store.drivers import driving
        from bacl_platform.tracking.tracking import Tracking

        plan = self.jobs()
        missing = plan.missing(self.store)
        check_weights(missing, self.store)
        fetch_named(missing, self.store)
        check_imports(missing)
        with driving(self.store):
            tracking = Tracking.of_plan(plan, self.store)
            page = partial(plan_page, plan, self.store, self.command)
            run(plan, self.store, tracking, console or Console(), address, page)
        return self.results()

    def attempt(
        self,
        variants: Sequence[str] = (),
        overrides: Overrides = None,
        stage: str | None = None,
        seed: int | None = None,
        console: "Console | None" = None,
    ) -> "ExperimentReport":
        """Train variants on stored features at once, in this process, as `bacl try` does.

        variants: names of the stage's, or of methods with their defaults; none means all of the
        stage's. overrides: more changes to the file, also of variants that are only named here.
        stage: which one replays features, where there are several. seed: the first if not given.
        """
        from bacl_platform.analysis.results import collect
        from bacl_platform.console import Console
        from bacl_platform.run.progress import Progress
        from bacl_platform.tools.attempt import attempt, read_attempt

        words = [*self.overrides, *override_words(overrides)]
        experiment, stage = read_attempt(self.file, variants, words, stage, seed)
        command = self.command if seed is None else f"{self.command} --seeds {seed}"
        with Progress(console or Console()) as progress:
            plan = attempt(experiment, stage, self.prepared, self.store, progress, command)
        return ExperimentReport(collect(plan, self.store, command), self.store, command)

    @property
    def found(self) -> "Report":
        """What the store has of it. Raises RunError where nothing is finished yet."""
        from bacl_platform.analysis.results import collect

        return collect(self.jobs(), self.store, self.command)

    def results(self) -> "Results":
        """A frame with a row for each variant and seed; see `Results`."""
        from bacl_platform.api.results import Results

        return Results.of(self.found)

    def report(
        self,
        out: str | Path | None = None,
        quick: bool = False,
        paper: bool = False,
        mixed: bool = False,
        draw: Sequence[str] | None = None,
        score_threshold: float = 0.3,
        images: int = 6,
    ) -> "ExperimentReport":
        """Write tables, plots, an analysis of errors and pictures to the folder `out`, which is
        STORE/reports/NAME if not given.

        quick: only tables and plots of metrics. paper: the paper's table as well. mixed: its exact
        numbers may stand beside replayed ones. draw: variants to draw; if not given, the baseline
        and the two best others, on so many images, with detections of at least that score.
        """
        from bacl_platform.console import Console
        from bacl_platform.report import experiment_report
        from bacl_platform.report.result_table import files
        from bacl_platform.report.variants_beside_paper import beside_paper

        found = self.found
        folder = Path(out or self.store.root / "reports" / self.name)
        beside = beside_paper(found, self.file, mixed) if paper else None
        sections = []
        if not quick:
            from bacl_platform.analysis import profiles
            from bacl_platform.report import findings

            analysis = profiles.analyse(found, Console(stderr=True))
            sections = findings.sections(found, analysis, draw, score_threshold, images)
        experiment_report.write(found, folder, self.command, sections)
        if beside is not None:
            files.write(beside, folder)
        return ExperimentReport(found, self.store, self.command, folder, beside)

    def compare(
        self,
        first: str,
        second: str,
        resamples: int = 1000,
        out: str | Path | None = None,
        mixed: bool = False,
        metrics: Sequence[str] | None = None,
    ) -> "VariantComparison":
        """What the variant `second` gains over `first`, with 95 % intervals over validation images
        and seeds.

        metrics: such as `["AP", "APFixed"]`, each with its frequency groups.
        """
        from bacl_platform.analysis.contenders import contender
        from bacl_platform.api.judging import compare_contenders

        found = self.found
        one, other = contender(found, first), contender(found, second)
        (made,) = compare_contenders(one, [other], self.store, resamples, out, mixed, metrics)
        return made

    def compare_all(
        self,
        *variants: str,
        resamples: int = 1000,
        out: str | Path | None = None,
        mixed: bool = False,
        metrics: Sequence[str] | None = None,
    ) -> "VariantMatrix":
        """What each of the variants, all that are finished if none is named, gains over each other;
        p-values are corrected for the number of pairs (Holm)."""
        from bacl_platform.analysis.contenders import contender
        from bacl_platform.api.judging import compare_every_pair

        found = self.found
        every = [contender(found, name) for name in variants or found.variants]
        return compare_every_pair(every, self.store, resamples, out, mixed, metrics)

    def checkpoint(self, variant: str | None, seed: int | None = None) -> Path:
        """The exported checkpoint of a variant, with its configuration beside it.

        seed: the first if not given. Raises UsageError for an unknown variant or seed, RunError
        for one that has not finished.
        """
        from bacl_platform.inference.exported import exported

        return exported(self.jobs(), self.store, variant, self.command, seed)

    def detector(
        self,
        variant: str,
        seed: int | None = None,
        device: str | None = None,
        optimize: bool = False,
    ) -> "Detector":
        """A trained variant, ready to detect; see `checkpoint` and `Detector.load`."""
        from bacl_platform.inference.detector import Detector

        return Detector.load(self.checkpoint(variant, seed), None, device, optimize)

    def register(
        self,
        variant: str | None,
        seed: int | None = None,
        name: str | None = None,
        alias: str | None = None,
        console: "Console | None" = None,
    ) -> "Registered":
        """Make a trained variant a version of a registered model of MLflow's, called as the
        experiment if not named; see `bacl_platform.registry.register.register`."""
        from bacl_platform.console import Console
        from bacl_platform.registry.register import register

        checkpoint = self.checkpoint(variant, seed)
        key, own = checkpoint.parents[2].name, checkpoint.parent.name
        return register(self.store, key, own, self.name, name, alias, console or Console())

    def export(
        self,
        variant: str | None,
        form: str = "mmdet",
        out: str | Path | None = None,
        seed: int | None = None,
        check: Sequence[str | Path] = (),
        opset: int | None = None,
    ) -> "Exported":
        """Write a trained variant so that it runs without BACL, as `mmdet`, `onnx` or
        `torchscript`.

        out: a file, or the folder of mmdet; in `exports/`, called as the variant, if not given.
        check: images in which the export has to detect what the detector does; some of the
        validation split's if not given. opset: of ONNX. See
        `bacl_platform.exporting.export.export`.
        """
        from bacl_platform.exporting.export import default_place, export

        checkpoint = self.checkpoint(variant, seed)
        key, own = checkpoint.parents[2].name, checkpoint.parent.name
        return export(
            checkpoint,
            form,
            Path(out) if out else default_place(own, form),
            self.prepared,
            images=[Path(image) for image in check],
            opset=opset,
            facts={"experiment": self.name, "variant": own, "job": key},
        )

    def __repr__(self) -> str:
        return f"<experiment {self.name}, {self.file}, store {self.store.url}>"


@dataclass(frozen=True, repr=False)
class ExperimentPlan(Shown):
    """What a run would do. accounts: what imported checkpoints would be loaded as, in sentences."""

    plan: "Plan"
    store: "Store"
    accounts: Sequence[str]

    def show(self, console: "Console") -> None:
        from bacl_platform.console import say
        from bacl_platform.plan.show import print_plan

        print_plan(self.plan, self.store, console)
        for line in self.accounts:
            say(console, line)

    @property
    def jobs(self) -> "pd.DataFrame":
        """A row for each job: `job`, `key`, `state`, `steps` and the names of its `variants`."""
        import pandas as pd

        from bacl_platform.plan.show import state

        return pd.DataFrame(
            {
                "job": job.name,
                "key": job.key,
                "state": state(job, self.store),
                "steps": job.iterations,
                "variants": list(job.variants),
            }
            for job in self.plan.jobs
        )

    def as_json(self) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = self.jobs.to_dict("records")
        return made


@dataclass(frozen=True, repr=False)
class ExperimentRehearsal(Shown):
    """What a rehearsal says of a run. found: all that was measured."""

    found: "Rehearsed"

    @property
    def breaks(self) -> list[str]:
        """What a run would break of, and what would mend it, a sentence each."""
        return [str(finding) for finding in self.found.findings]

    def table(self) -> "pd.DataFrame":
        """A row for each stage: memory in bytes beside what there is, paces, times in seconds."""
        import pandas as pd

        from bacl_platform.tools.rehearsal.show import rows

        return pd.DataFrame(rows(self.found))

    def show(self, console: "Console") -> None:
        from bacl_platform.tools.rehearsal.show import print_rehearsal

        print_rehearsal(self.found, console)

    def as_json(self) -> dict[str, Any]:
        from bacl_platform.tools.rehearsal.show import as_json

        return as_json(self.found)


@dataclass(frozen=True, repr=False)
class ExperimentReport(Shown):
    """What an experiment has reached. folder: where its files were written, if they were. beside:
    the paper's table with it, if asked for."""

    found: "Report"
    store: "Store"
    command: str
    folder: Path | None = None
    beside: "ResultTable | None" = None

    @property
    def page(self) -> Path | None:
        """The HTML page that holds all of it."""
        return self.folder and self.folder / "report.html"

    def show(self, console: "Console") -> None:
        from bacl_platform.console import say
        from bacl_platform.report import experiment_report
        from bacl_platform.report.result_table import terminal

        if self.folder is None:
            experiment_report.print_tables(self.found, console)
            return
        experiment_report.print_report(self.found, self.folder, self.store, self.command, console)
        if self.beside is not None:
            say(console, "")
            terminal.print_table(self.beside, self.folder, console)

    def as_json(self) -> dict[str, Any]:
        from bacl_platform.report import experiment_report
        from bacl_platform.report.result_table import files

        made = experiment_report.as_json(self.found)
        theirs = {} if self.beside is None else {"paper": files.rows_as_json(self.beside)}
        return {**made, **theirs}
