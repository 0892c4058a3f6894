"""Stored features as mmengine's dataloaders read them.

V image views of a batch, N rows (sampled RoIs), P positives, M (view, category) pairs, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample
from mmengine.registry import FUNCTIONS
from numpy.typing import NDArray
from torch import Tensor

from bacl.datasets.index import Index
from bacl.datasets.samplers import Position
from bacl.errors import RunError
from bacl.features import shards
from bacl.features.parts import EACH


class _Shards:
    """Rows of a split's shards by where they are."""

    def __init__(self, folder: str, split: str) -> None:
        self.files = [content for _, content in shards.found(Path(folder), split)]
        if not self.files:
            raise RunError(f"{folder}: expected stored features of {split}, found none")
        self._begins: list[dict[str, list[int]]] = []
        for content in self.files:
            counts = {"rows": content["rows"]}
            counts |= {name: content[name] for name in ("positives", "shown") if name in content}
            self._begins.append(
                {name: [0, *count.cumsum(0).tolist()] for name, count in counts.items()}
            )

    def __len__(self) -> int:
        return sum(len(content["id"]) for content in self.files)

    def cut(self, file: int, place: int, by: str, names: Sequence[str]) -> list[Tensor]:
        """Of the view at a place of a file, the rows of tensors that are counted by `by`."""
        begin, end = self._begins[file][by][place : place + 2]
        return [self.files[file][name][begin:end] for name in names]


@DATASETS.register_module()
class StoredFeatures:
    """Image views of training as `bacl.features.recording` has kept them, by `Position`.

    The stream of images is the samplers' own; with each epoch the next of an image's views is
    shown.

    Args:
        folder: of the shards.
        ann_file: index of the split, `bacl.datasets.index`.
        layers: which layers of the regions are read.
        moments: whether statistics of the jittered ground truth are.
        least_side, empty: which images there are, `Index.trained`.
    """

    def __init__(
        self,
        folder: str,
        ann_file: str,
        layers: Sequence[str],
        moments: bool,
        least_side: int = 0,
        empty: bool = True,
    ) -> None:
        self.index = Index(ann_file)
        self.places = self.index.trained(least_side, empty)
        self.layers, self.moments = list(layers), moments
        self.shards = _Shards(folder, "train")
        indices = torch.cat([content["index"] for content in self.shards.files]).numpy()
        # of each image, its views in the order in which they were made
        order = np.argsort(indices, kind="stable")
        if len(indices) % len(self.places) or np.bincount(indices).min() * len(self) != len(order):
            raise RunError(
                f"{folder}: expected as many views of each of {len(self)} images, found "
                f"{len(indices)} of {len(np.unique(indices))}"
            )
        self.views = order.reshape(len(self), -1)

    def __len__(self) -> int:
        return len(self.places)

    def presence(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """What samplers ask for: `Index.presence`, of the images that the dataset has."""
        return self.index.presence(self.places)

    def wide(self) -> NDArray[Any]:
        """Whether each image is wider than high, (I,)."""
        return self.index.wide()[self.places]

    def full_init(self) -> None:
        """mmengine calls it; shards are open by now."""

    def __getitem__(self, at: Position) -> dict[str, Any]:
        epoch = at.position // len(self)
        views = self.views[at.index]
        file, place = divmod(int(views[epoch % len(views)]), EACH)
        content, cut = self.shards.files[file], self.shards.cut
        (labels,) = cut(file, place, "rows", ["labels"])
        priors, truths = cut(file, place, "positives", ["priors", "truths"])
        view = {
            "position": at.position,
            "drawn_for": at.drawn_for,
            "id": int(content["id"][place]),
            "stands_for": float(content["stands_for"][place]),
            "positives": len(priors),
            "labels": labels,
            "priors": priors,
            "truths": truths,
            **dict(zip(self.layers, cut(file, place, "rows", self.layers), strict=True)),
        }
        if self.moments:
            names = ["shown_labels", "shown_counts", "shown_means", "shown_squares"]
            view |= dict(zip(names, cut(file, place, "shown", names), strict=True))
        return view


@FUNCTIONS.register_module()  # type: ignore[untyped-decorator]
def collate_views(views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A batch: tensors of all views, one behind the other, and lists of what each view is."""
    batch: dict[str, Any] = {
        name: torch.cat([view[name] for view in views])
        for name, value in views[0].items()
        if isinstance(value, Tensor)
    }
    lists = {name: [view[name] for view in views] for name in views[0] if name not in batch}
    sizes = [len(view["labels"]) for view in views]
    lengths = torch.tensor(sizes)
    weights = torch.ones(len(batch["labels"]))
    begins = [0, *lengths.cumsum(0).tolist()]
    for begin, end, view in zip(begins, begins[1:], views):
        weights[begin + view["positives"] : end] = view["stands_for"]
    # a device would have to be asked which rows these are
    places = [torch.arange(begin, begin + view["positives"]) for begin, view in zip(begins, views)]
    batch |= {
        "positive_rows": torch.cat(places),
        "images": torch.arange(len(views)).repeat_interleave(lengths),
        "weights": weights,
    }
    if "shown_labels" in batch:
        shown = torch.tensor([len(view["shown_labels"]) for view in views])
        batch["shown_images"] = torch.arange(len(views)).repeat_interleave(shown)
    return {"stored": {**batch, **lists, "sizes": sizes}}


@DATASETS.register_module()
class StoredProposals:
    """Validation images as `bacl.features.recording` has kept them: proposals and their layers.

    Args:
        folder: of the shards.
        layers: which layers of the regions are read.
    """

    metainfo: dict[str, Any] = {}  # mmengine hands it to metrics

    def __init__(self, folder: str, layers: Sequence[str]) -> None:
        self.layers = list(layers)
        self.shards = _Shards(folder, "val")

    def __len__(self) -> int:
        return len(self.shards)

    def full_init(self) -> None:
        """mmengine calls it; shards are open by now."""

    def __getitem__(self, at: int) -> dict[str, Any]:
        file, place = divmod(at, EACH)
        content = self.shards.files[file]
        names = ["priors", *self.layers]
        image = dict(zip(names, self.shards.cut(file, place, "rows", names), strict=True))
        sample = DetDataSample(
            metainfo={
                "img_id": int(content["id"][place]),
                "img_shape": tuple(content["shape"][place].tolist()),
                "scale_factor": tuple(content["scale"][place].tolist()),
            }
        )
        return {"stored": image, "data_samples": sample}


@FUNCTIONS.register_module()  # type: ignore[untyped-decorator]
def collate_images(images: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A list of images as they are: each is judged by itself."""
    return {
        "stored": [image["stored"] for image in images],
        "data_samples": [image["data_samples"] for image in images],
    }
