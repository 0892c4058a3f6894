"""NMS re-sampling: weaker suppression of proposals of rare objects in training (Forest R-CNN, Wu et
al., 2020).

A proposal belongs to the ground-truth box that it overlaps most, if their IoU is 0.3 or more, and
is then suppressed at the threshold of that object's category. Other proposals are suppressed at the
usual threshold. NMS runs over all proposals of a pyramid level at each of the thresholds, and a
proposal stays if it survives NMS at its own threshold. So a proposal of a frequent object can
suppress one of a rare object, by overlapping it more than the rare one's threshold allows, and the
result does not depend on an order of the groups.

This is the variant `discrete` of the released code, except where a proposal overlaps several
objects: in the release it is rare if any of them is, and is in the result twice if another one is
common.

N proposals, M ground-truth boxes, C categories.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.utils import unpack_gt_instances
from mmdet.registry import MODELS
from mmdet.structures import SampleList
from mmdet.structures.bbox import bbox_overlaps
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor

from bacl.detector.bank import BankDetector

OVERLAP = 0.3
"""Least IoU at which a proposal belongs to an object."""


def own_thresholds(
    boxes: Tensor, truth: Tensor, labels: Tensor, by_label: Sequence[float], otherwise: float
) -> Tensor:
    """IoU thresholds (N,), float64, at which each proposal is suppressed.

    boxes: proposals (N, 4) as x1, y1, x2, y2. truth, labels: ground-truth boxes (M, 4) in the same
    pixels and their categories (M,). by_label: the threshold of each of the C categories;
    otherwise: that of proposals that are of no object.
    """
    usual = boxes.new_full((len(boxes),), otherwise, dtype=torch.float64)
    if not len(truth):
        return usual
    overlaps, best = bbox_overlaps(boxes, truth).max(dim=1)
    own = usual.new_tensor(by_label)[labels[best]]
    return torch.where(overlaps >= OVERLAP, own, usual)


@MODELS.register_module()
class ResamplingRPNHead(RPNHead):
    """MMDetection's RPN head with re-sampling of its proposals in training only.

    The proposal configuration has `nms_by_label`, a threshold for each category, beside the usual
    `nms`, which is for proposals of no object. `ResamplingDetector` adds `categories` to the ground
    truth.
    """

    def loss_and_predict(
        self,
        x: tuple[Tensor, ...],
        batch_data_samples: SampleList,
        proposal_cfg: ConfigDict | None = None,
    ) -> tuple[dict[str, Any], list[InstanceData]]:
        truths, ignored, metas = unpack_gt_instances(batch_data_samples)
        outputs = self(x)
        losses = self.loss_by_feat(*outputs, truths, metas, ignored)
        # an image's meta information is all that MMDetection passes on to the suppression
        seeing = [{**meta, "truth": truth} for meta, truth in zip(metas, truths, strict=True)]
        return losses, self.predict_by_feat(*outputs, batch_img_metas=seeing, cfg=proposal_cfg)

    def _bbox_post_process(
        self,
        results: InstanceData,
        cfg: ConfigDict,
        rescale: bool = False,
        with_nms: bool = True,
        img_meta: dict[str, Any] | None = None,
    ) -> InstanceData:
        truth = (img_meta or {}).get("truth")
        if truth is None or not len(results):
            plain: InstanceData = super()._bbox_post_process(
                results, cfg, rescale, with_nms, img_meta
            )
            return plain
        results.own = own_thresholds(
            results.bboxes, truth.bboxes, truth.categories, cfg.nms_by_label, cfg.nms.iou_threshold
        )
        kept = []
        for threshold in results.own.unique().tolist():
            at = copy.deepcopy(cfg)
            at.nms.iou_threshold, at.max_per_img = threshold, len(results)
            survivors = super()._bbox_post_process(results, at, rescale, with_nms, img_meta)
            if not len(survivors):  # all are smaller than min_bbox_size
                return survivors
            kept.append(survivors[survivors.own == threshold])
        merged = InstanceData.cat(kept)
        best = merged.scores.argsort(descending=True, stable=True)[: cfg.max_per_img]
        merged = merged[best]
        del merged.own
        return merged


@MODELS.register_module()
class ResamplingDetector(BankDetector):
    """A bank's detector whose RPN sees the categories of the ground truth.

    MMDetection hides them from RPNs: it shows all objects with label 0.
    """

    def loss(self, batch_inputs: Tensor, batch_data_samples: SampleList) -> dict[str, Tensor]:
        for sample in batch_data_samples:
            sample.gt_instances.categories = sample.gt_instances.labels
        return super().loss(batch_inputs, batch_data_samples)

    def propose(self, x: tuple[Tensor, ...], samples: SampleList) -> list[InstanceData]:
        for sample in samples:
            sample.gt_instances.categories = sample.gt_instances.labels
            sample.set_metainfo({"truth": sample.gt_instances})
        return super().propose(x, samples)
