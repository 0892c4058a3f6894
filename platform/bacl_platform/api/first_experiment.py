"""A first experiment file for a user's data."""

from pathlib import Path
from typing import TYPE_CHECKING

from bacl_platform.api.files import store_of

if TYPE_CHECKING:
    from rich.console import Console

    from bacl_platform.store.store import Store


def first_experiment(
    data: str | Path | None = None,
    out: str | Path = "mine.yaml",
    val: str | Path | None = None,
    images: str | Path | None = None,
    val_images: str | Path | None = None,
    weights: str | Path | None = None,
    backbone: str | None = None,
    device: str = "auto",
    seed: int = 0,
    force: bool = False,
    store: "str | Path | Store | None" = None,
    console: "Console | None" = None,
) -> Path:
    """Write an experiment file that fits a data set, and print what was found and chosen; returns
    the file.

    data: a folder of COCO or LVIS annotations, or the training split's file; None for the embedded
    set. val: the validation split's file, if it is not to be found. images, val_images: folders.
    weights: `torchvision`, a file or an address of backbone weights. device: `cpu`, `gpu`, or
    `auto` for what is here. seed: of the division where there is no validation split. force:
    replace files that are there.
    """
    from bacl_platform.console import Console
    from bacl_platform.tools.first_experiment.make import Request, make

    def path(given: str | Path | None) -> Path | None:
        return None if given is None else Path(given)

    request = Request(
        path(data),
        Path(out),
        path(val),
        path(images),
        path(val_images),
        None if weights is None else str(weights),
        backbone,
        device,
        seed,
        force,
    )
    make(request, store_of(store).datasets, console or Console())
    return Path(out)
