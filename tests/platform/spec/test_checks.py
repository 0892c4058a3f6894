"""What no single field of an experiment can know, each told in a sentence."""

import pytest

from bacl_platform.spec.load import load


def test_method_is_refused_with_images_that_it_cannot_learn_from(tiny, problems):
    overrides = [
        "stages.features.classifier={method: softmax}",
        "stages.heads.variants.mine={method: simcal}",
    ]
    assert problems(tiny, *overrides) == [
        "stages.heads.recipe.sampler: expected class_aware, whose images method simcal of variant "
        "mine learns from, got 'random'"
    ]
    load(tiny, [*overrides, "stages.heads.recipe.sampler=class_aware"])


def test_iterative_box_head_is_refused_where_others_share_the_trunk(tiny, problems):
    classifier = "{method: pcb, passes: [0.2, 0.2, 0.6]}"
    assert problems(tiny, f"stages.heads.variants.mine={classifier}") == [
        "stages.heads.variants.mine: method pcb with these options changes what the box head sees, "
        "which other variants share: expected it as the classifier of a stage of kind "
        "representation"
    ]
    load(tiny, [f"stages.features.classifier={classifier}"])
    load(tiny, ["stages.heads.variants.mine={method: pcb}"])


def test_method_that_corrects_a_classifier_is_refused_where_none_is_before_it(tiny, problems):
    assert problems(tiny, "stages.features.classifier={method: disalign}") == [
        "stages.features.classifier: method disalign corrects a classifier that a stage before "
        "has trained: expected it in a stage of kind classifier"
    ]


@pytest.mark.parametrize("before", ["bce", "sigmoid", "cosine"])
def test_method_that_corrects_a_classifier_is_refused_after_one_of_another_kind(
    tiny, before, problems
):
    overrides = [
        f"stages.features.classifier={{method: {before}}}",
        "stages.heads.variants.mine={method: disalign}",
    ]
    assert problems(tiny, *overrides) == [
        "stages.heads.variants.mine: method disalign corrects a classifier that a stage before "
        f"has trained: expected stages.features.classifier.method to be softmax, got {before!r}"
    ]


@pytest.mark.parametrize(("before", "classifier"), [("softmax", "linear"), ("cosine", "cosine")])
def test_method_that_corrects_a_classifier_is_taken_after_it(tiny, before, classifier):
    mine = f"{{method: disalign, classifier: {classifier}}}"
    overrides = [
        f"stages.features.classifier={{method: {before}}}",
        f"stages.heads.variants.mine={mine}",
    ]
    assert load(tiny, overrides).stages["heads"].variants["mine"].classifier == classifier


def test_classifier_stage_needs_a_representation_stage(tiny, problems):
    more = "stages.more={kind: classifier, after: heads, variants: {x: {method: bce}}, recipe: {}}"
    found = problems(tiny, more, "stages.more.recipe.schedule={iterations: 1, batch: 2}")
    assert found == [
        "stages.more.after: expected a stage of kind representation or imported, got the "
        "classifier stage 'heads'"
    ]


def test_cycle_is_shown_once(tiny, problems):
    found = problems(tiny, "stages.features.after=heads", "stages.features.kind=classifier")
    assert [line for line in found if "cycle" in line] == [
        "stages.heads.after: expected stages without a cycle, got heads -> features -> heads"
    ] or [line for line in found if "cycle" in line] == [
        "stages.features.after: expected stages without a cycle, got features -> heads -> features"
    ]


@pytest.mark.parametrize("kind", ["classifier", "features"])
def test_stages_in_a_circle_are_told_whatever_is_in_them(tiny, problems, kind):
    recipe = "recipe: {schedule: {iterations: 1, batch: 2}, features: replay}"
    variants = f"variants: {{x: {{method: disalign}}}}, {recipe}" if kind == "classifier" else ""
    other = f"stages.other={{kind: {kind}, after: heads, {variants}}}"
    more = ["stages.heads.after=other", "stages.heads.recipe.features=replay"]
    (found,) = problems(tiny, other, *more, "stages.heads.variants.mine={method: disalign}")
    assert "expected stages without a cycle, got heads -> other -> heads" in found
