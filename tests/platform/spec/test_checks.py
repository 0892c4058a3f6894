"""What no single field of an experiment can know, each told in a sentence."""

import pytest
import yaml

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


SIXTEEN = "stages.features.recipe.schedule.batch=16"


@pytest.mark.parametrize("bounds", ["[1, 8]", "[2, 4]", "[8, 8]"])
def test_range_of_workers_between_which_the_batch_divides_is_taken(tiny, bounds):
    asked = load(tiny, [SIXTEEN, f"stages.features.resources.workers={bounds}"])
    resources = asked.stages["features"].resources
    assert [resources.least, resources.most] == yaml.safe_load(bounds) and resources.elastic


@pytest.mark.parametrize("bounds", ["[1, 6]", "[3, 8]", "[5, 7]", "[8, 16]"])
def test_bounds_that_the_batch_cannot_be_divided_by_are_told_with_those_that_can(
    tiny, problems, bounds
):
    assert problems(tiny, SIXTEEN, f"stages.features.resources.workers={bounds}") == [
        "stages.features.resources.workers: expected bounds that a batch of 16 can be divided by "
        f"into whole image pairs, which are 1, 2, 4, 8, got {bounds}"
    ]


def test_bounds_are_those_of_each_part_of_a_batch(tiny, problems):
    overrides = [
        "stages.features.recipe.schedule.batch=24",
        "stages.features.recipe.accumulate=2",
        "stages.features.resources.workers=[2, 4]",
    ]
    assert problems(tiny, *overrides) == [
        "stages.features.resources.workers: expected bounds that a batch of 24 can be divided by "
        "into whole image pairs in each of 2 parts, which are 1, 2, 3, 6, got [2, 4]"
    ]
    overrides[1] = "stages.features.recipe.accumulate=5"
    (said,) = problems(tiny, *overrides)
    assert "recipe.schedule.batch: expected a multiple of 10 (whole image pairs on each" in said


@pytest.mark.parametrize(
    ("workers", "said"),
    [
        ("[4, 2]", "resources: workers: expected the smaller number first, got [4, 2]"),
        ("[1, 2, 4]", "resources.workers: expected a whole number > 0 or a list of 2 values, got "),
        ("[2]", "resources.workers: expected "),
        ("[0, 2]", "resources.workers.0: expected a whole number > 0, got 0"),
        ("many", "resources.workers: expected a whole number > 0 or a list of 2 values, got "),
        ("0", "resources.workers: expected a whole number > 0 or a list of 2 values, got 0"),
        ("true", "resources.workers: expected a number, got true"),
    ],
)
def test_what_is_no_number_or_range_of_workers_is_told(tiny, problems, workers, said):
    (found,) = problems(tiny, f"stages.features.resources.workers={workers}")
    assert found.startswith(f"stages.features.{said}")
