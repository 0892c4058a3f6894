"""Stage configurations: recipes that build and train, and those that are refused."""

from unittest.mock import patch

import pytest
import torch
from mmdet.registry import DATASETS, MODELS, TASK_UTILS
from mmdet.structures.bbox import bbox2roi
from mmengine.config import ConfigDict
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from training import (
    DETECTOR,
    RECIPE,
    batch_of,
    build,
    config_of,
    rewritten,
    stream_of,
    train,
)

from bacl.config import bank_heads, portable, stage_config
from bacl.datasets.prepared import Prepared
from bacl.datasets.samplers import Position
from bacl.errors import UsageError
from bacl.method_settings.paper import BACL, BCE, FCBL, Hallucination, Sigmoid, Softmax
from bacl.method_settings.priors import BALMS
from bacl.method_settings.resampling import FASA
from bacl.settings import Detector, Recipe, Schedule

SMALL = Hallucination(categories=3, samples=4)


def configured(dataset_info, recipe=None, variants=None, detector=None, **prepared):
    return stage_config(
        DETECTOR.model_copy(update=detector or {}),
        Prepared.load(dataset_info).model_copy(update=prepared),
        dataset_info,
        RECIPE.model_copy(update=recipe or {}),
        variants or {"bce": BCE(method="bce")},
        [],
        seed=0,
        workers=1,
    )


def copy_paste(dataset_info, side=96, variants=None):
    return configured(
        dataset_info, {"augmentation": "copy_paste", "copy_paste_size": side}, variants
    )


def test_copy_paste_adds_objects_and_depends_on_the_position_alone(dataset_info):
    config = copy_paste(dataset_info)["train_dataloader"]["dataset"]
    one, two = DATASETS.build(config), DATASETS.build(config)
    plain = DATASETS.build(configured(dataset_info)["train_dataloader"]["dataset"])
    pasted = 0
    for place in range(12):
        torch.manual_seed(place)  # other global draws must not matter
        position = Position(place + 40, place)
        first, second = one[position], two[position]
        assert torch.equal(first["inputs"], second["inputs"])
        assert first["inputs"].shape == (3, 96, 96)
        sample = first["data_samples"]
        assert sample.position == position.position
        assert "masks" not in sample.gt_instances  # the detector has no use for them
        before = plain[place]["data_samples"].gt_instances
        pasted += len(sample.gt_instances) > len(before)
    assert pasted > 2


def test_copy_paste_recipe_trains(dataset_info):
    config = copy_paste(dataset_info)
    model = build(config)
    before = model.state_dict()["backbone.conv1.weight"].clone()
    train(config, model, 1)
    assert not torch.equal(before, model.state_dict()["backbone.conv1.weight"])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"recipe": {"augmentation": "copy_paste"}}, "recipe.augmentation copy_paste"),
        ({"detector": {"type": "mask_rcnn"}}, "detector.type mask_rcnn"),
    ],
)
def test_recipe_that_needs_masks_is_refused_without_them(dataset_info, options, name):
    train_split = Prepared.load(dataset_info).train.model_copy(update={"masks": False})
    with pytest.raises(UsageError, match=f"{name} needs masks"):
        configured(dataset_info, **options, train=train_split)


def test_masks_are_judged_where_detector_and_validation_have_them(dataset_info):
    masked = {"type": "mask_rcnn"}
    without = Prepared.load(dataset_info).val.model_copy(update={"masks": False})
    assert not configured(dataset_info)["val_evaluator"]["masks"]
    assert configured(dataset_info, detector=masked)["val_evaluator"]["masks"]
    assert not configured(dataset_info, detector=masked, val=without)["val_evaluator"]["masks"]


def test_more_drawn_categories_than_there_are_is_refused(dataset_info):
    variants = {"mine": BACL(method="bacl", hallucination=Hallucination(categories=7))}
    with pytest.raises(UsageError, match=r"variants\.mine.*at most the dataset's 6.*got 7"):
        configured(dataset_info, variants=variants)


def test_default_of_drawn_categories_is_what_fits(dataset_info):
    def drawn(hallucination):
        variants = {"mine": BACL(method="bacl", hallucination=hallucination)}
        head = configured(dataset_info, variants=variants)["model"]["roi_head"]["bbox_head"]
        return head["variants"]["mine"]["hallucination"]["categories"]

    assert drawn(Hallucination()) == 6  # all that this dataset has
    assert drawn(Hallucination(beta=0.5)) == 6
    assert drawn(Hallucination(categories=5)) == 5
    assert Hallucination().drawn(there=1203) == Hallucination(categories=8).drawn(there=1203) == 8


@pytest.mark.parametrize("backbone", ["resnet50", "resnet101", "swin_t"])
@pytest.mark.parametrize("kind", ["faster_rcnn", "cascade_rcnn", "mask_rcnn"])
def test_every_detector_builds_with_every_backbone(dataset_info, kind, backbone):
    config = configured(dataset_info, detector={"type": kind, "backbone": backbone})
    model = MODELS.build(ConfigDict(config["model"]))
    assert sum(p.numel() for p in model.backbone.parameters()) > 20e6


INDICATORS = [
    "image_frequency",
    "instance_frequency",
    "instance_number",
    "mean_score",
    "true_positive_rate",
    "confusion_matrix",
    "hard_confusion_matrix",
]


def test_every_indicator_and_every_combination_of_terms_trains_in_one_bank(dataset_info):
    variants = {
        name: BACL(method="bacl", indicator=name, hallucination=SMALL) for name in INDICATORS
    }
    for term in ("both", "misclassified", "overconfident", "none"):
        variants[term] = FCBL(method="fcbl", weight_term=term, alpha=0)
    variants["off"] = BACL(method="bacl", alpha=0, weight_term="none", hallucination=None)
    variants |= {"bce": BCE(method="bce"), "sigmoid": Sigmoid(method="sigmoid")}
    variants["softmax"] = Softmax(method="softmax")
    config = config_of(dataset_info, variants)
    model = build(config)
    head = "roi_head.bbox_head.variants"
    state = model.state_dict()
    for name in ("none", "off", "bce"):
        state[f"{head}.{name}.fc_cls.weight"] = state[f"{head}.bce.fc_cls.weight"].clone()
    model.load_state_dict(state)
    train(config, model, 2)
    state = model.state_dict()
    assert all(value.isfinite().all() for value in state.values())
    weights = {name: state[f"{head}.{name}.fc_cls.weight"] for name in variants}
    # every switch is read: no two variants end alike, but for those with nothing switched on
    torch.testing.assert_close(weights["none"], weights["bce"])
    torch.testing.assert_close(weights["off"], weights["bce"])


def thinned(place, image, file, annotations):
    """Every third image has no annotations and every fifth is small."""
    small = {"width": 31} if place % 5 == 0 else {}
    return {**image, **small}, file, [] if place % 3 == 0 else annotations


@pytest.mark.parametrize(
    ("options", "left_out"),
    [
        ({}, lambda place: place % 3 == 0 or place % 5 == 0),
        ({"images_without_boxes": True}, lambda place: place % 5 == 0),
        ({"smallest_image": 31}, lambda place: place % 3 == 0),
        ({"smallest_image": 0, "images_without_boxes": True}, lambda place: False),
    ],
)
def test_epoch_is_the_images_that_train_for_all_who_count_them(
    dataset_info, tmp_path, options, left_out
):
    train_split = rewritten(dataset_info, tmp_path, thinned)
    places = [place for place in range(train_split.image_total) if not left_out(place)]
    schedule = Schedule(epochs=3, milestones=[2], batch=4)
    variants = {"fasa": FASA(method="fasa"), "balms": BALMS(method="balms")}
    recipe = {"schedule": schedule, **options}
    config = configured(dataset_info, recipe, variants, train=train_split)
    steps = -(-len(places) // 4)
    assert config["train_cfg"]["max_iters"] == config["param_scheduler"][-1]["end"] == 3 * steps
    assert config["param_scheduler"][-1]["milestones"] == [2 * steps]
    own = bank_heads(config)[0]["variants"]
    assert own["fasa"]["epoch"] == 4 * steps
    assert own["balms"]["counts"]["total"] == len(places)
    loader = Runner.build_dataloader(config["train_dataloader"], seed=0)
    assert len(loader.dataset) == len(places)
    first = {loader.sampler.at(position).index for position in range(len(places))}
    ids = sorted(loader.dataset.get_data_info(place)["img_id"] for place in first)
    assert ids == places


def test_training_split_without_an_image_to_train_on_is_refused(dataset_info, tmp_path):
    empty = rewritten(dataset_info, tmp_path, lambda place, image, file, _: (image, file, []))
    with pytest.raises(UsageError, match=r"expected images to train on.*images_without_boxes"):
        configured(dataset_info, train=empty)
    configured(dataset_info, {"images_without_boxes": True}, train=empty)


def test_validation_has_all_its_images_whatever_trains(dataset_info):
    config = configured(dataset_info, {"smallest_image": 96, "smallest_box": 1000})
    dataset = DATASETS.build(config["val_dataloader"]["dataset"])
    assert len(dataset) == Prepared.load(dataset_info).val.image_total
    assert dataset.get_data_info(0)["instances"]


def test_image_padded_for_copy_paste_keeps_its_own_shape(dataset_info):
    config = copy_paste(dataset_info, 128)["train_dataloader"]["dataset"]
    dataset, shapes = DATASETS.build(config), set()
    for place in range(12):
        sample = dataset[Position(place, place)]
        assert sample["inputs"].shape == (3, 128, 128)
        height, width = sample["data_samples"].img_shape
        assert not sample["inputs"][:, height:].any() or len(sample["data_samples"].gt_instances)
        shapes.add((height, width))
    assert all(max(shape) <= 128 for shape in shapes) and min(shapes)[0] < 128


def test_proposals_and_jittered_boxes_end_at_the_image_and_not_at_what_is_padded(dataset_info):
    variants = {"bacl": BACL(method="bacl", hallucination=SMALL)}
    config = copy_paste(dataset_info, 128, variants)
    model = build(config)
    dataset = DATASETS.build(config["train_dataloader"]["dataset"])
    batch = batch_of(dataset, iter(stream_of(config, dataset)), 4)
    data = model.data_preprocessor(batch, training=True)
    metas = [sample.metainfo for sample in data["data_samples"]]
    assert any(min(meta["img_shape"]) < 120 for meta in metas)
    outputs = model.rpn_head(model.extract_feat(data["inputs"]))
    cfg = ConfigDict(config["model"]["train_cfg"]["rpn_proposal"])
    jittered = []
    with patch(
        "bacl.detector.bank.bbox2roi", wraps=lambda boxes: jittered.append(boxes) or bbox2roi(boxes)
    ):
        model.loss(data["inputs"], data["data_samples"])
    proposed = model.rpn_head.predict_by_feat(*outputs, batch_img_metas=metas, cfg=cfg)
    for meta, proposals, boxes in zip(metas, proposed, jittered[0], strict=True):
        height, width = meta["img_shape"]
        limit = torch.tensor([width, height])
        assert (proposals.bboxes[:, 2:] <= limit).all() and (boxes[:, 2:] <= limit).all()
        assert (proposals.bboxes[:, 2:] > limit - 4).any()  # some would reach further


def test_baselines_of_fewer_proposals_choose_them_among_as_many(dataset_info):
    """The release keeps 1000 or 2000 proposals of 2000 in training, and 1000 of 1000 at test."""
    for kept in (1000, 2000):
        recipe = Recipe(schedule=Schedule(iterations=1), proposals=kept)
        model = stage_config(
            Detector(),
            Prepared.load(dataset_info),
            dataset_info,
            recipe,
            {"bce": BCE(method="bce")},
            [],
            seed=0,
            workers=1,
        )["model"]
        train, test = model["train_cfg"]["rpn_proposal"], model["test_cfg"]["rpn"]
        assert (train["nms_pre"], train["max_per_img"]) == (2000, kept)
        assert (test["nms_pre"], test["max_per_img"]) == (1000, 1000)


def test_proposals_before_suppression_are_a_field_of_their_own(dataset_info):
    found = {}
    for before in (1, 2000):
        config = configured(dataset_info, {"proposals": 30, "proposals_before_nms": before})
        model = build(config)
        dataset = DATASETS.build(config["train_dataloader"]["dataset"])
        batch = batch_of(dataset, iter(stream_of(config, dataset)), 2)
        data = model.data_preprocessor(batch, training=True)
        outputs = model.rpn_head(model.extract_feat(data["inputs"]))
        metas = [sample.metainfo for sample in data["data_samples"]]
        cfg = ConfigDict(config["model"]["train_cfg"]["rpn_proposal"])
        found[before] = model.rpn_head.predict_by_feat(*outputs, batch_img_metas=metas, cfg=cfg)
    assert all(0 < len(proposals) <= 5 for proposals in found[1])  # one of each level
    assert all(len(proposals) == 30 for proposals in found[2000])


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        ("faster_rcnn", None, True),
        ("mask_rcnn", None, True),
        ("cascade_rcnn", None, False),
        ("faster_rcnn", False, False),
        ("cascade_rcnn", True, True),
    ],
)
def test_proposals_of_low_overlap_are_matched_as_the_release_does(
    dataset_info, kind, given, expected
):
    config = configured(dataset_info, detector={"type": kind, "match_low_quality": given})
    rcnn = config["model"]["train_cfg"]["rcnn"]
    for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
        assert stage["assigner"]["match_low_quality"] is expected


def test_object_gets_the_proposal_that_overlaps_it_most(dataset_info):
    """Both proposals overlap object 0 more, but the second is the best that object 1 has."""
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 16]])
    proposals = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12]])
    found = {}
    for given in (True, False):
        config = configured(dataset_info, detector={"match_low_quality": given})
        assigner = TASK_UTILS.build(config["model"]["train_cfg"]["rcnn"]["assigner"])
        assigned = assigner.assign(
            InstanceData(priors=proposals),
            InstanceData(bboxes=objects, labels=torch.tensor([0, 1])),
        )
        found[given] = (assigned.gt_inds - 1).tolist()
    assert found == {True: [0, 1], False: [0, 0]}


def test_key_ignores_where_files_are_and_how_ranks_share(dataset_info):
    prepared = Prepared.load(dataset_info)
    moved = prepared.train.model_copy(update={"images": "/elsewhere", "annotations": "/a.json"})
    assert portable(configured(dataset_info, train=moved)) == portable(configured(dataset_info))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("recipe", {"proposals": 77}),
        ("recipe", {"proposals_before_nms": 77}),
        ("recipe", {"group_aspect_ratio": False}),
        ("recipe", {"images_without_boxes": True}),
        ("recipe", {"smallest_image": 16}),
        ("recipe", {"smallest_box": 0}),
        ("detector", {"match_low_quality": False}),
    ],
)
def test_key_changes_with_each_option_of_the_release(dataset_info, part, change):
    assert portable(configured(dataset_info, **{part: change})) != portable(
        configured(dataset_info)
    )
