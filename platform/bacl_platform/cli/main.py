"""The command line. Commands import what they need when they run, so `bacl --help` is quick."""

import io
import os
import sys
from typing import Annotated

import typer

from bacl import __version__
from bacl_platform.cli import (
    data,
    demo,
    detectors,
    export,
    init,
    methods,
    predict,
    report,
    run,
    schema,
    ship,
    store,
    tools,
    ui,
)
from bacl_platform.cli.options import App

app = App(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bacl {__version__}")
        raise typer.Exit


@app.callback()
def bacl(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=_print_version,
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Train, compare and ship long-tailed object detectors.

    \b
    Examples:
      bacl demo
      bacl init --data photos
      bacl COMMAND --help
    """


app.add_typer(demo.app)
app.add_typer(init.app)
app.add_typer(run.app)
app.add_typer(ui.app)
app.add_typer(report.app)
app.add_typer(predict.app)
app.add_typer(tools.app)
app.add_typer(export.app)
app.add_typer(ship.app)
app.add_typer(detectors.app)
app.add_typer(schema.app)
app.add_typer(data.app, name="data")
app.add_typer(store.app, name="store")
app.add_typer(methods.app, name="methods")


def main() -> None:
    """The `bacl` command."""
    _in_utf8()
    app()


def _in_utf8() -> None:
    """Start again in Python's UTF-8 mode where file names would be ASCII; show letters that the
    terminal lacks as escapes.

    Python does the former by itself in the C locale unless its environment forbids it, and then no
    file whose name has another letter can be opened, in this process or in those of its jobs.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
