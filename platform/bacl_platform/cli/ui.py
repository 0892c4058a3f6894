"""`bacl ui`: MLflow's pages, at the comparison.

Commands import what they need when they run.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bacl.errors import UsageError
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import DEFAULT_STORE, App, Debug, Seeds, Set, StoreOption
from bacl_platform.cli.plans import planned, rerun_command, swept

app = App()


@app.command()
def ui(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="Experiment or sweep file (YAML) whose variants to compare; without it, what ran "
            "last.",
        ),
    ] = None,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    seeds: Seeds = None,
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port on this machine.")
    ] = 5000,
    no_open: Annotated[bool, typer.Option("--no-open", help="Open no browser.")] = False,
    debug: Debug = False,
) -> None:
    """Open MLflow at the comparison of variants.

    Prints links to the variants sorted by AP, to charts over what varied, to models and report, and
    opens the first at a terminal. MLflow is for this machine only and runs until Ctrl-C; where
    MLFLOW_TRACKING_URI names a server, the links lead there.

    \b
    Examples:
      bacl ui
      bacl ui experiments/embedded/demo.yaml
    """
    with report_errors(debug):
        from bacl_platform.console import Console
        from bacl_platform.spec.sweep import is_sweep
        from bacl_platform.store.store import Store
        from bacl_platform.tracking.ui import Wanted, show

        if file is None and (set_ or seeds):
            raise UsageError("--set, --seeds: expected with a FILE, got none")
        wanted, store = None, Store(store_url)
        if file is not None and is_sweep(file):
            (sweep,), store, _ = swept([file], store_url, set_, seeds)
            command = rerun_command(file, store_url, set_, seeds, "sweep")
            wanted = Wanted(sweep.file.sweep.name, sweep.file.digest, command)
        elif file is not None:
            plan, store = planned(file, store_url, set_, seeds)
            command = rerun_command(file, store_url, set_, seeds)
            wanted = Wanted(plan.experiment.name, plan.digest, command)
        show(store, wanted, port, Console(), sys.stdout.isatty() and not no_open)
