"""Detectors that hand on what they find beyond their limit per image, for AP-Fixed."""

from typing import TYPE_CHECKING, Any

from mmdet.structures.bbox import scale_boxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from torch import Tensor, nn

from bacl.detector.postprocess import Found, detect, detect_all, hands_on

if TYPE_CHECKING:  # which detectors that are served do without
    from bacl.evaluation.beyond import Beyond


class HandsOn:
    """A box head that hands on what each of its variants finds beyond the limit, where `beyond` is
    there to take it."""

    beyond: "Beyond | None" = None

    def limited(
        self,
        boxes: Tensor,
        probabilities: Tensor,
        test_cfg: ConfigDict,
        variant: int,
        meta: dict[str, Any],
        rescaled: bool,
    ) -> InstanceData:
        """What `bacl.detector.postprocess.detect` finds in an image.

        meta: of the image; rescaled: whether the boxes are in its own pixels already.
        """
        if self.beyond is None:
            return detect(boxes, probabilities, test_cfg)
        lowest = self.beyond.lowest(variant, probabilities)
        found, (corners, scores, labels) = detect_all(boxes, probabilities, test_cfg, lowest)
        if not rescaled:
            corners = scale_boxes(corners, [1 / scale for scale in meta["scale_factor"]])
        best: Found = found.bboxes, found.scores, found.labels
        self.beyond.take(meta["img_id"], variant, best, (corners, scores, labels))
        return found


def hand_on(model: nn.Module, beyond: "Beyond") -> bool:
    """Let a detector hand on what it finds to `beyond` from now on; returns whether it can.

    It cannot where its box head is not one of BACL's, or where it suppresses in a way that
    `bacl.detector.postprocess` leaves to MMDetection, or softly.
    """
    roi_head: Any = getattr(model, "roi_head", None)
    head = getattr(roi_head, "bbox_head", None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    if not isinstance(head, HandsOn) or not hands_on(roi_head.test_cfg):
        return False
    beyond.connect()
    head.beyond = beyond
    return True
