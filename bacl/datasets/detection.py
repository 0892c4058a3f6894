"""Dataset of images and annotations whose random draws depend on the seed and the position in the
training stream alone, not on ranks, loader workers or resuming.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.datasets import BaseDetDataset
from mmdet.registry import DATASETS
from mmengine.dataset import force_full_init
from numpy.typing import NDArray

from bacl.datasets.index import Index
from bacl.datasets.masks import LoadAnnotationsInParts
from bacl.datasets.prepared import Prepared
from bacl.datasets.samplers import Position, seed_sequence
from bacl.errors import RunError, UsageError


@DATASETS.register_module()
class LVISFormatDataset(BaseDetDataset):
    """A split that `bacl.datasets.prepare.prepare` has written, for mmdet's pipelines.

    The options select its images and boxes. By default it has all images, those without boxes too,
    because LVIS lists categories that are absent from them. Boxes are clipped to the image; those
    without area are left out. Crowds are marked to be ignored. Masks are read only where the
    pipeline loads them. An image that the pipeline gives back as None is replaced by another of its
    orientation, drawn as the pipeline draws.

    Annotations stay in the index: processes that have the dataset open share its memory, however
    they were started.

    Indexed by a `Position`, the pipeline's draws (numpy, random, torch on the CPU) come from
    (seed, position), the sample carries `position` for `PackDetInputs` to keep, and the
    process's own random states are left as they were.

    Args:
        ann_file: index of the split, `bacl.datasets.index`.
        dataset_info: `dataset.json`, which gives the categories in the order of their labels.
        images: folder that file names start from.
        pipeline, test_mode: of mmdet's `BaseDetDataset`.
        seed: seed of the pipeline's draws.
        least_side, empty: selection of the images, see `Index.trained`.
        least_box: pixels that each side of a box must have.

    Raises:
        RunError: the index is missing or is not an index, or the pipeline rejects all images.
        ImageError: an image is missing or unreadable (when it is asked for).
        UsageError: the pipeline loads masks and an annotation has none.
    """

    def __init__(
        self,
        ann_file: str,
        dataset_info: str,
        images: str,
        pipeline: Sequence[dict[str, Any]] = (),
        seed: int = 0,
        test_mode: bool = False,
        least_side: int = 0,
        least_box: float = 0,
        empty: bool = True,
    ) -> None:
        self.index = Index(ann_file)
        self.least_side, self.least_box, self.empty = least_side, least_box, empty
        self.images = Path(images)
        self.seed = seed
        self._drawn: Position | None = None
        categories = Prepared.load(Path(dataset_info)).categories
        super().__init__(
            ann_file=ann_file,
            metainfo={"classes": tuple(category.name for category in categories)},
            pipeline=[_in_parts(step) for step in pipeline],
            test_mode=test_mode,
        )

    def full_init(self) -> None:
        """Check that the index exists and has what the pipeline needs."""
        self.masks = any(getattr(step, "with_mask", False) for step in self.pipeline.transforms)
        if self.masks and (number := self.index.without_mask()) is not None:
            raise UsageError(
                f"{self.ann_file}: annotation {number!r}: expected a segmentation because the "
                "pipeline loads masks, got none"
            )
        self.places = self.index.trained(self.least_side, self.empty)
        self._fully_initialized = True

    def __len__(self) -> int:
        return len(self.places)

    def presence(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """`Index.presence` restricted to the dataset's images; for samplers."""
        return self.index.presence(self.places)

    def wide(self) -> NDArray[Any]:
        """Whether each image is wider than high, (I,)."""
        return self.index.wide()[self.places]

    @force_full_init  # type: ignore[untyped-decorator]
    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Input of mmdet's pipelines for an image; made anew with each call, so it may be changed
        in place."""
        place = int(self.places[range(len(self))[idx]])
        entry = self.index.image(place)
        masks = self.index.masks(place) if self.masks else None
        corners = np.concatenate([entry.boxes[:, :2], entry.boxes[:, :2] + entry.boxes[:, 2:]], 1)
        low, high = corners[:, :2].clip(min=0), corners[:, 2:].clip(max=(entry.width, entry.height))
        boxes = np.concatenate([low, high], axis=1).tolist()
        instances = []
        large = entry.boxes[:, 2:] >= self.least_box
        for n in np.flatnonzero((large & (low < high)).all(axis=1)):
            instance = {
                "bbox": boxes[n],
                "bbox_label": int(entry.labels[n]),
                "ignore_flag": int(entry.crowd[n]),
            }
            if masks:
                instance["mask"] = masks[n]
            instances.append(instance)
        return {
            "img_path": str(self.images / entry.file),
            "img_id": place,
            "height": entry.height,
            "width": entry.width,
            "instances": instances,
            "sample_idx": place,
        }

    def __getitem__(self, idx: int | Position) -> dict[str, Any]:
        if isinstance(idx, Position):
            with seeded(self.seed, idx.position):
                self._drawn = idx
                return self._usable(idx.index)
        self._drawn = None
        return self._usable(idx)

    def _usable(self, idx: int) -> dict[str, Any]:
        """The sample of an image; if the pipeline rejects it, that of another image which is
        accepted."""
        for _ in range(self.max_refetch):
            sample: dict[str, Any] | None = self.prepare_data(idx)
            if sample is not None:
                return sample
            wide = self.wide()
            idx = int(np.random.choice(np.flatnonzero(wide == wide[idx])))
        raise RunError(
            f"{self.ann_file}: expected images whose objects remain when they are cropped, found "
            f"none among {self.max_refetch}"
        )

    def prepare_data(self, idx: int) -> Any:
        sample = self.get_data_info(idx)
        if self._drawn is not None:
            sample["position"], sample["drawn_for"] = self._drawn.position, self._drawn.drawn_for
        return self.pipeline(sample)


def _in_parts(step: dict[str, Any]) -> dict[str, Any]:
    """A step of a pipeline, with a quicker one of the same results in MMDetection's place."""
    if step["type"] == "LoadAnnotations":
        return {**step, "type": LoadAnnotationsInParts}
    return step


@contextmanager
def seeded(seed: int, position: int, stream: str = "pipeline") -> Iterator[None]:
    """Seed the CPU's global random states by (seed, position) inside the context; restore them
    after it."""
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    words = seed_sequence(seed, stream, position).generate_state(8)
    np.random.seed(words)
    random.seed(words.tobytes())
    torch.default_generator.manual_seed(int(words[0]) << 32 | int(words[1]))
    try:
        yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
        torch.set_rng_state(states[2])
