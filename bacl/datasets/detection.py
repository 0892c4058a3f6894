"""Images and annotations for training and evaluation, in an order and with draws that depend on
the seed and the position in the stream alone: not on ranks, loader workers or resuming.

The *position* p counts training images since the start of the stage over all ranks. With a global
batch of B images and R ranks, step t holds positions tB .. tB + B - 1, of which rank r takes the
contiguous slice [tB + rB/R, tB + (r+1)B/R), so that a pair of images stays on one rank.
"""

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from mmdet.datasets import BaseDetDataset, MultiImageMixDataset
from mmdet.registry import DATA_SAMPLERS, DATASETS
from mmengine.dist import get_dist_info
from torch.utils.data import Sampler

from bacl.datasets.annotations import Prepared
from bacl.errors import RunError, UsageError


class Position(NamedTuple):
    """One element of the training stream: its place in the stream and the image found there."""

    position: int
    index: int  # type: ignore[assignment]


class ImageError(RunError):
    """An image of the dataset cannot be read.

    torch raises an error of a loader worker again with the worker's whole traceback as message;
    the sentence is that text's last line.
    """

    def __str__(self) -> str:
        last = super().__str__().strip().splitlines()[-1]
        return last.removeprefix(f"{__name__}.{type(self).__name__}: ")


@DATA_SAMPLERS.register_module()
class OrderedSampler(Sampler[Position]):
    """This rank's share of the infinite stream of positions.

    Position p is element p % len(dataset) of the permutation that belongs to epoch
    p // len(dataset), which is drawn from (seed, epoch).

    Args:
        dataset: anything with a length.
        batch: images per step over all ranks.
        seed: of the order.

    Raises:
        UsageError: the batch cannot be shared equally among the ranks.
    """

    def __init__(self, dataset: Any, batch: int, seed: int) -> None:
        self.size = len(dataset)
        self.batch = batch
        self.seed = seed
        self.rank, self.ranks = get_dist_info()
        if batch % self.ranks:
            raise UsageError(
                f"schedule.batch: expected a multiple of the {self.ranks} workers, got {batch}"
            )
        self.start = 0

    def skip(self, num_samples: int) -> None:
        """Start after `num_samples` of this rank's samples, counted from the stream's beginning."""
        self.start = num_samples

    def __iter__(self) -> Iterator[Position]:
        share = self.batch // self.ranks
        epoch = -1
        order: np.ndarray = np.arange(0)
        sample = self.start
        while True:
            step, offset = divmod(sample, share)
            position = step * self.batch + self.rank * share + offset
            if position // self.size != epoch:
                epoch = position // self.size
                order = _generator(self.seed, "order", epoch).permutation(self.size)
            yield Position(position, int(order[position % self.size]))
            sample += 1

    def __len__(self) -> int:
        """Images in the dataset, as of mmengine's own infinite sampler."""
        return self.size


@DATASETS.register_module()
class LVISFormatDataset(BaseDetDataset):
    """A split that `bacl.datasets.annotations.prepare` has written, for mmdet's pipelines.

    Every image is kept, those without boxes too: LVIS says of them which categories are absent.
    Boxes are clipped to the image; those without area are left out. Crowds are marked to be
    ignored. Masks are held only where the pipeline loads them.

    Indexed by a `Position`, the pipeline's draws (numpy, random, torch on the CPU) come from
    (seed, position), the sample carries `position` for `PackDetInputs` to keep, and the
    process's own random states are left as they were.

    Args:
        ann_file: normalised annotations of the split.
        dataset_info: `dataset.json`, which gives the categories in the order of their labels.
        images: folder that file names start from.
        seed: of the pipeline's draws.
        kwargs: of mmdet's `BaseDetDataset`; here `pipeline` and `test_mode`.

    Raises:
        ImageError: an image is missing or unreadable (when it is asked for).
        UsageError: the pipeline loads masks and an annotation has none.
    """

    def __init__(
        self, ann_file: str, dataset_info: str, images: str, seed: int = 0, **kwargs: Any
    ) -> None:
        self.images = Path(images)
        self.seed = seed
        self._position: int | None = None
        categories = Prepared.load(Path(dataset_info)).categories
        self.label_of = {category.id: label for label, category in enumerate(categories)}
        classes = tuple(category.name for category in categories)
        super().__init__(ann_file=ann_file, metainfo={"classes": classes}, **kwargs)

    def load_data_list(self) -> list[dict]:
        with open(self.ann_file) as file:
            content = json.load(file)
        masks = any(getattr(step, "with_mask", False) for step in self.pipeline.transforms)
        instances = defaultdict(list)
        sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
        for annotation in content["annotations"]:
            width, height = sizes[annotation["image_id"]]
            x, y, w, h = annotation["bbox"]
            x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
            if x2 <= x1 or y2 <= y1:
                continue
            instance = {
                "bbox": [x1, y1, x2, y2],
                "bbox_label": self.label_of[annotation["category_id"]],
                "ignore_flag": int(annotation.get("iscrowd", 0)),
            }
            if masks:
                if not annotation.get("segmentation"):
                    raise UsageError(
                        f"{self.ann_file}: annotation {annotation['id']}: expected a segmentation "
                        "because the pipeline loads masks, got none"
                    )
                instance["mask"] = annotation["segmentation"]
            instances[annotation["image_id"]].append(instance)
        return [
            {
                "img_path": str(self.images / image["file_name"]),
                "img_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "instances": instances[image["id"]],
            }
            for image in content["images"]
        ]

    def __getitem__(self, idx: int | Position) -> dict:
        if isinstance(idx, Position):
            with _seeded(self.seed, idx.position):
                self._position = idx.position
                return super().__getitem__(idx.index)
        self._position = None
        return super().__getitem__(idx)

    def prepare_data(self, idx: int) -> Any:
        sample = self.get_data_info(idx)
        if self._position is not None:
            sample["position"] = self._position
        path = sample["img_path"]
        try:
            return self.pipeline(sample)
        except Exception as error:
            # What mmdet raises for a bad image depends on how it is bad; so ask the file.
            if (reason := _unreadable(path)) is None:
                raise
            raise ImageError(f"{path}: expected a readable image, {reason}") from error


@DATASETS.register_module()
class CopyPasteDataset(MultiImageMixDataset):
    """mmdet's mix of several images, with draws that come from (seed, position) as well."""

    def __init__(self, dataset: dict, pipeline: list[dict], seed: int) -> None:
        super().__init__(dataset, pipeline)
        self.seed = seed

    def __getitem__(self, idx: int | Position) -> dict:
        if isinstance(idx, Position):
            with _seeded(self.seed, idx.position, "mix"):
                return super().__getitem__(idx)
        return super().__getitem__(idx)


def _unreadable(path: str) -> str | None:
    """Why an image cannot be used, or None where it can."""
    try:
        content = np.frombuffer(Path(path).read_bytes(), dtype=np.uint8)
    except OSError as error:
        return f"got: {error.strerror or error}"
    if not content.size:
        return "got an empty file"
    if cv2.imdecode(content, cv2.IMREAD_COLOR) is None:
        return f"got {content.size} bytes that are not one"
    return None


def _sequence(seed: int, stream: str, number: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, *stream.encode(), number])


def _generator(seed: int, stream: str, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(_sequence(seed, stream, number)))


@contextmanager
def _seeded(seed: int, position: int, stream: str = "pipeline") -> Iterator[None]:
    """Global draws on the CPU come from (seed, position) inside, and go on as before outside."""
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    words = _sequence(seed, stream, position).generate_state(8)
    np.random.seed(words)
    random.seed(words.tobytes())
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.set_rng_state(states[2])
