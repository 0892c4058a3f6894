"""`bacl init`: a first experiment file for a user's data."""

from pathlib import Path
from typing import Annotated

import typer

from bacl_platform.api.files import DEFAULT_STORE
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import App, Debug, StoreOption

app = App()


@app.command()
def init(
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|FILE",
            help="Folder of COCO or LVIS annotations and their images, as COCO, Roboflow, CVAT or "
            "Label Studio write it, or the training split's annotation file.",
            show_default="the embedded set",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Experiment file to write (YAML).")
    ] = Path("mine.yaml"),
    val: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Annotation file of the validation split.",
            show_default="the one beside the training split's; without it, a fifth of the images",
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder of the images.", show_default="where they are found"
        ),
    ] = None,
    val_images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of the validation images.",
            show_default="where they are found",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="torchvision|FILE|ADDRESS",
            help="Weights that the backbone starts from; that of a file is recognised.",
            show_default="torchvision with a GPU, none without",
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Backbone, such as mobilenet_v2 or timm/NAME.",
            show_default="that of the weights; resnet50 with a GPU, tiny without",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="auto|cpu|gpu", help="What the experiment is to run on; auto is what is here."
        ),
    ] = "auto",
    seed: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Seed of the division where there is no validation split."
        ),
    ] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    store_url: StoreOption = DEFAULT_STORE,
    debug: Debug = False,
) -> None:
    """Write a first experiment file for your data.

    Reads annotations and image sizes, says what it found, and chooses groups, detector, scales and
    schedule that fit; comments in the file say why. Without --data, the file is for a small
    generated set.

    \b
    Examples:
      bacl init --data photos
      bacl init --data train.json --val val.json --images photos --out birds.yaml
    """
    with report_errors(debug):
        from bacl_platform.api.first_experiment import first_experiment

        first_experiment(
            data,
            out,
            val,
            images,
            val_images,
            weights,
            backbone,
            device,
            seed,
            force,
            store_url,
        )
