"""Stages of kind `imported` in experiment files."""

import pytest

from bacl_platform.spec.experiment import image_recipe
from bacl_platform.spec.load import load
from bacl_platform.spec.yaml_files import data_paths

STAGE = "stages.features={kind: imported, checkpoint: old/detector.pth}"


def test_checkpoint_is_found_from_the_file_s_folder(tiny):
    experiment = load(tiny, [STAGE])
    assert experiment.stages["features"].checkpoint == str(tiny.parent / "old" / "detector.pth")
    assert image_recipe(experiment, "features").test_scale == (1333, 800)


def test_checkpoint_of_a_base_is_found_from_the_base_s_folder(tiny):
    (tiny.parent / "base.yaml").write_text(
        "base: tiny.yaml\nname: base\nstages: {features: {kind: imported, checkpoint: old/a.pth}}\n"
    )
    below = tiny.parent / "below"
    below.mkdir()
    (below / "own.yaml").write_text("base: ../base.yaml\nname: own\n")
    stage = load(below / "own.yaml").stages["features"]
    assert stage.checkpoint == str(tiny.parent / "old" / "a.pth")


def test_checkpoint_is_among_the_paths_that_a_cluster_must_have():
    raw = {"stages": {"mine": {"kind": "imported", "checkpoint": "a.pth"}, "other": None}}
    assert data_paths(raw) == {"stages.mine.checkpoint": "a.pth"}


def test_variable_of_a_checkpoint_must_be_set(tiny, problems):
    stage = "stages.features={kind: imported, checkpoint: '$NOWHERE/detector.pth'}"
    assert problems(tiny, stage) == [
        "stages.features.checkpoint: expected the environment variable NOWHERE to be set"
    ]


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            "stages.features={kind: imported}",
            "stages.features.checkpoint: is missing, expected the path of a file",
        ),
        (
            "stages.features.source=detectron",
            "stages.features.source: expected one of mmdet, torchvision, detectron2, bacl_release",
        ),
        (
            "stages.features={kind: imported, checkpoint: a, categories: [b], "
            "new_categories: true}",
            "stages.features: expected either categories, which the dataset's are found among, or",
        ),
        ("stages.features.recipe.schedule={epochs: 1}", "stages.features.recipe.schedule: unknown"),
        ("stages.features.classifier={method: disalign}", "stages.features.classifier: method dis"),
        ("stages.heads.recipe.features=replay", "stages.heads.after: expected a stage of kind fea"),
        ("stages.again={kind: features, after: absent}", "stages.again.after: expected one of"),
        ("stages.heads.variants.features={method: bce}", "stages.heads: expected a variant name"),
    ],
)
def test_what_such_a_stage_cannot_have_is_told(tiny, problems, more, sentence):
    found = problems(tiny, STAGE, more)
    assert any(one.startswith(sentence) for one in found), found
