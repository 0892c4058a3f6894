"""What a file may say of stages that store features, and of those that train on them."""

import pytest

from bacl_platform.spec.experiment import image_recipe
from bacl_platform.spec.load import load

STORED = "stages.stored={kind: features, after: features}"
REPLAY = ["stages.heads.after=stored", "stages.heads.recipe.features=replay"]


def test_replay_is_taken_after_a_stage_that_stores_features(tiny):
    found = load(tiny, [STORED, *REPLAY])
    assert found.stages["stored"].views == 2
    assert found.stages["heads"].recipe.features == "replay"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["stages.features.recipe.features=replay"],
            "stages.features.recipe.features: expected exact, because a representation stage "
            "trains the trunk, got 'replay'",
        ),
        (
            [STORED, *REPLAY, "stages.heads.recipe.scales=[[64, 64]]"],
            "stages.heads.recipe.scales: expected [[96, 96]], with which stage 'stored' stores "
            "features, got [[64, 64]]",
        ),
        (
            [STORED, *REPLAY, "stages.heads.freeze=[neck]"],
            "stages.heads.freeze: expected backbone, roi_head.bbox_head*.shared_fcs among what is "
            "frozen, because stored features do not change with the trunk, got ['neck']",
        ),
        (
            [
                STORED,
                *REPLAY,
                "stages.heads.variants.mine={method: forest, trees: trees.json}",
            ],
            "stages.heads.variants.mine: method forest reads fc1 of a region, which stage 'stored' "
            "does not store: expected stages.stored.layers: [fc1]",
        ),
        (
            ["stages.heads.recipe.features=replay"],
            "stages.heads.after: expected a stage of kind features, got the representation stage "
            "'features': recipe.features: replay trains on what such a stage stores",
        ),
        (
            [STORED, "stages.heads.after=stored"],
            "stages.heads.after: expected a stage of kind representation or imported, got the "
            "features stage 'stored': recipe.features: replay trains on what it stores",
        ),
        (
            [STORED, "stages.again={kind: features, after: stored}"],
            "stages.again.after: expected a stage of kind representation or imported or "
            "classifier, got the features stage 'stored': recipe.features: replay trains on what "
            "it stores",
        ),
        (
            ["stages.stored={kind: features, after: features, views: 0}"],
            "stages.stored.views: expected a whole number > 0, got 0",
        ),
        (
            ["stages.stored={kind: features, after: features, layers: [fc2]}"],
            "stages.stored.layers.0: expected one of pooled, fc1, got 'fc2'",
        ),
    ],
)
def test_stage_that_cannot_be_replayed_is_told_why(tiny, problems, overrides, sentence):
    assert problems(tiny, *overrides) == [sentence]


def test_method_is_taken_where_the_layers_that_it_reads_are_stored(tiny):
    stored = "stages.stored={kind: features, after: features, layers: [fc1]}"
    mine = "stages.heads.variants.mine={method: forest, trees: trees.json}"
    load(tiny, [stored, *REPLAY, mine])


def test_replay_sees_images_as_its_features_do(tiny):
    shown = "stages.stored={kind: features, after: features, recipe: {scales: [[64, 64]]}}"
    bare = "{schedule: {iterations: 4, batch: 2}, features: replay, loader_workers: 1}"
    found = load(tiny, [shown, "stages.heads.after=stored", f"stages.heads.recipe={bare}"])
    recipe = image_recipe(found, "heads")
    assert recipe.scales == image_recipe(found, "stored").scales == [(64, 64)]
    assert recipe.test_scale == found.stages["features"].recipe.test_scale == (96, 96)
    assert recipe.schedule.iterations == 4 and recipe.loader_workers == 1
    assert image_recipe(found, "features").scales == [(96, 96)]
