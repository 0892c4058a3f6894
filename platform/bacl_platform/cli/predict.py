"""`bacl predict`: what a trained variant detects in images and videos.

Commands import what they need when they run.
"""

from pathlib import Path
from typing import Annotated

import typer

from bacl_platform.api.files import DEFAULT_STORE
from bacl_platform.cli import completion
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    DEFAULT_ROOT,
    App,
    Debug,
    Device,
    Optimize,
    Quiet,
    Root,
    Set,
    StoreOption,
    Verbose,
)

app = App()


@app.command()
def predict(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Image or video files, folders of such with all in them, patterns in quotes such "
            "as 'photos/**/*.jpg', and addresses of images; without any, the validation images of "
            "--data.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Experiment that has trained --variant.")
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="A variant of --run.", autocompletion=completion.variants
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="A seed of --run.", show_default="the first"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Exported checkpoint, instead of --run and --variant."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Configuration of --checkpoint. It is Python and is executed: use one that you "
            "trust.",
            show_default="config.py beside it",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write to.")
    ] = Path("predictions"),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="json|coco|lvis|csv|html",
            help="File to write besides pictures; repeatable. coco and lvis are what `bacl "
            "evaluate` takes, with the ids of --data.",
            show_default="json",
            autocompletion=completion.one_of("json", "coco", "lvis", "csv", "html"),
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Dataset whose validation images are meant, by their names: a data set under "
            "--root (lvis_v0.5, lvis_v1, coco_lt or embedded) or an experiment file.",
        ),
    ] = None,
    root: Root = DEFAULT_ROOT,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw images and videos.")
    ] = True,
    score_threshold: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="SCORE", help="Leave out detections with a lower score."
        ),
    ] = 0.3,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Images that pass the detector together.",
            show_default="8; 1 on a CPU",
        ),
    ] = None,
    optimize: Optimize = False,
    device: Device = None,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Detect objects in images and videos with a trained variant.

    Writes each with its boxes and masks drawn, and predictions.json. The same command goes on after
    an interruption.

    \b
    Examples:
      bacl predict photo.jpg --run experiments/embedded/demo.yaml --variant bacl
      bacl predict photos clip.mp4 --checkpoint model.pth --format csv
    """
    with report_errors(debug):
        from bacl_platform.api.predicting import predict as predicted
        from bacl_platform.console import Console

        predicted(
            images or (),
            out,
            run,
            variant,
            seed,
            checkpoint,
            config,
            formats or ("json",),
            data,
            pictures,
            score_threshold,
            batch,
            optimize,
            device,
            store_url,
            set_,
            root,
            Console(),
        )
