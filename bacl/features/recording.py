"""Walking both splits through a frozen detector, and keeping in shards what its classifiers see."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmdet.registry import DATASETS
from mmdet.utils import ConfigType
from mmengine.dataset import pseudo_collate
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bacl.datasets.samplers import OrderedSampler, Position
from bacl.detector.bank import BankDetector
from bacl.errors import RunError
from bacl.features.observing import Observer
from bacl.features.parts import SPLITS, Part, parts
from bacl.settings import Features

PAIR = 2
"""Image views that pass the trunk together, as on a GPU of the release: they are padded alike,
however many ranks there are."""


class Recorder:
    """Makes shards with a bank's detector, of which it uses all but the variants.

    Args:
        model: on its device, with the weights that features are of.
        config: of a stage, `bacl.config.features_config`.
    """

    def __init__(self, model: BankDetector, config: ConfigType) -> None:
        self.options = Features(**config["features"])
        self.observer = Observer(model, self.options, config["precision"])
        self.train = DATASETS.build(config["train_dataloader"]["dataset"])
        self.val = DATASETS.build(config["val_dataloader"]["dataset"])
        self.start = config["train_dataloader"].get("multiprocessing_context")
        sampler = {**config["train_dataloader"]["sampler"], "dataset": self.train}
        del sampler["type"]
        self.order = OrderedSampler(**sampler)

    def parts(self) -> list[Part]:
        """All shards that there are to be."""
        views = self.options.views * len(self.train)
        return parts(views, len(self.val) if self.options.val else 0)

    def walk(
        self, wanted: Sequence[Part], workers: int = 0
    ) -> Iterator[tuple[Part, dict[str, Tensor]]]:
        """The shards `wanted`, in their order, each as soon as it is made.

        workers: processes that load images meanwhile. Raises RunError where features are not finite
        in the precision in which they are kept.
        """
        observers = (self.observer.views, self.observer.images)
        for split, observe in zip(SPLITS, observers, strict=True):
            own = [part for part in wanted if part.split == split]
            batches = _Batches(self.train, self.val, self.order, own)
            loader: DataLoader[Any] = DataLoader(
                batches,
                batch_size=None,
                num_workers=workers,
                collate_fn=_as_it_is,
                multiprocessing_context=self.start if workers else None,
            )
            loaded = iter(loader)
            for part in own:
                rows = [row for _ in batches.of(part) for row in observe(next(loaded))]
                content = _joined(rows)
                self._check(part, content)
                yield part, content

    def _check(self, part: Part, content: Mapping[str, Tensor]) -> None:
        for name in self.observer.kept:
            if not content[name].isfinite().all():
                raise RunError(
                    f"{part.name}: expected finite features that {self.options.dtype} can hold, "
                    f"got others in layer {name}: `dtype: float32` holds larger ones, unless "
                    "the trunk's weights have diverged"
                )


class _Batches(Dataset[Any]):
    """Image views in pairs, and validation images one by one, loaded for the trunk."""

    def __init__(self, train: Any, val: Any, order: OrderedSampler, wanted: Sequence[Part]) -> None:
        self.train, self.val, self.order = train, val, order
        self.batches = [places for part in wanted for places in self.of(part)]
        self.split = wanted[0].split if wanted else ""

    @staticmethod
    def of(part: Part) -> list[range]:
        """Places of each batch of a shard."""
        each = PAIR if part.split == "train" else 1
        begin, end = part.places.start, part.places.stop
        return [range(first, min(first + each, end)) for first in range(begin, end, each)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number >= len(self):
            raise IndexError(number)
        samples = []
        for place in self.batches[number]:
            if self.split == "val":
                samples.append(self.val[place])
                continue
            index = self.order.image(place)
            sample = self.train[Position(place, index)]
            sample["data_samples"].set_metainfo({"index": index})
            samples.append(sample)
        loaded: dict[str, Any] = pseudo_collate(samples)
        return loaded


def _as_it_is(batch: Any) -> Any:
    return batch


def _joined(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One tensor of each name, on the CPU."""
    return {name: torch.cat([row[name] for row in rows]).cpu() for name in rows[0]}
