"""A whole detector as one function of an image's pixels: what is exported to one file.

MMDetection runs a detector in Python between its modules: pipelines, lists of images, metadata,
loops over what was found. Here the same modules, with their weights, are joined by operations on
tensors alone: resizing as OpenCV does it, normalisation, proposals, regions, suppression within
categories, boxes and masks in the image's own pixels.

Letters: H x W the image, h x w what the network is shown, N regions, C categories, K detections.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bacl.errors import UsageError
from bacl_platform.exporting.parts import (
    anchors_of,
    decoded,
    pasted,
    pooled_of,
    resized,
    scaled_sides,
    sides_of,
)
from bacl_platform.exporting.suppression import Suppression


class WholeDetector(nn.Module):
    """A detector that takes an image (H, W, 3), uint8 RGB, of any size, and gives boxes (K, 4)
    float32 x1 y1 x2 y2 in its pixels, scores (K,) float32 and labels (K,) int64, best first; of one
    with masks, (K, H, W) bool.

    K is at most `max_per_img` of the detector's own `test_cfg`, whose thresholds hold.

    Raises:
        UsageError: a part of the detector is not known here.
    """

    detector: Any
    rpn: Any
    rcnn: Any

    def __init__(self, detector: Any, suppression: Suppression) -> None:
        """detector: MMDetection's, with its configuration, as `init_detector` makes it."""
        super().__init__()
        check(detector)
        self.detector = detector
        self.suppression = suppression
        self.scale: tuple[int, int] = scale_of(detector)
        self.rpn, self.rcnn = detector.test_cfg.rpn, detector.test_cfg.rcnn
        self.masks = bool(self.detector.roi_head.with_mask)

    @property
    def outputs(self) -> list[str]:
        """Names of what `forward` returns."""
        return ["boxes", "scores", "labels", *(["masks"] if self.masks else [])]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        sides = sides_of(image)[:2]
        shown = scaled_sides(sides, self.scale)
        factors = (shown.double() / sides.double()).float().flip(0).repeat(2)  # of x1 y1 x2 y2
        levels = self._features(resized(image, sides, shown))
        limits = shown.float().flip(0).repeat(2)
        regions = self._proposals(levels, limits)
        boxes, scores = self._classified(levels, regions, limits)
        found, best, labels = self._best(boxes / factors, scores)
        if not self.masks:
            return found, best, labels
        return found, best, labels, self._masks(levels, found, factors, labels, sides)

    def _features(self, pixels: Tensor) -> Sequence[Tensor]:
        """The pyramid's levels of an image (h, w, 3), RGB in whole numbers."""
        taking = self.detector.data_preprocessor
        shown = pixels.permute(2, 0, 1).float()
        if not taking._channel_conversion:  # it is shown BGR, as OpenCV reads
            shown = shown.flip(0)
        if taking._enable_normalize:
            shown = (shown - taking.mean) / taking.std
        sides = sides_of(shown)[1:]
        divisor = taking.pad_size_divisor
        below, beside = ((divisor - sides % divisor) % divisor).unbind()
        padded = F.pad(shown[None], (0, beside, 0, below), value=float(taking.pad_value))
        levels: Sequence[Tensor] = self.detector.extract_feat(padded)
        return levels

    def _proposals(self, levels: Sequence[Tensor], limits: Tensor) -> Tensor:
        """Regions (N, 4) in the network's pixels, at most `max_per_img` of the RPN's."""
        head = self.detector.rpn_head
        boxes, scores, numbers = [], [], []
        for number, (found, deltas) in enumerate(zip(*head(levels))):
            flat = found[0].permute(1, 2, 0).reshape(-1, head.cls_out_channels)
            flat = flat.sigmoid()[:, 0] if head.use_sigmoid_cls else flat.softmax(-1)[:, 0]
            total = sides_of(flat)[0]
            best, places = flat.topk(torch.minimum(total, total.new_tensor(self.rpn.nms_pre)))
            own = deltas[0].permute(1, 2, 0).reshape(-1, 4)[places]
            anchors = anchors_of(head.prior_generator, number, found)[places]
            boxes.append(decoded(head.bbox_coder, anchors, own, limits))
            scores.append(best)
            numbers.append(torch.full_like(best, number))
        all_boxes, all_scores = torch.cat(boxes), torch.cat(scores)
        least = self.rpn.get("min_bbox_size", -1)
        if least >= 0:
            sides = all_boxes[:, 2:] - all_boxes[:, :2]
            all_scores = torch.where((sides > least).all(dim=1), all_scores, -1.0)
        kept = self._apart(all_boxes, all_scores, torch.cat(numbers), -1.0, self.rpn)
        return all_boxes[kept]

    def _classified(
        self, levels: Sequence[Tensor], regions: Tensor, limits: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, C or 1, 4) in the network's pixels, and scores (N, C)."""
        roi_head = self.detector.roi_head
        heads, extractors = _each(roi_head.bbox_head), _each(roi_head.bbox_roi_extractor)
        logits: list[Tensor] = []
        for stage, (head, extractor) in enumerate(zip(heads, extractors)):
            pooled = pooled_of(extractor, levels, regions)
            if roi_head.with_shared_head:
                pooled = roi_head.shared_head(pooled)
            found, deltas = head(pooled)
            logits.append(found)
            each = 1 if head.reg_class_agnostic else head.num_classes
            boxes = decoded(
                head.bbox_coder,
                regions[:, None].expand(-1, each, -1).reshape(-1, 4),
                deltas.reshape(-1, 4),
                limits,
            )
            if stage < len(heads) - 1:
                regions = boxes
        mean = _mean(logits)
        scores = (
            heads[-1].loss_cls.get_activation(mean)
            if heads[-1].custom_cls_channels
            else mean.softmax(dim=-1)
        )
        return boxes.reshape(-1, each, 4), scores[:, : heads[-1].num_classes]

    def _best(self, boxes: Tensor, scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best detections after suppression: boxes (K, 4), scores (K,), labels (K,)."""
        categories = scores.size(1)
        corners = boxes.expand(-1, categories, -1).reshape(-1, 4)
        flat = scores.reshape(-1)
        labels = torch.arange(categories, device=flat.device).expand_as(scores).reshape(-1)
        kept = self._apart(corners, flat, labels, self.rcnn.score_thr, self.rcnn)
        return corners[kept], flat[kept], labels[kept]

    def _apart(
        self, boxes: Tensor, scores: Tensor, kinds: Tensor, least: float, settings: Any
    ) -> Tensor:
        """Places of the best boxes that score more than `least` and survive suppression among
        their kind; kinds are moved apart by the largest coordinate, as MMDetection moves them."""
        reach = torch.where(scores > least, boxes.amax(dim=1), 0.0)
        step = torch.cat([reach, reach.new_zeros(1)]).max() + 1
        moved = boxes + (kinds.to(boxes) * step)[:, None]
        # mmcv compares in float32
        overlap = torch.tensor(settings.nms.iou_threshold, dtype=torch.float32).item()
        return self.suppression(moved, scores, overlap, settings.max_per_img, least)

    def _masks(
        self,
        levels: Sequence[Tensor],
        found: Tensor,
        factors: Tensor,
        labels: Tensor,
        sides: Tensor,
    ) -> Tensor:
        """Masks (K, H, W) of the boxes found, in the image's pixels."""
        roi_head = self.detector.roi_head
        heads, extractors = _each(roi_head.mask_head), _each(roi_head.mask_roi_extractor)
        scores = []
        for head, extractor in zip(heads, extractors):
            pooled = pooled_of(extractor, levels, found * factors)
            if roi_head.with_shared_head:
                pooled = roi_head.shared_head(pooled)
            scores.append(head(pooled).sigmoid())
        mean = _mean(scores)
        chosen = labels * 0 if heads[-1].class_agnostic else labels
        size = mean.size(-1)
        own = mean.gather(1, chosen[:, None, None, None].expand(-1, 1, size, size))[:, 0]
        return pasted(own, found, sides) >= self.rcnn.mask_thr_binary


def _mean(values: Sequence[Tensor]) -> Tensor:
    """The mean of several stages' values, summed as MMDetection sums them."""
    total = values[0]
    for one in values[1:]:
        total = total + one
    return total / float(len(values)) if len(values) > 1 else total


_KNOWN_NMS = {"type", "iou_threshold", "split_thr"}
"""Options of suppression that are followed; the last says in how many parts mmcv does it."""


def check(detector: Any) -> None:
    """Raise UsageError that names the part for which there is no counterpart here."""
    roi_head = detector.roi_head
    heads = _each(roi_head.bbox_head)
    masks = _each(roi_head.mask_head) if roi_head.with_mask else []
    extractors = _each(roi_head.bbox_roi_extractor)
    extractors += _each(roi_head.mask_roi_extractor) if roi_head.with_mask else []
    known = (
        (detector.data_preprocessor, ("DetDataPreprocessor",)),
        (detector.rpn_head, ("RPNHead",)),
        (detector.rpn_head.prior_generator, ("AnchorGenerator",)),
        (detector.rpn_head.bbox_coder, ("DeltaXYWHBBoxCoder",)),
        (roi_head, ("StandardRoIHead", "CascadeRoIHead")),
        *((extractor, ("SingleRoIExtractor",)) for extractor in extractors),
        *((head.bbox_coder, ("DeltaXYWHBBoxCoder",)) for head in heads),
        *((head, ("FCNMaskHead",)) for head in masks),
    )
    for part, names in known:
        if type(part).__name__ not in names:
            raise UsageError(
                f"{type(part).__name__}: expected a detector with {' or '.join(names)} in its "
                "place, of which exports in one file are known; format mmdet may do"
            )
    for name, settings in (("proposals", detector.test_cfg.rpn), ("boxes", detector.test_cfg.rcnn)):
        how = settings.nms
        if how.get("type", "nms") != "nms" or set(how) - _KNOWN_NMS:
            raise UsageError(
                f"suppression of {name} by {dict(how)}: expected nms with an iou_threshold alone, "
                "which the operators of an export in one file have; format mmdet keeps it"
            )


def _each(part: Any) -> list[Any]:
    """The modules of a part that a cascade has several of."""
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def scale_of(detector: Any) -> tuple[int, int]:
    """Largest long and short side of what the network is shown, of the test pipeline.

    Raises UsageError where the pipeline has other steps than loading and resizing.
    """
    steps = detector.cfg.test_dataloader.dataset.pipeline
    resizes = [step for step in steps if step["type"] == "Resize"]
    known = (
        "LoadImageFromFile",
        "LoadImageFromNDArray",
        "Resize",
        "LoadAnnotations",
        "PackDetInputs",
    )
    for step in steps:
        if step["type"] not in known:
            raise UsageError(
                f"test pipeline: expected {', '.join(known)}, got {step['type']}, which an export "
                "in one file cannot do"
            )
    if len(resizes) != 1 or not resizes[0].get("keep_ratio"):
        raise UsageError("test pipeline: expected one Resize with keep_ratio, got another")
    longer, shorter = max(resizes[0]["scale"]), min(resizes[0]["scale"])
    return longer, shorter
