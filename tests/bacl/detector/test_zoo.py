"""Detectors by a configuration of MMDetection's: which carry a bank, and that a bank in them equals
each of its variants alone."""

import pytest
import torch
from mmdet.models.task_modules.assigners import AssignResult
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData
from steps import differences
from training import RECIPE

from bacl.config import features_config, stage_config
from bacl.datasets.prepared import Prepared
from bacl.detector import zoo
from bacl.detector.refusals import refusal
from bacl.detector.two_stage import frozen_trunk, model_config, plain_model
from bacl.errors import UsageError
from bacl.method_settings.classifiers import Forest
from bacl.method_settings.paper import BCE
from bacl.method_settings.resampling import SimCal
from bacl.settings import FROZEN_TRUNK, Detector, Features


@pytest.mark.parametrize(
    "name",
    [
        "faster-rcnn_r50-caffe_c4-1x_coco",  # no neck; a shared head, and nothing before fc_cls
        "faster-rcnn_r50_fpn_gn-ws-all_1x_coco",  # four shared convolutions
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in (
                "cascade-mask-rcnn_x101-32x4d_fpn_1x_coco",
                "cascade-rcnn_s101_fpn_syncbn-backbone+head_ms-range-1x_coco",
                "faster-rcnn_r50_fpn_fcos-rpn_1x_coco",
                "faste-rcnn_r50_fpn_groie_1x_coco",
                "faster-rcnn_regnetx-3.2GF_fpn_1x_coco",
                "htc_r50_fpn_1x_coco",
                "libra-faster-rcnn_r50_fpn_1x_coco",
                "mask-rcnn_r50-caffe-c4_1x_coco",
                "mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1",
                "mask-rcnn_swin-t-p4-w7_fpn_1x_coco",
            )
        ),
    ],
)
def test_bank_in_any_detector_equals_its_variants_alone(name):
    assert list(differences(name)) == []


@pytest.mark.parametrize(
    "name, why",
    [
        ("retinanet_r50_fpn_1x_coco", "RetinaNet classifies no regions: expected a two-stage"),
        ("detr_r50_8xb2-150e_coco", "DETR classifies no regions"),
        ("sparse-rcnn_r50_fpn_1x_coco", "SparseRoIHead: its queries are matched to objects by the"),
        ("faster-rcnn_r50_fpn_ohem_1x_coco", "OHEMSampler: it picks the regions to train on by"),
        ("mask-rcnn_r50_fpn_pisa_1x_coco", "PISARoIHead: its box loss is weighted by the"),
        ("fast-rcnn_r50_fpn_1x_coco", "FastRCNN: it takes its proposals from a file"),
        ("faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco", "DCNv2 needs mmcv's operators"),
        (
            "cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco",
            "its cascade refines boxes by the classifier's scores",
        ),
    ],
)
def test_detector_that_cannot_carry_a_bank_is_refused_with_the_reason(name, why):
    with pytest.raises(UsageError) as caught:
        plain_model(Detector(config=name))
    assert str(caught.value).startswith(f"detector.config {name}: ") and why in str(caught.value)


def test_unknown_name_is_told_with_the_nearest_one():
    with pytest.raises(UsageError, match="did you mean faster-rcnn_r50_fpn_1x_coco"):
        zoo.model_of("faster-rcnn_r50_fpn_1x_coc")


@pytest.mark.parametrize(
    "content, problem",
    [
        ("model = dict(type='FasterRCNN'", "expected a configuration that MMEngine reads, got"),
        ("lr = 1", "expected a configuration with a `model`, found none"),
        ("model = dict(type='FasterRCNN')", "FasterRCNN classifies no regions"),
        (
            "_base_ = 'absent.py'\nmodel = dict(type='FasterRCNN')",
            "expected a configuration that MMEngine reads, got",
        ),
    ],
)
def test_file_that_is_no_such_configuration_is_told(tmp_path, content, problem):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        plain_model(Detector(config=str(path)))
    assert problem in str(caught.value) and "mine.py" in str(caught.value)
    with pytest.raises(UsageError, match=r"found no .*absent\.py"):
        plain_model(Detector(config=str(tmp_path / "absent.py")))


def test_parts_of_a_package_that_is_not_installed_are_told():
    model = plain_model(Detector(config="faster-rcnn_r50_fpn_1x_coco"))
    model["backbone"]["type"] = "mmpretrain_not_there.ConvNeXt"
    assert "of the package mmpretrain_not_there, which is not installed" in refusal(model)


def test_config_beside_what_it_decides_is_an_error():
    with pytest.raises(ValueError, match="has its own backbone, fc_channels: expected either"):
        Detector(config="faster-rcnn_r50_fpn_1x_coco", backbone="resnet50", fc_channels=8)


def test_configuration_keeps_its_parts_and_takes_our_proposals_and_detections():
    name = "cascade-mask-rcnn_r50_fpn_1x_coco"
    theirs = zoo.model_of(name)
    given = Detector(config=name, roi_samples=64, max_detections=7, score_threshold=0.2)
    found = model_config(given, RECIPE, 9, seed=3)
    assert found["neck"] == theirs["neck"]
    assert {**found["rpn_head"]} == theirs["rpn_head"]
    assert found["backbone"] == {**theirs["backbone"], "init_cfg": None}
    heads = found["roi_head"]["bbox_head"]
    assert [head["stage"] for head in heads] == [0, 1, 2]
    for head, own, stage in zip(
        heads, theirs["roi_head"]["bbox_head"], found["train_cfg"]["rcnn"], strict=True
    ):
        assert head["bbox_coder"] == own["bbox_coder"] and head["num_classes"] == 9
        assert "loss_cls" not in head
        assert stage["sampler"]["type"] == "KeyedRandomSampler" and stage["sampler"]["num"] == 64
    assert found["roi_head"]["mask_head"]["num_classes"] == 9  # MMDetection makes three of it
    rpn = found["train_cfg"]["rpn"]["sampler"]
    assert rpn["num"] == theirs["train_cfg"]["rpn"]["sampler"]["num"] and rpn["seed"] == 3
    assert found["train_cfg"]["rpn_proposal"]["max_per_img"] == RECIPE.proposals
    assert found["test_cfg"]["rcnn"]["max_per_img"] == 7
    assert found["test_cfg"]["rcnn"]["score_thr"] == 0.2


@pytest.mark.parametrize(
    "name, parts",
    [
        ("faster-rcnn_r50_fpn_1x_coco", list(FROZEN_TRUNK)),
        ("faster-rcnn_r50-caffe_c4-1x_coco", ["backbone", "roi_head.shared_head"]),
        (
            "faster-rcnn_r50_fpn_gn-ws-all_1x_coco",
            ["backbone", "neck", *(f"roi_head.bbox_head*.shared_{n}" for n in ("convs", "fcs"))],
        ),
        (
            "htc_r50_fpn_1x_coco",
            ["backbone", "neck", "roi_head.semantic_head", "roi_head.bbox_head*.shared_fcs"],
        ),
    ],
)
def test_classifier_stage_freezes_all_that_the_classifier_reads_from(name, parts):
    assert frozen_trunk(model_config(Detector(config=name), RECIPE, 3, 0)) == parts


def stage(dataset_info, name, variants, *frozen):
    return stage_config(
        Detector(config=name),
        Prepared.load(dataset_info),
        dataset_info,
        RECIPE,
        variants,
        [*FROZEN_TRUNK, *frozen],
        seed=0,
        workers=1,
    )


def test_stage_freezes_the_parts_of_its_configuration(dataset_info):
    name, variants = "faster-rcnn_r50-caffe_c4-1x_coco", {"bce": BCE(method="bce")}
    config = stage(dataset_info, name, variants)
    assert config["model"]["freeze"] == ["backbone", "roi_head.shared_head"]
    more = stage(dataset_info, name, variants, "rpn_head")
    assert more["model"]["freeze"] == ["backbone", "roi_head.shared_head", "rpn_head"]


@pytest.mark.parametrize(
    "variant, problem",
    [
        (Forest(method="forest", trees="-"), "reads fc1 of a region: expected a detector whose"),
        (SimCal(method="simcal"), "method simcal trains a copy of the box head: expected a"),
    ],
)
def test_method_that_needs_two_fcs_is_refused_elsewhere(dataset_info, variant, problem):
    with pytest.raises(UsageError, match=problem):
        stage(dataset_info, "faster-rcnn_r50_fpn_gn-ws-all_1x_coco", {"own": variant})


def test_features_are_not_stored_where_they_do_not_suffice(dataset_info):
    def stored(name):
        prepared = Prepared.load(dataset_info)
        return features_config(Detector(config=name), prepared, dataset_info, RECIPE, Features(), 0)

    with pytest.raises(UsageError, match="kind features with a cascade, whose later box heads"):
        stored("cascade-rcnn_r50_fpn_1x_coco")
    with pytest.raises(UsageError, match="whose box loss needs whole boxes"):
        stored("faster-rcnn_r50_fpn_giou_1x_coco")
    assert stored("faster-rcnn_r50_fpn_1x_coco")["model"]["roi_head"]["type"] == "BankRoIHead"


def test_any_sampler_draws_by_seed_stream_and_position_alone():
    def sampled(position, seed=0, disturbed=0):
        torch.manual_seed(disturbed)
        inner = {
            "type": "CombinedSampler",
            "num": 16,
            "pos_fraction": 0.25,
            "pos_sampler": {"type": "InstanceBalancedPosSampler"},
            "neg_sampler": {"type": "IoUBalancedNegSampler", "floor_thr": -1, "num_bins": 3},
            "add_gt_as_proposals": False,
        }
        sampler = TASK_UTILS.build(
            {"type": "KeyedSampler", "sampler": inner, "stream": "roi", "seed": seed}
        )
        draw = torch.Generator().manual_seed(1)
        boxes = torch.rand(200, 4, generator=draw).sort(dim=1).values * 100
        overlaps = torch.rand(200, generator=draw)
        assigned = AssignResult(2, (overlaps > 0.5).long(), overlaps, (overlaps > 0.5).long() - 1)
        truth = InstanceData(bboxes=boxes[:2], labels=torch.zeros(2, dtype=torch.long))
        truth.set_metainfo({"position": position})
        before = torch.random.get_rng_state()
        found = sampler.sample(assigned, InstanceData(priors=boxes), truth)
        assert torch.equal(before, torch.random.get_rng_state())
        return found.pos_inds.tolist() + found.neg_inds.tolist()

    assert sampled(3) == sampled(3, disturbed=9)
    assert sampled(3) != sampled(4) and sampled(3) != sampled(3, seed=1)
