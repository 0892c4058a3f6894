"""Stage configurations: recipes that build and train, and those that are refused."""

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import ConfigDict
from training import DETECTOR, RECIPE, build, config_of, train

from bacl.config import portable, stage_config
from bacl.datasets.annotations import Prepared
from bacl.datasets.samplers import Position
from bacl.errors import UsageError
from bacl.settings import BACL, BCE, FCBL, Hallucination, Sigmoid, Softmax

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


def copy_paste(dataset_info):
    return configured(dataset_info, {"augmentation": "copy_paste", "copy_paste_size": 96})


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


def test_key_ignores_where_files_are_and_how_ranks_share(dataset_info):
    prepared = Prepared.load(dataset_info)
    moved = prepared.train.model_copy(update={"images": "/elsewhere", "annotations": "/a.json"})
    assert portable(configured(dataset_info, train=moved)) == portable(configured(dataset_info))
    other = configured(dataset_info, {"proposals": 77})
    assert portable(other) != portable(configured(dataset_info))
