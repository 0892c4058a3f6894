"""Detecting in many images and videos, with everything written to a folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.errors import UsageError
from bacl_platform.api.experiment import Experiment
from bacl_platform.api.files import Overrides, dataset_of, prepare_dataset, store_of

if TYPE_CHECKING:
    from rich.console import Console

    from bacl_platform.store.store import Store


def predict(
    images: Sequence[str | Path],
    out: str | Path = "predictions",
    run: str | Path | None = None,
    variant: str | None = None,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    config: str | Path | None = None,
    formats: Sequence[str] = ("json",),
    data: str | Path | None = None,
    pictures: bool = True,
    score_threshold: float = 0.3,
    batch: int | None = None,
    optimize: bool = False,
    device: str | None = None,
    store: "str | Path | Store | None" = None,
    overrides: Overrides = None,
    root: Path = Path("bacl_data"),
    console: "Console | None" = None,
) -> None:
    """Write to the folder `out` what a variant of the experiment file `run`, or a checkpoint,
    detects in images, folders of such, patterns, videos and addresses; the same call goes on after
    an interruption.

    images: none means the validation images of `data`, an experiment file or the name of a data set
    under `root`, whose ids images have in the formats `coco` and `lvis`; `json`, `csv` and `html`
    are others. config: of the checkpoint; it is Python and is executed. batch: images that pass the
    detector together. optimize: as `load_detector` has it. overrides: of `run` and `data`.

    Raises UsageError for what cannot be used, before anything is written, and RunError for images
    of folders, patterns and addresses that cannot be read, when all else is done.
    """
    from bacl_platform.console import Console
    from bacl_platform.spec.other_files import refuse
    from bacl_platform.tools import predict as prediction

    for image in images:
        refuse(Path(image), "an image or video", "an image", "a video")
    if (run is None) == (checkpoint is None):
        raise UsageError("expected either --run FILE with --variant NAME or --checkpoint FILE")
    if run is not None:
        if config is not None:
            raise UsageError("--config: expected with --checkpoint only, got --run")
        experiment = Experiment.load(run, overrides, store, None if seed is None else [seed])
        checkpoint = experiment.checkpoint(variant)
    elif variant is not None or seed is not None or (overrides and data is None):
        raise UsageError("--variant, --seed, --set: expected with --run, got --checkpoint")
    else:
        assert checkpoint is not None
        refuse(Path(checkpoint), "a checkpoint", "a checkpoint")
    prepared = None
    if data is not None:
        dataset = dataset_of(data, root, overrides=overrides)
        prepared = prepare_dataset(dataset, store_of(store))
    prediction.predict(
        [str(image) for image in images],
        Path(checkpoint),
        Path(config) if config else Path(checkpoint).with_name("config.py"),
        Path(out),
        prediction.Wanted(
            score_threshold, tuple(dict.fromkeys(formats)), pictures, batch, optimize, prepared
        ),
        device,
        console or Console(),
    )
