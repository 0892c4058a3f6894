"""Masks of a bank's detections, beside MMDetection's own for the same boxes and labels."""

import pytest
import torch
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from training import build, config_of

from bacl import rle
from bacl.detector import bank
from bacl.method_settings.paper import BCE, Softmax

METAS = [
    {"ori_shape": (40, 50), "img_shape": (80, 100), "scale_factor": (2.0, 2.0)},
    {"ori_shape": (60, 60), "img_shape": (90, 90), "scale_factor": (1.5, 1.5)},
    {"ori_shape": (64, 32), "img_shape": (64, 32), "scale_factor": (1.0, 1.0)},
]


@pytest.fixture(scope="module")
def head(dataset_info):
    variants = {"bce": BCE(method="bce"), "softmax": Softmax(method="softmax")}
    head = build(config_of(dataset_info, variants, detector="mask_rcnn")).roi_head.eval()
    for weight in head.mask_head.parameters():  # as initialised, all masks are empty
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(len(weight)))
    return head


def detections(count, variants, draw):
    """Some of all variants on one image; the last of each variant find the same."""
    corner, side = torch.rand(2, count, 2, generator=draw) * 15
    boxes = torch.cat([corner, corner + side + 1], dim=1)
    labels = torch.randint(6, (count,), generator=draw)
    return InstanceData(
        bboxes=torch.cat([boxes, *[boxes[-2:]] * (variants - 1)]),
        labels=torch.cat([labels, *[labels[-2:]] * (variants - 1)]),
    )


def test_batch_without_proposals_has_no_detections(head):
    x = tuple(torch.zeros(1, 16, 64 >> n, 64 >> n) for n in range(2, 7))
    sample = DetDataSample(metainfo=METAS[0])
    nothing = InstanceData(bboxes=torch.zeros(0, 4), scores=torch.zeros(0))
    with torch.no_grad():
        (found,) = head.predict(x, [nothing], [sample], rescale=True)
    assert set(found.keys()) == {"bboxes", "scores", "labels", "variant", "masks"}
    assert len(found) == 0


@pytest.mark.parametrize("rescale", [True, False])
def test_masks_are_mmdetections_own_and_made_once(head, monkeypatch, rescale):
    monkeypatch.setattr(bank, "_MASKS_AT_ONCE", 3)
    draw = torch.Generator().manual_seed(0)
    x = tuple(torch.randn(3, 16, 128 >> n, 128 >> n, generator=draw) for n in range(2, 7))
    found = [detections(5, 3, draw), InstanceData(bboxes=torch.zeros(0, 4)), detections(4, 1, draw)]
    found[1].labels = torch.zeros(0, dtype=torch.long)
    passed = []
    forward = head._mask_forward
    monkeypatch.setattr(head, "_mask_forward", lambda x, r: passed.append(len(r)) or forward(x, r))
    with torch.no_grad():
        mine = head.predict_mask(x, METAS, [part.clone() for part in found], rescale)
        assert passed == [3, 2, 3, 1]
        theirs = StandardRoIHead.predict_mask(head, x, METAS, found, rescale)
    for own, other in zip(mine, theirs, strict=True):
        assert own.masks == rle.encode(other.masks)
        torch.testing.assert_close(own.bboxes, other.bboxes)
    assert theirs[0].masks.any()
    assert mine[1].masks == []
