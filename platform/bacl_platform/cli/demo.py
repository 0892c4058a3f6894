"""`bacl demo` and `examples`: the experiment files that come with BACL.

Commands import what they need when they run.
"""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from bacl_platform.api.files import DEFAULT_STORE, command_of
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    Address,
    App,
    Debug,
    Quiet,
    Seeds,
    Set,
    StoreOption,
    Verbose,
    seeds_of,
)

app = App()


@app.command()
def demo(
    store_url: StoreOption = DEFAULT_STORE,
    address: Address = None,
    set_: Set = None,
    seeds: Seeds = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train and compare four classifiers on a small data set.

    Runs embedded/demo.yaml, which comes with BACL, from any folder, and reports on it: a detector,
    then four classifiers over its frozen trunk. After any interruption the same command goes on
    from the last checkpoints.

    \b
    Examples:
      bacl demo
      bacl demo --seeds 0,1 --store trial_store
    """
    with report_errors(debug):
        from bacl_platform.api import examples
        from bacl_platform.console import Console, remark

        console = Console()
        experiment = examples.demo(set_, store_url, seeds_of(seeds), address, console)
        experiment.report().show(console)
        look = command_of("ui", [experiment.file], experiment.store, experiment.overrides)
        remark(console, f"runs: {look}")
        remark(console, "files to run and to change: bacl examples --copy experiments")


@app.command()
def examples(
    copy: Annotated[
        Path | None,
        typer.Option("--copy", metavar="FOLDER", help="Copy all of them to this new folder."),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the files that come with BACL, or copy them.

    They are experiments and sweeps. Copied to a folder called experiments, they are where the
    documentation's commands look for them.

    \b
    Examples:
      bacl examples
      bacl examples --copy experiments
    """
    with report_errors(debug):
        from rich.table import Column, Table

        from bacl_platform.api import examples as shipped
        from bacl_platform.console import Console, say

        console = Console()
        if copy is not None:
            copies = shipped.copy_to(copy)
            plan = shlex.join(["bacl", "plan", str(copy / shipped.DEMO)])
            say(console, f"copied {len(copies)} files to {copy}; for one of them: {plan}")
            return
        table = Table(Column("file", no_wrap=True), "what it is")
        for name, about in shipped.names().items():
            table.add_row(name, about)
        console.print(table)
