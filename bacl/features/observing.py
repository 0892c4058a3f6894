"""What a frozen detector's classifiers see of images.

V image views, R rows (sampled RoIs), P positives among them, M (view, category) pairs of ground
truth, D feature width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from mmdet.structures import DetDataSample, SampleList
from mmdet.structures.bbox import bbox2roi
from torch import Tensor

from bacl.detector.bank import BankDetector, jittered
from bacl.detector.layers import layers
from bacl.draws import generator
from bacl.settings import Features

_HALF = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Observer:
    """Keeps what stored features are of batches of images, with all of a bank's detector but its
    variants.

    Args:
        model: on its device, with the weights that features are of.
        options: what is kept.
        precision: of the trunk while it is shown training images, `bacl.settings.Recipe.precision`;
            validation images are evaluated in full precision, whatever trains.
    """

    def __init__(self, model: BankDetector, options: Features, precision: str = "float32") -> None:
        self.model, self.options = model.eval(), options
        self.kept = ("fc2", *options.layers)
        self.half = _HALF.get(precision)
        self.head = model.roi_head.bbox_head

    @torch.no_grad()
    def views(self, batch: dict[str, Any]) -> list[dict[str, Tensor]]:
        """Rows of each training image of a batch, as a dataloader collates them."""
        data = self.model.data_preprocessor(batch, training=False)
        device = data["inputs"].device.type
        autocast = torch.autocast(device, self.half) if self.half else nullcontext()
        with autocast, self.model.trunk.read():
            return list(self._views(data["inputs"], data["data_samples"]))

    @torch.no_grad()
    def images(self, batch: dict[str, Any]) -> list[dict[str, Tensor]]:
        """Proposals of each validation image of a batch, and their features."""
        data = self.model.data_preprocessor(batch, training=False)
        return list(self._images(data["inputs"], data["data_samples"]))

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
        roi_head = self.model.roi_head
        pooled = roi_head.pooled(roi_head.bbox_roi_extractor, x, bbox2roi(list(boxes)))
        sizes = [len(own) for own in boxes]
        return {n: v.split(sizes) for n, v in layers(self.head, pooled).items()}

    def _stored(self, values: Tensor) -> Tensor:
        return values.to(getattr(torch, self.options.dtype))


def deviations(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means (M, D), sums of squared deviations from them (M, D), labels (M,) and counts (M,) of the
    categories that features (N, D) with labels (N,) are of."""
    shown, which, counts = labels.unique(return_inverse=True, return_counts=True)
    zeros = features.new_zeros(len(shown), features.size(1))
    means = zeros.index_add(0, which, features) / counts[:, None]
    squares = zeros.index_add(0, which, (features - means[which]).square())
    return means, squares, shown, counts
