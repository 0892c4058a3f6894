"""`bacl ui`: MLflow's pages, at the comparison.

Commands import what they need when they run.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bacl_platform.api.files import DEFAULT_STORE
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    App,
    Debug,
    Seeds,
    Set,
    StoreOption,
    seeds_of,
)

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
        int,
        typer.Option(
            "--port", "-p", min=1, max=65535, metavar="PORT", help="Port on this machine."
        ),
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
        from bacl_platform.api.ui import ui as shown
        from bacl_platform.console import Console

        opens = sys.stdout.isatty() and not no_open
        shown(file, set_, store_url, seeds_of(seeds), port, opens, Console())
