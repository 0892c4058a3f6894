"""Walking images through a frozen detector, and keeping what its classifiers see.

V image views, R rows (sampled RoIs), P positives among them, M (view, category) pairs of ground
truth, D feature width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmdet.registry import DATASETS
from mmdet.structures import DetDataSample, SampleList
from mmdet.structures.bbox import bbox2roi
from mmdet.utils import ConfigType
from mmengine.dataset import pseudo_collate
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bacl.datasets.samplers import OrderedSampler, Position
from bacl.detector.bank import BankDetector, jittered
from bacl.detector.layers import layers
from bacl.draws import generator
from bacl.errors import RunError
from bacl.features.parts import SPLITS, Part, parts
from bacl.settings import Features

PAIR = 2
"""Image views that pass the trunk together, as on a GPU of the release: they are padded alike,
however many ranks there are."""
_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Recorder:
    """Makes shards with a bank's detector, of which it uses all but the variants.

    Args:
        model: on its device, with the weights that features are of.
        config: of a stage, `bacl.config.features_config`.
    """

    def __init__(self, model: BankDetector, config: ConfigType) -> None:
        self.model, self.config = model.eval(), config
        self.options = Features(**config["features"])
        self.kept = ("fc2", *self.options.layers)
        self.half = _HALF.get(config["precision"])
        self.train = DATASETS.build(config["train_dataloader"]["dataset"])
        self.val = DATASETS.build(config["val_dataloader"]["dataset"])
        sampler = {**config["train_dataloader"]["sampler"], "dataset": self.train}
        del sampler["type"]
        self.order = OrderedSampler(**sampler)
        self.head = model.roi_head.bbox_head

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
        for split in SPLITS:
            own = [part for part in wanted if part.split == split]
            batches = _Batches(self, own)
            loader: DataLoader[Any] = DataLoader(
                batches, batch_size=None, num_workers=workers, collate_fn=_as_it_is
            )
            loaded = iter(loader)
            for part in own:
                rows = [next(loaded) for _ in batches.of(part)]
                content = _joined([row for batch in rows for row in self._rows(split, batch)])
                self._check(part, content)
                yield part, content

    def _check(self, part: Part, content: Mapping[str, Tensor]) -> None:
        for name in self.kept:
            if not content[name].isfinite().all():
                raise RunError(
                    f"{part.name}: expected finite features that {self.options.dtype} can hold, "
                    f"got others in layer {name}: `dtype: float32` holds larger ones, unless "
                    "the trunk's weights have diverged"
                )

    @torch.no_grad()
    def _rows(self, split: str, batch: dict[str, Any]) -> list[dict[str, Tensor]]:
        data = self.model.data_preprocessor(batch, training=False)
        if split == "val":  # is evaluated in full precision, whatever trains
            return list(self._images(data["inputs"], data["data_samples"]))
        device = data["inputs"].device.type
        with torch.autocast(device, self.half) if self.half else nullcontext():
            return list(self._views(data["inputs"], data["data_samples"]))

    def _views(self, inputs: Tensor, samples: SampleList) -> Iterator[dict[str, Tensor]]:
        """What image views give, each with its own."""
        self.model.place(samples)
        x = self.model.extract_feat(inputs)
        sampled = self._sampled(x, samples)
        chosen = [self._chosen(s, result) for s, result in zip(samples, sampled, strict=True)]
        boxes = [result.priors[rows] for result, rows in zip(sampled, chosen, strict=True)]
        around = [jittered(self.head.seed, sample) for sample in samples]
        # one pass of the box head for both: regions are pooled and passed on one by one
        found = self._layers(x, [torch.cat(both) for both in zip(boxes, around, strict=True)])
        for number, (sample, result, rows) in enumerate(zip(samples, sampled, chosen, strict=True)):
            own = {name: values[number] for name, values in found.items()}
            yield self._view(sample, result, rows, own)

    def _view(
        self, sample: DetDataSample, result: Any, rows: Tensor, found: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        positives, left_out = len(result.pos_priors), len(result.priors) - len(rows)
        labels = rows.new_full((len(rows),), self.head.num_classes)
        labels[:positives] = result.pos_gt_labels
        of_truth = found["fc2"][len(rows) :].double()
        means, squares, shown, counts = deviations(
            of_truth, sample.gt_instances.labels.repeat_interleave(16)
        )
        negatives = len(rows) - positives
        return {
            "index": torch.tensor([sample.index]),
            "id": torch.tensor([sample.img_id]),
            "rows": torch.tensor([len(rows)]),
            "positives": torch.tensor([positives]),
            "stands_for": torch.tensor([(negatives + left_out) / max(negatives, 1)]),
            "labels": labels.int(),
            "priors": result.pos_priors.float(),
            "truths": result.pos_gt_bboxes.float(),
            "shown": torch.tensor([len(shown)]),
            "shown_labels": shown.int(),
            "shown_counts": counts.float(),
            "shown_means": means.float(),
            "shown_squares": squares.float(),
            **{name: self._stored(found[name][: len(rows)]) for name in self.kept},
        }

    def _images(self, inputs: Tensor, samples: SampleList) -> Iterator[dict[str, Tensor]]:
        """What validation images give, of all proposals."""
        x = self.model.extract_feat(inputs)
        proposals = self.model.rpn_head.predict(x, samples, rescale=False)
        for number, (sample, proposed) in enumerate(zip(samples, proposals, strict=True)):
            levels = tuple(level[number : number + 1] for level in x)
            found = self._layers(levels, [proposed.bboxes])
            yield {
                "id": torch.tensor([sample.img_id]),
                "rows": torch.tensor([len(proposed)]),
                "shape": torch.tensor([sample.img_shape[:2]]),
                "scale": torch.tensor([sample.scale_factor], dtype=torch.double),
                "priors": proposed.bboxes.float(),
                **{name: self._stored(found[name][0]) for name in self.kept},
            }

    def _sampled(self, x: tuple[Tensor, ...], samples: SampleList) -> list[Any]:
        """Sampled regions of each image, as in training."""
        head = self.model.roi_head
        results = []
        for number, (sample, proposed) in enumerate(
            zip(samples, self.model.propose(x, samples), strict=True)
        ):
            proposed.priors = proposed.pop("bboxes")
            ignored = sample.get("ignored_instances")
            assigned = head.bbox_assigner.assign(proposed, sample.gt_instances, ignored)
            levels = [level[number][None] for level in x]
            results.append(
                head.bbox_sampler.sample(assigned, proposed, sample.gt_instances, feats=levels)
            )
        return results

    def _chosen(self, sample: DetDataSample, result: Any) -> Tensor:
        """Places among the sampled regions: of all positives, and of some negatives."""
        positives, negatives = len(result.pos_priors), len(result.neg_priors)
        draw = generator("cpu", self.head.seed, "negatives", sample.position)
        some = torch.randperm(negatives, generator=draw)[: self.options.negatives].sort().values
        kept = torch.cat([torch.arange(positives), positives + some])
        return kept.to(result.priors.device)

    def _layers(
        self, x: tuple[Tensor, ...], boxes: Sequence[Tensor]
    ) -> Mapping[str, Sequence[Tensor]]:
        """Layers of regions, of each image."""
        extractor = self.model.roi_head.bbox_roi_extractor
        pooled = extractor(x[: extractor.num_inputs], bbox2roi(list(boxes)))
        sizes = [len(own) for own in boxes]
        return {n: v.split(sizes) for n, v in layers(self.head, pooled).items()}

    def _stored(self, values: Tensor) -> Tensor:
        return values.to(getattr(torch, self.options.dtype))


class _Batches(Dataset[Any]):
    """Image views in pairs, and validation images one by one, loaded for the trunk."""

    def __init__(self, recorder: Recorder, wanted: Sequence[Part]) -> None:
        self.recorder = recorder
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
                samples.append(self.recorder.val[place])
                continue
            index = self.recorder.order.image(place)
            sample = self.recorder.train[Position(place, index)]
            sample["data_samples"].set_metainfo({"index": index})
            samples.append(sample)
        loaded: dict[str, Any] = pseudo_collate(samples)
        return loaded


def deviations(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means (M, D), sums of squared deviations from them (M, D), labels (M,) and counts (M,) of the
    categories that features (N, D) with labels (N,) are of."""
    shown, which, counts = labels.unique(return_inverse=True, return_counts=True)
    zeros = features.new_zeros(len(shown), features.size(1))
    means = zeros.index_add(0, which, features) / counts[:, None]
    squares = zeros.index_add(0, which, (features - means[which]).square())
    return means, squares, shown, counts


def _as_it_is(batch: Any) -> Any:
    return batch


def _joined(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """One tensor of each name, on the CPU."""
    return {name: torch.cat([row[name] for row in rows]).cpu() for name in rows[0]}
