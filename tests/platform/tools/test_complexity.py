"""`bacl complexity`: counts of a tiny detector by hand, and Table XI to the digit."""

import pytest
from typer.testing import CliRunner

from bacl_platform.cli import main as cli
from bacl_platform.spec.load import load
from bacl_platform.tools import complexity
from bacl_platform.tools.stand_in import stand_in

C = 5


@pytest.fixture
def config(tiny):
    return complexity.config_of(load(tiny), stand_in(C))


def by_name(parts):
    return {part.name: part for part in parts}


def test_parts_of_a_tiny_detector_have_the_parameters_of_a_closed_form(config):
    width, features, anchors = 16, 32, 3
    found = by_name(complexity.measure(config, (64, 96)))
    lateral = sum(width * 2**level * width + width for level in range(4))
    assert found["neck"].parameters == lateral + 4 * (9 * width * width + width)
    assert found["RPN"].parameters == (9 * width + 1) * width + (width + 1) * anchors * (1 + 4)
    shared = (49 * width + 1) * features + (features + 1) * features
    assert found["box head: shared FCs"].parameters == shared
    assert found["box head: classifier"].parameters == (features + 1) * (C + 1)
    assert found["box head: regressor"].parameters == (features + 1) * 4 * C


def test_multiply_adds_of_the_box_head_are_proposals_times_weights(config):
    found = by_name(complexity.measure(config, (64, 96)))
    assert found["box head: classifier"].multiply_adds == 50 * 32 * (C + 1)
    assert found["box head: regressor"].multiply_adds == 50 * 32 * 4 * C


def test_multiply_adds_of_the_neck_are_positions_times_weights(config):
    found = by_name(complexity.measure(config, (64, 96)))
    positions = [(64 // stride) * (96 // stride) for stride in (4, 8, 16, 32)]
    lateral = sum(n * 16 * 2**level * 16 for level, n in enumerate(positions))
    assert found["neck"].multiply_adds == lateral + sum(positions) * 9 * 16 * 16


@pytest.mark.parametrize(
    ("depth", "flops", "parameters"), [(50, 221.71, 47.42), (101, 301.58, 66.41)]
)
def test_paper_s_detector_has_the_digits_of_table_11(tiny, depth, flops, parameters):
    overrides = [f"detector={{backbone: resnet{depth}}}"]
    parts = complexity.measure(
        complexity.config_of(load(tiny, overrides), stand_in(1230)), (800, 1333)
    )
    assert round(sum(part.mmcv_flops for part in parts) / 1e9, 2) == flops
    assert round(sum(part.parameters - part.frozen for part in parts) / 1e6, 2) == parameters


@pytest.mark.parametrize("type_", ["cascade_rcnn", "mask_rcnn"])
def test_every_head_of_other_detectors_is_counted(tiny, type_):
    config = complexity.config_of(load(tiny, [f"detector.type={type_}"]), stand_in(C))
    found = by_name(complexity.measure(config, (64, 96)))
    expected = "mask head" if type_ == "mask_rcnn" else "box head 3: classifier"
    assert found[expected].multiply_adds > 0


def test_passes_of_an_iterative_box_head_are_counted_each(tiny):
    overrides = ["stages.features.classifier={method: pcb, passes: [0.2, 0.2, 0.6]}"]
    experiment = load(tiny, overrides)
    whole = by_name(complexity.measure(complexity.config_of(experiment, stand_in(C)), (64, 96)))
    config = complexity.config_of(experiment, stand_in(C), "features")
    found = by_name(complexity.measure(config, (64, 96)))
    for name in ("shared FCs", "regressor"):
        once = whole[f"box head: {name}"].multiply_adds
        assert found[f"box head: {name}"].multiply_adds == 3 * once
    classifier = 32 * (C + 1)
    refinements = 512 * (C + 1 + 16) + 512 * (4 * C + 49)
    # between passes, logits are asked for once more
    expected = 50 * (3 * classifier + 2 * (classifier + refinements))
    assert found["box head: classifier"].multiply_adds == expected


def test_classifier_over_pooled_features_is_counted(tiny):
    overrides = [
        "stages.features.classifier={method: softmax}",
        "stages.heads.recipe.sampler=class_aware",
        "stages.heads.variants.mine={method: simcal}",
    ]
    config = complexity.config_of(load(tiny, overrides), stand_in(C), "mine")
    found = by_name(complexity.measure(config, (64, 96)))
    copy = 16 * 49 * 32 + 32 * 32
    expected = 50 * (copy + 2 * 32 * (C + 1))
    assert found["box head: classifier"].multiply_adds == expected


def test_variant_that_there_is_not_is_refused(tiny):
    run = CliRunner().invoke(
        cli.app, ["complexity", str(tiny), "--categories", "5", "--variant", "no"]
    )
    assert run.exit_code == 2
    expected = "error: --variant: expected one of features, bacl, softmax, got no"
    assert run.stderr.strip() == expected


def test_command_needs_no_dataset_where_categories_are_given(tiny):
    missing = "dataset={format: lvis, train: a.json, val: b.json, images: $NOWHERE}"
    result = CliRunner().invoke(
        cli.app, ["complexity", str(tiny), "--set", missing, "--categories", str(C)]
    )
    assert result.exit_code == 0, result.output
    assert "96 x 96 pixels, 5 categories" in result.output
    assert "Table XI has no such detector" in result.output


def test_command_counts_the_categories_of_the_prepared_dataset(tiny, store, prepared):
    result = CliRunner().invoke(cli.app, ["complexity", str(tiny), "--store", str(store.root)])
    assert result.exit_code == 0, result.output
    assert f"{len(prepared.categories)} categories" in result.output
