"""`bacl schema`: the JSON Schema of experiment and sweep files. Commands import what they need when
they run."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.methods import Imports
from bacl_platform.cli.options import App, Debug

app = App()


class Kind(str, Enum):
    """The files that there are schemas of."""

    experiment = "experiment"
    sweep = "sweep"


@app.command()
def schema(
    kind: Annotated[
        Kind,
        typer.Argument(metavar="[experiment|sweep]", help="The files that the schema is of."),
    ] = Kind.experiment,
    file: Imports = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File to write.", show_default="standard output"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write the JSON Schema of experiment or sweep files.

    Editors complete and check files by it, and show what fields do, where a file's first line is
    `# yaml-language-server: $schema=PATH`. Methods, indicators and formats of installed packages
    are in it; with --file, also those that the experiment file imports.

    \b
    Examples:
      bacl schema experiment --out experiment.schema.json
      bacl schema --file mine.yaml --out experiment.schema.json
    """
    with report_errors(debug):
        from bacl.extensions import load_installed
        from bacl_platform.spec.json_schema import schema_of, text_of
        from bacl_platform.spec.load import load_unresolved

        load_installed()
        if file is not None:
            load_unresolved(file, [])
        text = text_of(schema_of("sweep" if kind is Kind.sweep else "experiment"))
        if out is None:
            print(text, end="")
        else:
            out.write_text(text, encoding="utf-8")
