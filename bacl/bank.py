"""The bank: one trunk, many variants, as MMDetection parts.

N sampled RoIs, C foreground categories, D feature width. The box head hands its D-wide features on
where MMDetection's heads hand on classification scores, so the RoI heads' own flow stays as it is.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.layers import multiclass_nms
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox2roi, scale_boxes
from mmengine.config import ConfigDict
from mmengine.dist import all_reduce, get_world_size
from mmengine.structures import InstanceData
from torch import Tensor, nn

from bacl.draws import generator
from bacl.errors import UsageError
from bacl.hallucination import FeatureStatistics, jitter_boxes, moments
from bacl.variants import Variant, build_variant


def reduce_sum(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Sums of each tensor over all ranks, in one reduction of one flat buffer."""
    if get_world_size() == 1 or not tensors:
        return list(tensors)
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    all_reduce(flat, "sum")
    parts = flat.split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


@MODELS.register_module()
class BankBBoxHead(ConvFCBBoxHead):
    """Two shared FCs and the box regressor of the trunk, and the classifiers of the variants.

    `variants` maps names to plain settings (`bacl.settings`). A variant's hallucinated features
    are drawn from generators keyed by (seed, variant, image pair), design.md.
    """

    def __init__(self, variants: dict[str, dict[str, Any]], seed: int, **kwargs: Any) -> None:
        super().__init__(num_shared_fcs=2, with_cls=False, **kwargs)
        self.seed = seed
        width = self.shared_out_channels
        self.variants = nn.ModuleDict(
            {
                name: build_variant(
                    settings, width, self.num_classes, generator("cpu", seed, "init", name)
                )
                for name, settings in variants.items()
            }
        )
        betas = {
            variant.hallucination["beta"]
            for variant in self._bank().values()
            if variant.hallucination
        }
        self.statistics = nn.ModuleDict(
            {_key(beta): FeatureStatistics(self.num_classes, width, beta) for beta in sorted(betas)}
        )
        self._pairs: list[int] = []

    def _bank(self) -> dict[str, Variant]:
        return dict(self.variants.items())  # type: ignore[arg-type]

    def features(self, x: Tensor) -> Tensor:
        """Classifier input h (N, D) of pooled RoI features."""
        x = x.flatten(1)
        for fc in self.shared_fcs:
            x = self.relu(fc(x))
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(h (N, D), box deltas) of pooled RoI features."""
        features = self.features(x)
        return features, self.fc_reg(features)

    @torch.no_grad()
    def observe(self, pooled: Tensor, labels: Tensor, positions: list[int]) -> None:
        """Move the feature statistics by the jittered ground truth of this step's images.

        pooled: RoI features of the jittered boxes; labels: their categories; positions: of this
        rank's images. The rank that holds the first image of a pair draws for the pair.
        """
        self._pairs = [position // 2 for position in positions if position % 2 == 0]
        (packed,) = reduce_sum([moments(self.features(pooled).float(), labels, self.num_classes)])
        for statistics in self.statistics.values():
            statistics.update(packed)  # type: ignore[operator]

    def _hallucinate(self, name: str, variant: Variant) -> tuple[list[Tensor], list[Tensor]]:
        options = variant.hallucination
        if options is None:
            return [], []
        statistics: FeatureStatistics = self.statistics[_key(options["beta"])]  # type: ignore[assignment]
        strength = variant.strength()
        made = [
            statistics.synthesize(
                strength,
                options["categories"],
                options["samples"],
                generator(strength.device, self.seed, "hallucination", name, pair),
            )
            for pair in self._pairs
        ]
        return [features for features, _ in made], [labels for _, labels in made]

    def loss(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        reduction_override: str | None = None,
    ) -> dict[str, Tensor]:
        """Box loss of the trunk and `<variant>.loss_cls` of each variant.

        `cls_score` holds the features h. Each loss is a sum over samples (hallucinated ones
        included) divided by the mean number of samples per rank, so that ranks together make the
        step that one rank with all images would make.
        """
        features = cls_score
        losses = super().loss(
            None, bbox_pred, rois, labels, label_weights, bbox_targets, bbox_weights
        )
        sums, counts, increments = {}, {}, {}
        bank = self._bank()
        for name, variant in bank.items():
            made_features, made_labels = self._hallucinate(name, variant)
            all_labels = torch.cat([labels, *made_labels])
            logits = variant.fc_cls(torch.cat([features, *made_features]))
            sums[name] = variant.loss(logits, all_labels)
            counts[name] = len(all_labels)
            increment = variant.increment(logits, all_labels)
            if increment is not None:
                increments[name] = increment
        rows = features.new_tensor([len(labels), *counts.values()], dtype=torch.float)
        reduced, *increments_of_all = reduce_sum([rows, *increments.values()])
        mean_rois, *mean_counts = (reduced / get_world_size()).clamp_min(1)
        losses["loss_bbox"] = losses["loss_bbox"] * (len(labels) / mean_rois)
        for name, mean_count in zip(counts, mean_counts, strict=True):
            losses[f"{name}.loss_cls"] = sums[name] / mean_count
        for name, increment in zip(increments, increments_of_all, strict=True):
            bank[name].add(increment)
        return losses

    def _predict_by_feat_single(
        self,
        roi: Tensor,
        cls_score: Tensor,
        bbox_pred: Tensor,
        img_meta: dict,
        rescale: bool = False,
        rcnn_test_cfg: ConfigDict | None = None,
    ) -> InstanceData:
        """Detections of every variant on one image, told apart by their field `variant`."""
        if len(roi) == 0:
            return InstanceData(
                bboxes=roi.new_zeros(0, 4),
                scores=roi.new_zeros(0),
                labels=roi.new_zeros(0, dtype=torch.long),
                variant=roi.new_zeros(0, dtype=torch.long),
            )
        assert rcnn_test_cfg is not None  # only test-time augmentation passes none
        decoded = self._decode(roi, bbox_pred, img_meta, rescale)
        results = []
        for index, variant in enumerate(self._bank().values()):
            boxes, labels = multiclass_nms(
                decoded,
                variant.probabilities(cls_score),
                rcnn_test_cfg.score_thr,
                rcnn_test_cfg.nms,
                rcnn_test_cfg.max_per_img,
            )
            results.append(
                InstanceData(
                    bboxes=boxes[:, :4],
                    scores=boxes[:, 4],
                    labels=labels,
                    variant=torch.full_like(labels, index),
                )
            )
        return InstanceData.cat(results)

    def _decode(self, roi: Tensor, bbox_pred: Tensor, img_meta: dict, rescale: bool) -> Tensor:
        """Boxes (N, C * 4), or (N, 4) where regression is class-agnostic, in pixels."""
        each = 1 if self.reg_class_agnostic else self.num_classes
        boxes = self.bbox_coder.decode(
            roi[:, 1:].repeat_interleave(each, dim=0),
            bbox_pred.view(-1, 4),
            max_shape=img_meta["img_shape"],
        )
        if rescale:
            boxes = scale_boxes(boxes, [1 / scale for scale in img_meta["scale_factor"]])
        return boxes.view(len(roi), -1)


def _key(beta: float) -> str:
    """A module name for a beta (module names cannot hold dots)."""
    return f"beta_{beta}".replace(".", "_")


@MODELS.register_module()
class BankRoIHead(StandardRoIHead):
    """Standard RoI head that also shows its bank the jittered ground truth, Eq. (10)."""

    def loss(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: list[InstanceData],
        batch_data_samples: SampleList,
    ) -> dict[str, Tensor]:
        if self.bbox_head.statistics:
            self._observe(x, batch_data_samples)
        return super().loss(x, rpn_results_list, batch_data_samples)

    @torch.no_grad()
    def _observe(self, x: tuple[Tensor, ...], batch_data_samples: SampleList) -> None:
        boxes = []
        for sample in batch_data_samples:
            draw = generator("cpu", self.bbox_head.seed, "jitter", sample.position)
            magnitudes = torch.rand(16, 4, generator=draw)
            boxes.append(jitter_boxes(sample.gt_instances.bboxes, magnitudes, sample.img_shape[:2]))
        labels = torch.cat([sample.gt_instances.labels for sample in batch_data_samples])
        pooled = self.bbox_roi_extractor(x[: self.bbox_roi_extractor.num_inputs], bbox2roi(boxes))
        positions = [sample.position for sample in batch_data_samples]
        self.bbox_head.observe(pooled, labels.repeat_interleave(16), positions)


@MODELS.register_module()
class BankDetector(TwoStageDetector):
    """Two-stage detector over a bank, with the named parts frozen.

    `freeze` lists module paths such as `backbone`; one that names no module is an error. Frozen
    parts take no gradient and stay in evaluation mode.
    """

    def __init__(self, *args: Any, freeze: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        modules = dict(self.named_modules())
        absent = [name for name in freeze if name not in modules]
        if absent:
            raise UsageError(f"freeze: the detector has no part named {', '.join(absent)}")
        self._frozen = [modules[name] for name in freeze]
        for module in self._frozen:
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "BankDetector":
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        for sample in batch_data_samples:
            if "position" not in sample:
                raise UsageError(
                    "training samples carry no position: use bacl's LVISFormatDataset with "
                    "OrderedSampler, and pack `position` among the meta keys"
                )
            sample.gt_instances.set_metainfo({"position": sample.position})
        return super().loss(batch_inputs, batch_data_samples)
