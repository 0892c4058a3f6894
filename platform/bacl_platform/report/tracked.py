"""What the page of a plan or sweep in MLflow shows: quick reports, without an analysis of errors.

Each function makes a `Page`, whose files are made at the run's end if MLflow lacks them.
"""

from pathlib import Path

from bacl_platform.analysis.results import collect
from bacl_platform.plan.job import Plan, digest_of
from bacl_platform.plan.sweep_plan import SweepPlan
from bacl_platform.report import experiment_report, sweep_report
from bacl_platform.report.result_table import files
from bacl_platform.store.store import Store
from bacl_platform.tracking.page import Page

ROWS = 25
"""Variants or trials that a description has at most: MLflow stores 8000 letters."""


def plan_page(plan: Plan, store: Store, command: str) -> Page | None:
    """What is finished of an experiment; None where no variant is.

    command: what the user runs for the rest.
    """
    finished = [job.key for job in plan.jobs if job.variants and store.complete(job.key)]
    if not finished:
        return None

    def make(folder: Path) -> str:
        report = collect(plan, store, command)
        experiment_report.write(report, folder, command)
        return experiment_report.summary(report, command, ROWS)

    return Page(digest_of([plan.experiment.model_dump(mode="json"), finished]), make)


def sweep_page(plan: SweepPlan, store: Store, confirmed: SweepPlan | None) -> Page | None:
    """What is finished of a sweep; None where no trial is.

    confirmed: of a sweep that screens, the trials that train exactly, once these are known.
    """
    cells = [*plan.cells, *(confirmed.cells if confirmed else [])]
    finished = [cell.key for cell in cells if store.complete(cell.job.key)]
    if not finished:
        return None

    def make(folder: Path) -> str:
        table = sweep_report.collect(plan, store, with_paper=False, confirmed=confirmed)
        files.write(table, folder)
        return files.summary(table, ROWS)

    return Page(digest_of([plan.file.sweep.model_dump(mode="json"), sorted(finished)]), make)
