"""Options that several commands have."""

from typing import Annotated

import typer

StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="FOLDER|s3://BUCKET/PREFIX",
        envvar="BACL_STORE",
        help="Where finished jobs and datasets are.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]

DEFAULT_STORE = "bacl_store"
