"""Plans of the files that commands are given.

Datasets are prepared on the way where a store lacks them.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from bacl.errors import UsageError
from bacl_platform.cli.options import DEFAULT_STORE
from bacl_platform.texts import one_line

if TYPE_CHECKING:
    from bacl_platform.plan.job import Plan
    from bacl_platform.plan.sweep_plan import Preparation, SweepPlan
    from bacl_platform.store.store import Store


def planned(
    file: Path, store_url: str, overrides: list[str] | None, seeds: str | None
) -> tuple["Plan", "Store"]:
    """The plan of an experiment file and the store it is for; prepares the dataset if need be."""
    from bacl_platform.plan.planner import make_plan
    from bacl_platform.plan.sweep_plan import Preparation
    from bacl_platform.spec.load import load
    from bacl_platform.store.store import Store

    experiment, store = load(file, _chosen(overrides, seeds)), Store(store_url)
    prepare = Preparation(store)
    prepared = prepare(experiment.dataset)
    for warning in prepare.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    try:
        return make_plan(experiment, prepared, store), store
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _chosen(overrides: list[str] | None, seeds: str | None) -> list[str]:
    """The overrides of a file's fields, those of --seeds among them."""
    if seeds is None:
        return overrides or []
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", seeds):
        raise UsageError(
            f"--seeds: expected whole numbers with commas between, such as 0,1, got {seeds!r}"
        )
    return [*(overrides or []), f"seeds=[{seeds}]"]


def swept(
    files: Sequence[Path],
    store_url: str,
    overrides: list[str] | None,
    seeds: str | None,
    max_trials: int | None = None,
) -> tuple[list["SweepPlan"], "Store", "Preparation"]:
    """Plans of sweep files, the store they are for, and what prepares datasets for more trials.

    Asks on a terminal before planning more trials than `max_trials`; raises UsageError elsewhere.
    """
    from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
    from bacl_platform.plan.trials import SweepFile
    from bacl_platform.store.store import Store

    store = Store(store_url)
    chosen = _chosen(overrides, seeds)
    read = [SweepFile(file, chosen) for file in files]
    for file in read:
        count = file.sweep.count()
        if max_trials is not None and count > max_trials:
            question = f"{file.path}: {count} trials, more than --max-trials {max_trials}"
            if not sys.stdin.isatty():
                raise UsageError(f"{question}: give --max-trials {count} to run them all")
            typer.confirm(f"{question}: run them all?", abort=True)
    prepare = Preparation(store)
    plans = plan_sweeps(read, [file.trials(store) for file in read], prepare, store)
    for warning in prepare.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    return plans, store, prepare


def rerun_command(
    file: Path, store_url: str, overrides: list[str] | None, seeds: str | None
) -> str:
    """The `bacl run` command that trains what another command with these options needs."""
    words = ["bacl", "run", str(file)]
    words += ["--store", store_url] if store_url != DEFAULT_STORE else []
    words += [word for override in overrides or [] for word in ("--set", override)]
    words += ["--seeds", seeds] if seeds else []
    return shlex.join(words)
