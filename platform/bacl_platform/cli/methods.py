"""`bacl methods`: a card for each method that a variant may have.

Cards are read from the settings' classes, which say what a method does, where it is from and what
its options are. Commands import what they need when they run.
"""

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bacl.errors import UsageError
from bacl_platform.cli import completion
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    App,
    Debug,
)

if TYPE_CHECKING:
    from rich.console import Console

    from bacl.method_settings.base import Method

app = App(rich_markup_mode=None)


Imports = Annotated[
    Path | None,
    typer.Option(
        "--file", metavar="FILE", help="Experiment file, whose imports bring further methods."
    ),
]


@app.callback(invoke_without_command=True)
def methods(context: typer.Context, file: Imports = None, debug: Debug = False) -> None:
    """List the methods of the field, and show a card for each.

    Without a command, lists them with what each does. Those of installed packages are among them.

    \b
    Examples:
      bacl methods
      bacl methods show eqlv2
    """
    if context.invoked_subcommand is not None:
        return
    from rich.table import Table

    from bacl_platform.console import Console

    with report_errors(debug):
        table = Table("method", "what it does", "source")
        for name, method in _known(file).items():
            table.add_row(name, _summary(method), method.source)
        Console().print(table)


def _known(file: Path | None) -> "dict[str, type[Method]]":
    """Settings by method: BACL's own, those of installed packages, and those a file imports."""
    from bacl.extensions import load_installed
    from bacl.method_settings.corrections import CORRECTIONS
    from bacl.method_settings.registry import METHODS
    from bacl_platform.spec.load import load_unresolved

    load_installed()
    if file is not None:
        load_unresolved(file, [])
    return {**METHODS, **CORRECTIONS}


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="The method, as an experiment file names it.",
            autocompletion=completion.methods,
        ),
    ],
    file: Imports = None,
    debug: Debug = False,
) -> None:
    """Show a method's card: equations, options, costs.

    \b
    Example:
      bacl methods show eqlv2
    """
    with report_errors(debug):
        from bacl_platform.console import Console

        known = _known(file)
        if name not in known:
            raise UsageError(f"NAME: expected one of {', '.join(known)}, got {name!r}")
        print_card(name, known[name], Console())


def print_card(name: str, method: "type[Method]", console: "Console") -> None:
    """Print what a method does, its source, equations, options, costs and open points."""
    from rich.table import Table

    def print_paragraph(text: str) -> None:
        """Wrap it at the terminal's edge, as `say` of the other commands does not."""
        console.print(text, highlight=False, markup=False)

    print_paragraph(f"{name}: {_about(method)}\n")
    for title, text in (
        ("source", method.source),
        ("equations", method.equations),
        ("cost", method.cost or "that of a linear classifier"),
    ):
        print_paragraph(f"{title}: {text}")
    if method.follows:
        print_paragraph(f"after: a stage whose classifier is {' or '.join(method.follows)}")
    if method.sampler:
        print_paragraph(f"needs: recipe.sampler {method.sampler}")
    for point in method.open_points:
        print_paragraph(f"open: {point}")
    if options := [(path, *rest) for path, *rest in _options(method)]:
        table = Table("option", "default", "what it is", box=None, pad_edge=False)
        for path, default, about in options:
            table.add_row(path, default, about)
        console.print()
        console.print(table, highlight=False, markup=False)


def _summary(method: "type[Method]") -> str:
    """The docstring's first paragraph, which is one sentence."""
    first = (inspect.getdoc(method) or "").split("\n\n")[0]
    return " ".join(first.split()).removesuffix(".")


def _about(method: "type[Method]") -> str:
    """The docstring as one paragraph."""
    return " ".join((inspect.getdoc(method) or "").split())


def _options(settings: type[Any], under: str = "") -> list[tuple[str, str, str]]:
    """(path, default, what it is) of each field but the method's name."""
    from bacl.schema import Settings

    found: list[tuple[str, str, str]] = []
    for name, field in settings.model_fields.items():
        if name == "method":
            continue
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Settings):
            found += _options(type(default), f"{under}{name}.")
        else:
            shown = "null" if default is None else str(default)
            if field.is_required():
                shown = "required"
            found.append((under + name, shown, " ".join((field.description or "").split())))
    return found
