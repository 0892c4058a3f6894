"""MLflow's pages, at the comparison of variants."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.errors import UsageError
from bacl_platform.api.experiment import Experiment
from bacl_platform.api.files import Overrides, store_of
from bacl_platform.api.sweep import Sweep

if TYPE_CHECKING:
    from rich.console import Console

    from bacl_platform.store.store import Store


def ui(
    file: str | Path | None = None,
    overrides: Overrides = None,
    store: "str | Path | Store | None" = None,
    seeds: Iterable[int] | None = None,
    port: int = 5000,
    opens: bool = False,
    console: "Console | None" = None,
) -> None:
    """Print links to MLflow's pages of an experiment or sweep, and run MLflow for them, for this
    machine only, until it is stopped: this does not return unless MLFLOW_TRACKING_URI names a
    server, where the links then lead.

    file: whose variants are compared; None is what ran last. opens: open the first link in a
    browser. Raises UsageError for a file that has no runs yet, and for a port that is in use.
    """
    from bacl_platform.console import Console
    from bacl_platform.spec.sweep import is_sweep
    from bacl_platform.tracking.ui import Wanted, show

    wanted, store = None, store_of(store)
    if file is None and (overrides or seeds):
        raise UsageError("--set, --seeds: expected with a FILE, got none")
    if file is not None and is_sweep(Path(file)):
        sweep = Sweep.load(file, overrides, store, seeds)
        (plan,) = sweep.files
        wanted = Wanted(plan.sweep.name, plan.digest, sweep.command)
    elif file is not None:
        experiment = Experiment.load(file, overrides, store, seeds)
        wanted = Wanted(experiment.name, experiment.jobs().digest, experiment.command)
    show(store, wanted, port, console or Console(), opens)
