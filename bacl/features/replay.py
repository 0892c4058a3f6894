"""A bank that trains and is evaluated on stored features."""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import scale_boxes
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from bacl.detector.bank import BankBBoxHead, BankDetector, move_first, settled
from bacl.detector.layers import read
from bacl.errors import UsageError
from bacl.variants import LAYERS


@MODELS.register_module()
class ReplayDetector(BankDetector):
    """A bank's detector that is fed what its trunk gave when features were recorded.

    The trunk and the RPN are there, so that checkpoints and exports are those of any bank; they are
    frozen and see nothing. The box regressor trains on the stored boxes, unless it is frozen.
    `layers` are those that are stored; a variant that reads others is an error.
    """

    def __init__(self, *args: Any, layers: Sequence[str] = ("fc2",), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, variant in self.head.bank().items():
            if lacking := [layer for layer in variant.reads if layer not in layers]:
                raise UsageError(
                    f"variants.{name}: expected a method that reads {', '.join(layers)} of a "
                    f"region, which are stored, got one that reads {', '.join(lacking)}"
                )
        images: nn.Module = self.data_preprocessor  # type: ignore[has-type]
        self.data_preprocessor = StoredOrImages(images)
        super().train(False)

    def train(self, mode: bool = True) -> "ReplayDetector":
        """Only the box head follows: MMEngine asks at every step, the rest is frozen, and walking
        over its modules would take as long as the step."""
        self.training = mode
        self.head.train(mode)
        return self

    @property
    def head(self) -> BankBBoxHead:
        """The box head."""
        head: BankBBoxHead = self.roi_head.bbox_head
        return head

    def forward(
        self, inputs: Any = None, data_samples: Any = None, mode: str = "", stored: Any = None
    ) -> Any:
        """Losses of a batch of `bacl.features.stored.collate_views`, or what is detected in one of
        `collate_images`, or in images."""
        if stored is None:
            return super().forward(inputs, data_samples, mode)
        if mode == "loss":
            return self.replayed(stored)
        return [self.detected(i, sample) for i, sample in zip(stored, data_samples, strict=True)]

    def replayed(self, stored: dict[str, Any]) -> dict[str, Tensor]:
        """Losses of the variants, and of the box regressor, as `BankDetector.loss` has them."""
        head = self.head
        head.begin(stored["position"], stored["id"], stored["drawn_for"], stored["sizes"])
        labels, weights = stored["labels"].long(), stored["weights"]
        found = {name: stored[name].float() for name in LAYERS if name in stored}
        losses = {}
        if head.fc_reg.weight.requires_grad:
            rows = stored["positive_rows"]
            losses["loss_bbox"] = self._box_loss(
                found["fc2"][rows], labels[rows], stored, weights.sum()
            )
        if head.statistics:
            labels_shown = stored["shown_labels"].long()
            for name, ranks in head.moments.items():
                rows = head.row_of(labels_shown, stored["shown_images"], ranks)
                head.tally[name] = packed(stored, rows, ranks * head.num_classes)
            move_first([head])
        losses |= head.classify(found, labels, stored["images"], weights)
        return settled([head], losses, [""])

    def _box_loss(
        self, features: Tensor, labels: Tensor, stored: dict[str, Any], samples: Tensor
    ) -> Tensor:
        """The box head's own, of positives' features (P, D); only their categories' columns of the
        regressor are computed."""
        head = self.head
        weight = head.fc_reg.weight.view(-1, 4, features.size(1))
        bias = head.fc_reg.bias.view(-1, 4)
        own = torch.zeros_like(labels) if head.reg_class_agnostic else labels
        deltas = torch.einsum("pkd,pd->pk", weight[own], features) + bias[own]
        targets = head.bbox_coder.encode(stored["priors"], stored["truths"])
        loss: Tensor = head.loss_bbox(deltas, targets, avg_factor=samples)
        return loss

    @torch.no_grad()
    def detected(self, stored: dict[str, Tensor], sample: DetDataSample) -> DetDataSample:
        """What every variant detects in an image, of its stored proposals."""
        head = self.head
        found = {name: stored[name].float() for name in LAYERS if name in stored}
        logits = [variant.logits(read(found, variant.reads)) for variant in head.bank().values()]
        boxes = stored["priors"]
        rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
        # a detector with masks suppresses before it rescales
        at_once = not self.roi_head.with_mask
        detections = head._predict_by_feat_single(
            rois,
            torch.cat(logits, dim=1),
            head.fc_reg(found["fc2"]),
            sample.metainfo,
            rescale=at_once,
            rcnn_test_cfg=self.test_cfg.rcnn,
        )
        if not at_once:
            factors = [1 / scale for scale in sample.scale_factor]
            detections.bboxes = scale_boxes(detections.bboxes, factors)
        sample.pred_instances = detections
        return sample


class StoredOrImages(BaseDataPreprocessor):
    """Brings stored features to the device as they are, and images as a detector's own does."""

    def __init__(self, images: nn.Module) -> None:
        super().__init__(non_blocking=True)
        self.images = images

    def forward(self, data: dict[str, Any], training: bool = False) -> Any:
        return self.images(data, training) if "inputs" in data else self.cast_data(data)


def packed(stored: dict[str, Tensor], labels: Tensor, categories: int) -> Tensor:
    """`bacl.hallucination.moments` of the views' jittered ground truth, of means and deviations
    of (M,) categories in (M,) views."""
    means = stored["shown_means"].double()
    counts = stored["shown_counts"].double()[:, None]
    sums = means * counts
    squares = stored["shown_squares"].double() + sums * means
    rows = torch.cat([sums, squares, counts], dim=1)
    return rows.new_zeros(categories, rows.size(1)).index_add_(0, labels, rows)
