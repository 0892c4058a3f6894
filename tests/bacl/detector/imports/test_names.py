"""Names of detectron2, MMDetection 2 and BACL's release: what is written under them comes back."""

import re

import pytest
import torch
from foreign_detectors import banked, detected, detectron2_name, of_detectron2, plain, taken
from mmdet.models.task_modules import DeltaXYWHBBoxCoder

from bacl.detector.imports.detectron2 import read as read_detectron2
from bacl.detector.imports.fitting import Wanted
from bacl.detector.imports.found import Options
from bacl.errors import RunError

PROPOSALS = 50
NAMES = list("abcde")
CAFFE = "mask-rcnn_r50-caffe_fpn_1x_coco"
PLAIN = "faster-rcnn_r50_fpn_1x_coco"
RELEASED = {
    "method": "bacl",
    "alpha": 0.85,
    "threshold": 0.7,
    "weight_term": "full",
    "indicator": "confusion_matrix",
    "gamma": 0.9,
    "hallucination": {"categories": 8, "samples": 12, "beta": 0.9},
}


@pytest.fixture(scope="module")
def caffe():
    return drawn(banked(CAFFE, 5, PROPOSALS))


def drawn(model):
    """A bank with weights of which none is like another's."""
    torch.manual_seed(3)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.dim() == 1:
            value.normal_(std=0.1)
        elif "fc_cls" in name or "rpn_cls" in name:
            value.normal_(std=0.05)
    return model


def image():
    torch.manual_seed(5)
    return torch.randint(0, 256, (3, 128, 160), dtype=torch.uint8)


def assert_same_detections(model, other):
    own, its = detected(model, image()), detected(other, image())
    assert len(own) > 5
    for field in ("bboxes", "scores", "labels"):
        assert torch.equal(own[field], its[field]), field
    assert own.get("masks") == its.get("masks")


@pytest.mark.slow
def test_detectron2_names_come_back_to_the_same_detections(caffe, tmp_path):
    torch.save(of_detectron2(caffe), tmp_path / "model_final.pth")
    own = banked(CAFFE, 5, PROPOSALS)
    pixels = ([103.53, 116.28, 123.675], [1.0, 1.0, 1.0])
    account = taken(own, tmp_path / "model_final.pth", Wanted(NAMES, "detector", 1, pixels=pixels))
    assert account.source == "detectron2"
    assert not account.anew
    assert set(account.left_out) == {
        "proposal_generator.anchor_generator.cell_anchors.0",
        "optimizer",
        "scheduler",
        "iteration",
    }
    assert "does not name them" in account.categories
    assert_same_detections(caffe, own)


def test_detector_of_other_pixels_is_refused(caffe, tmp_path):
    torch.save(of_detectron2(caffe), tmp_path / "m.pth")
    wanted = Wanted(NAMES, "detector", 1, pixels=([123.675, 116.28, 103.53], [58.0, 57.0, 57.0]))
    with pytest.raises(RunError, match=r"mean of 123\.675.* got 103\.53, .*called `caffe`"):
        taken(caffe, tmp_path / "m.pth", wanted)


def test_cascade_of_detectron2_has_its_mask_head_at_each_stage():
    state = {"roi_heads.mask_head.predictor.bias": torch.zeros(5)}
    for stage in range(3):
        state[f"roi_heads.box_head.{stage}.fc1.bias"] = torch.zeros(8)
        state[f"roi_heads.box_predictor.{stage}.cls_score.bias"] = torch.zeros(6)
        state[f"roi_heads.box_predictor.{stage}.bbox_pred.bias"] = torch.zeros(4)
    found = read_detectron2(state, {}, Options())
    assert sorted(found.state) == sorted(
        f"roi_head.{part}"
        for stage in range(3)
        for part in (
            f"bbox_head.{stage}.shared_fcs.0.bias",
            f"bbox_head.{stage}.fc_cls.bias",
            f"bbox_head.{stage}.fc_reg.bias",
            f"mask_head.{stage}.conv_logits.bias",
        )
    )


def test_cascade_of_detectron2_moves_boxes_as_far_as_there(tmp_path):
    model = drawn(banked("cascade-rcnn_r50_fpn_1x_coco", 5, PROPOSALS))
    state = {}
    for name, value in plain(model.state_dict()).items():
        match = re.fullmatch(r"roi_head\.bbox_head\.(\d)\.(.*)", name)
        if match is None:
            state |= {} if name.endswith("num_batches_tracked") else {detectron2_name(name): value}
        else:
            own = detectron2_name(f"roi_head.bbox_head.{match[2]}")
            for group in ("roi_heads.box_head.", "roi_heads.box_predictor."):
                own = own.replace(group, f"{group}{match[1]}.")
            state[own] = value
    torch.save({"model": state}, tmp_path / "c.pth")
    coders = [head.bbox_coder for head in model.roi_head.bbox_head]
    ours = {f"roi_head.bbox_head.{n}.fc_reg": list(c.stds) for n, c in enumerate(coders)}
    own = banked("cascade-rcnn_r50_fpn_1x_coco", 5, PROPOSALS)
    taken(own, tmp_path / "c.pth", Wanted(NAMES, "detector", 1, deviations=ours))
    features, boxes = torch.rand(8, 1024), torch.rand(8, 4).cumsum(1) * 50
    for stage, weights in enumerate([(10, 10, 5, 5), (20, 20, 10, 10), (30, 30, 15, 15)]):
        head = own.roi_head.bbox_head[stage]
        theirs = model.roi_head.bbox_head[stage].fc_reg(features) / torch.tensor(weights)
        expected = DeltaXYWHBBoxCoder().decode(boxes, theirs)
        found = head.bbox_coder.decode(boxes, head.fc_reg(features))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "meta",
    [
        {"CLASSES": ("e", "a", "b", "c", "d")},  # MMDetection 2
        {"dataset_meta": {"classes": ("e", "a", "b", "c", "d")}},  # 3
    ],
)
def test_mmdetection_names_come_back_with_categories_by_name(caffe, tmp_path, meta):
    state = plain(caffe.state_dict())
    order = [4, 0, 1, 2, 3]  # of the checkpoint's rows
    for part in ("weight", "bias"):
        head, masks = f"roi_head.bbox_head.fc_cls.{part}", f"roi_head.mask_head.conv_logits.{part}"
        state[head] = state[head][[*order, 5]]
        boxes = state[f"roi_head.bbox_head.fc_reg.{part}"]
        state[f"roi_head.bbox_head.fc_reg.{part}"] = torch.cat(
            [boxes[4 * row : 4 * row + 4] for row in order]
        )
        state[masks] = state[masks][order]
    state["ema_backbone_conv1_weight"] = torch.zeros(64, 3, 7, 7)
    content = {"meta": meta, "state_dict": {f"module.{name}": v for name, v in state.items()}}
    torch.save({**content, "optimizer": {}}, tmp_path / "epoch_12.pth")
    own = banked(CAFFE, 5, PROPOSALS)
    account = taken(own, tmp_path / "epoch_12.pth", Wanted(NAMES, "detector", 1))
    assert account.source == "mmdet"
    assert set(account.left_out) == {"ema_backbone_conv1_weight", "optimizer"}
    assert account.categories.startswith("the dataset's 5 categories are among its 5, by name")
    assert_same_detections(caffe, own)


def released(state, folder):
    """A file of BACL's release, of a classifier stage, of a bank's weights."""
    head = "roi_head.bbox_head"
    state = {n: v for n, v in plain(state).items() if "indicator" not in n and "stat" not in n}
    torch.manual_seed(7)
    sums, used = torch.rand(5, 5), torch.tensor([1.0, 0, 1, 1, 1])
    state |= {
        f"{head}.loss_cls.cm_numerator": sums,
        f"{head}.loss_cls.num_gt": torch.arange(5.0),
        f"{head}.feature_prototype": torch.rand(5, 1024),
        f"{head}.feature_variance": torch.rand(5, 1024),
        f"{head}.feature_used": used,
    }
    path = folder / "epoch_12.pth"
    torch.save({"meta": {"epoch": 12}, "state_dict": state, "optimizer": {}}, path)
    return path, state


def test_release_continues_its_confusions_and_statistics(tmp_path):
    path, theirs = released(banked(PLAIN, 5, PROPOSALS).state_dict(), tmp_path)
    own = banked(PLAIN, 5, PROPOSALS, settings=RELEASED)
    account = taken(own, path, Wanted(NAMES, "detector", 1))
    assert account.source == "bacl_release"
    assert not account.anew
    (bank,) = own.banks()
    head = own.roi_head.bbox_head
    numerator, counts = (
        theirs[f"roi_head.bbox_head.loss_cls.{n}"] for n in ("cm_numerator", "num_gt")
    )
    torch.testing.assert_close(
        bank["detector"].indicator.matrix(), numerator / counts.clamp_min(1)[:, None]
    )
    (statistics,) = head.statistics.values()
    assert torch.equal(statistics.prototype, theirs["roi_head.bbox_head.feature_prototype"])
    assert torch.equal(statistics.variance, theirs["roi_head.bbox_head.feature_variance"])
    assert statistics.seen.tolist() == [True, False, True, True, True]


def test_state_of_the_release_is_left_out_where_the_variant_has_none(tmp_path):
    path, _ = released(banked(PLAIN, 5, PROPOSALS).state_dict(), tmp_path)
    account = taken(
        banked(PLAIN, 5, PROPOSALS, settings={"method": "bce"}), path, Wanted(NAMES, "detector", 1)
    )
    assert sum(why == "the detector has no such part" for why in account.left_out.values()) == 4
