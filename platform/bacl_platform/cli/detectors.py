"""`bacl detectors`: the configurations that `detector.config` may name.

Commands import what they need when they run.
"""

from difflib import get_close_matches
from fnmatch import fnmatch
from typing import Annotated

import typer

from bacl.errors import UsageError
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    App,
    Debug,
)

app = App()


@app.command()
def detectors(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|PATTERN",
            help="Names, with * and ? for what may be anything; each is read.",
            show_default="the names alone of all",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """List the detectors that `detector.config` may name.

    They are those of the installed MMDetection and BACL's own. With a name or a pattern, says of
    each whether it can carry a bank, and if not, why.

    \b
    Examples:
      bacl detectors
      bacl detectors 'cascade-mask-rcnn_*'
    """
    with report_errors(debug):
        from rich.table import Column, Table

        from bacl.detector import zoo
        from bacl_platform.console import Console

        if not patterns:
            print("\n".join(sorted(zoo.names())))
            return
        chosen = [n for n in sorted(zoo.names()) if any(fnmatch(n, p) for p in patterns)]
        if not chosen:
            close = get_close_matches(patterns[0], zoo.names(), n=1, cutoff=0.5)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UsageError(
                "NAME: expected one of those that `bacl detectors` lists, got "
                f"{patterns[0]!r}{hint}"
            )
        table = Table(Column("detector", overflow="fold"), "as a bank")
        for name in chosen:
            table.add_row(name, _said_of(name))
        Console().print(table)


def _said_of(name: str) -> str:
    """Whether a configuration can carry a bank, in words."""
    from bacl.detector import zoo
    from bacl.detector.refusals import refusal

    try:
        model = zoo.model_of(name)
    except UsageError as error:
        return f"no: {str(error).removeprefix('detector.config: ')}"
    why = refusal(model)
    return f"no: {why}" if why else "yes"
