"""Images that a rank loads a second, by its loader workers, beside what a V100 trains on.

The peer is MMDetection's published figure of R50-FPN on 8 V100: a ratio above 1 keeps a V100 busy.
Also how long a photograph takes to decode, by what decodes it.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_jpeg

import bacl.register  # noqa: F401  before anything imports mmdet.models

# isort: split
from mmdet.registry import DATA_SAMPLERS, DATASETS
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope

from bacl import settings
from bacl.config import stage_config
from bacl.datasets.decoding import decode
from bacl.datasets.loading import LoadImageByNvjpeg
from bacl.datasets.prepare import prepare
from bacl.method_settings.paper import BCE
from bacl_platform.bench.drawn import Size, write_annotations, write_photographs
from bacl_platform.bench.measure import Row, Setting, in_turns
from bacl_platform.bench.rows.loader import COPY_PASTE, LOADED, RECIPE, SIDE
from bacl_platform.bench.training import R50

WORKERS = (1, 2)
PAIR = 2
"""Images of a batch, as on each GPU of the release."""
SECONDS = 5.0
"""That are measured of each."""
V100 = 16 / 8 / 0.216
"""Images a second that a V100 trains on: Faster R-CNN, R50-FPN, many scales up to 1333x800, 16
images in 0.216 s on 8 (MMDetection's docs/en/model_zoo.md, "Training Speed")."""
LARGER = SIDE * SIDE / (1333 * 800)
"""Pixels of a Copy-Paste image by those of the largest of 1333x800."""


def measure(setting: Setting, size: Size = LOADED, seconds: float = SECONDS) -> list[Row]:
    """Rates by loader workers, with multi-scale resizing and Copy-Paste, and times to decode."""
    with TemporaryDirectory(prefix="bacl-bench-") as name:
        folder = Path(name)
        path, images = folder / "both.json", folder / "images"
        names = write_annotations(path, size)
        write_photographs(images, names)
        dataset = settings.Dataset(
            format="lvis", train=str(path), val=str(path), images=str(images)
        )
        rows = []
        decoders = ("cpu", "nvjpeg") if setting.device == "cuda" else ("cpu",)
        for decoder in decoders:
            for kind, recipe, per_image in (
                ("multi_scale", RECIPE, 1.0),
                (f"copy_paste_{SIDE}", COPY_PASTE, LARGER),
            ):
                shown = recipe.model_copy(update={"decoder": decoder})
                by = "" if decoder == "cpu" else f"_{decoder}"
                rows += [
                    Row(
                        f"loading_{kind}{by}_{workers}",
                        f"{workers} loader worker{'s' if workers > 1 else ''}",
                        rate(dataset, shown, folder / "cache", workers, seconds),
                        "a V100 trains" + ("" if per_image == 1 else ", by pixels"),
                        V100 / per_image,
                        None,
                        unit="images/s",
                    )
                    for workers in WORKERS
                ]
        return [*rows, *_decoding(images / names[0], setting)]


def rate(
    dataset: settings.Dataset, recipe: settings.Recipe, cache: Path, workers: int, seconds: float
) -> float:
    """Images a second that loader workers hand to a rank, which does nothing else."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        prepared = prepare(dataset, cache)
        info = Path(prepared.train.index).with_name("dataset.json")
        wanted = recipe.model_copy(update={"loader_workers": workers})
        config = stage_config(
            R50, prepared, info, wanted, {"bce": BCE(method="bce")}, [], seed=0, workers=1
        )
        loading = config["train_dataloader"]
        images = DATASETS.build(loading["dataset"])
        order: Any = DATA_SAMPLERS.build(loading["sampler"], default_args={"dataset": images})
        loader: DataLoader[Any] = DataLoader(
            images,
            batch_size=PAIR,
            sampler=order,
            num_workers=workers,
            collate_fn=pseudo_collate,
            worker_init_fn=_alone,
            multiprocessing_context=loading.get("multiprocessing_context"),
        )
        batches = iter(loader)
        for _ in range(4 * workers):  # what the workers have ready when the clock starts
            next(batches)
        began, seen = time.perf_counter(), 0
        while (taken := time.perf_counter() - began) < seconds or not seen:
            seen += len(next(batches)["inputs"])
        return seen / taken if taken else float(seen)


def _alone(_: int) -> None:
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _decoding(path: Path, setting: Setting) -> list[Row]:
    """Times of a photograph as jobs decode it, beside other decoders. torchvision's pixels, red
    first, are put into OpenCV's order."""
    file = path.read_bytes()
    repeat = 30 if setting.repeat is None else setting.repeat
    peers: dict[str, Callable[[bytes], object]] = {"torchvision": _by_torchvision}
    if setting.device == "cuda":
        peers["nvjpeg"] = partial(decode, by=LoadImageByNvjpeg().decode)
    rows = []
    for name, peer in peers.items():
        ours, theirs = in_turns(
            [partial(decode, file), partial(peer, file)], repeat, 3, setting.device
        )
        what = f"{len(file) / 1000:.0f} kB"
        rows.append(Row(f"loading_decode_{name}", what, ours, name, theirs, None))
    return rows


def _by_torchvision(file: bytes) -> Any:
    content = torch.from_numpy(np.frombuffer(file, dtype=np.uint8).copy())
    rgb = decode_jpeg(content, ImageReadMode.RGB)
    return cv2.cvtColor(rgb.permute(1, 2, 0).numpy(), cv2.COLOR_RGB2BGR)
