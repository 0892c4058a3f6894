"""Recipes that make no sense, each told in a sentence."""

import pytest

from bacl.augmentation_settings import COLOURS, PLACES
from bacl_platform.spec.load import load

KNOWN = ", ".join(COLOURS | PLACES)
RECIPE = "stages.heads.recipe"


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        (
            "optimizer",
            "{type: adamw, momentum: 0.9}",
            f"{RECIPE}.optimizer.momentum: unknown field, expected one of weight_decay, paramwise, "
            "layer_decay, type, betas, eps",
        ),
        (
            "optimizer",
            "{type: adamv}",
            f"{RECIPE}.optimizer.type: expected one of adamw, sgd, got 'adamv'",
        ),
        (
            "optimizer",
            "{type: sgd, paramwise: {norm_decay_mul: 0}}",
            f"{RECIPE}.optimizer.paramwise.norm_decay_mul: unknown field, did you mean "
            "`norm_decay_mult`?",
        ),
        (
            "lr_schedule",
            "cosine",
            f"{RECIPE}: schedule.milestones: expected none with lr_schedule cosine, which falls at "
            "every step, got [9]",
        ),
        (
            "accumulate",
            "2",
            f"{RECIPE}.schedule.batch: expected a multiple of 4 (whole image pairs on each of 1 "
            "workers in each of 2 parts), got 2",
        ),
        (
            "tta",
            "{flip: false, scales: [[96, 96]]}",
            f"{RECIPE}.tta: expected flip: true or several scales, got a single view",
        ),
        (
            "soft_nms",
            "{method: hard}",
            f"{RECIPE}.soft_nms.method: expected one of linear, gaussian, got 'hard'",
        ),
        (
            "ema",
            "{momentum: 1}",
            f"{RECIPE}.ema.momentum: expected a number > 0 and < 1, got 1",
        ),
        (
            "clip_grad",
            "{max_norm: 0}",
            f"{RECIPE}.clip_grad.max_norm: expected a number > 0, got 0",
        ),
        (
            "augmentations",
            "[{type: PhotometricDistortion}]",
            f"{RECIPE}.augmentations.0.type: expected one of {KNOWN}, got 'PhotometricDistortion' "
            "(did you mean `PhotoMetricDistortion`?)",
        ),
        (
            "augmentations",
            "[{type: Expand}, {type: Solarize, hue: 3}]",
            f"{RECIPE}.augmentations.1: hue: unknown option of Solarize, expected one of prob, "
            "level, min_mag, max_mag",
        ),
    ],
)
def test_field_that_makes_no_sense_is_told(tiny, problems, field, value, sentence):
    """The file's recipe has milestones and a warm-up."""
    assert problems(tiny, f"{RECIPE}.schedule.lr=0.001", f"{RECIPE}.{field}={value}") == [sentence]


def test_one_cycle_is_refused_with_a_warmup(tiny, problems):
    overrides = [f"{RECIPE}.lr_schedule=one_cycle", f"{RECIPE}.schedule.milestones=[]"]
    assert problems(tiny, *overrides) == [
        f"{RECIPE}: schedule.warmup: expected 0 with lr_schedule one_cycle, which rises by itself, "
        "got 4"
    ]


@pytest.mark.parametrize(("val", "refused"), [("true", True), ("false", False)])
def test_several_views_are_refused_where_one_is_stored(tiny, problems, val, refused):
    overrides = [
        f"stages.kept={{kind: features, after: features, val: {val}}}",
        "stages.heads.after=kept",
        f"{RECIPE}.features=replay",
        f"{RECIPE}.tta={{scales: [[96, 96], [128, 128]]}}",
    ]
    if not refused:
        assert load(tiny, overrides).stages["heads"].recipe.tta.scales == [(96, 96), (128, 128)]
        return
    assert problems(tiny, *overrides) == [
        f"{RECIPE}.tta: expected nothing with features: replay, because stage 'kept' stores one "
        "view of each validation image; with its val: false, images are evaluated on exactly"
    ]


def test_accumulation_is_refused_where_features_are_replayed(tiny, problems):
    overrides = [
        "stages.kept={kind: features, after: features}",
        "stages.heads.after=kept",
        f"{RECIPE}.features=replay",
        f"{RECIPE}.accumulate=2",
        f"{RECIPE}.schedule.batch=4",
    ]
    assert problems(tiny, *overrides) == [
        f"{RECIPE}.accumulate: expected 1 with features: replay, whose steps load no images, got 2"
    ]


def test_trunk_is_read_as_asked_in_stages_that_pass_one_frozen(tiny):
    asked = "{precision: bfloat16, compile: true}"
    kept = f"stages.kept={{kind: features, after: features, recipe: {{trunk: {asked}}}}}"
    stages = load(tiny, [f"{RECIPE}.trunk={asked}", kept]).stages
    for name in ("heads", "kept"):
        assert stages[name].recipe.trunk.model_dump() == {"precision": "bfloat16", "compile": True}


@pytest.mark.parametrize(
    ("overrides", "stage", "why"),
    [
        (
            ["stages.features.recipe.trunk={compile: true}"],
            "features",
            "a representation stage trains the trunk",
        ),
        (
            [
                "stages.features={kind: imported, checkpoint: a.pth, "
                "recipe: {trunk: {compile: true}}}"
            ],
            "features",
            "an imported stage does not train",
        ),
        (
            [
                "stages.kept={kind: features, after: features}",
                "stages.heads.after=kept",
                f"{RECIPE}.features=replay",
                f"{RECIPE}.trunk={{compile: true}}",
            ],
            "heads",
            "the steps of a replay pass no trunk, but those of the stage that stores features do",
        ),
        (
            ["stages.heads.freeze=[backbone, rpn_head]", f"{RECIPE}.trunk={{compile: true}}"],
            "heads",
            "the stage trains neck, roi_head.bbox_head*.shared_fcs",
        ),
    ],
)
def test_trunk_is_refused_where_none_is_frozen_and_passed(tiny, problems, overrides, stage, why):
    assert problems(tiny, *overrides) == [
        f"stages.{stage}.recipe.trunk: expected a stage whose steps pass a frozen trunk, but "
        f"{why}: remove it"
    ]
