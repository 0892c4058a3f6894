"""`bacl export`: a trained variant in a form that runs without BACL."""

from pathlib import Path
from typing import Annotated

import typer

from bacl_platform.api.files import DEFAULT_STORE
from bacl_platform.cli import completion
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    App,
    Debug,
    File,
    Quiet,
    Set,
    StoreOption,
    Verbose,
)

app = App()


@app.command()
def export(
    file: File,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The variant to export.", autocompletion=completion.variants
        ),
    ] = None,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="mmdet|onnx|torchscript",
            help="A folder with a configuration and weights of MMDetection's own types; or one "
            "file that takes an image's pixels and gives boxes, scores and labels, for onnxruntime "
            "or torch.",
            autocompletion=completion.one_of("mmdet", "onnx", "torchscript"),
        ),
    ] = "mmdet",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="File to write, or the folder of mmdet.",
            show_default="exports/NAME.onnx, NAME.pt or NAME",
        ),
    ] = None,
    check: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="IMAGE",
            help="Image in which the export has to detect what the detector does; repeatable.",
            show_default="three validation images",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Version of ONNX's operators that the file may use.",
            show_default="17",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="A seed of FILE.", show_default="the first"),
    ] = None,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Export a trained variant so that it runs without BACL.

    Nothing is left in place that does not detect what the detector detects.

    \b
    Example:
      bacl export experiments/embedded/demo.yaml --variant bacl --format onnx
    """
    with report_errors(debug):
        from bacl_platform.api.experiment import Experiment
        from bacl_platform.console import Console, say

        made = Experiment.load(file, set_, store_url).export(
            variant, format_, out, seed=seed, check=check or (), opset=opset
        )
        say(Console(), f"{made.path}: {format_}, {made.agreement}")
