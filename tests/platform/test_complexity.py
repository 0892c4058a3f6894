"""`bacl complexity`: counts of a tiny detector by hand, and Table XI to the digit."""

import pytest
from typer.testing import CliRunner

from bacl_platform import cli, complexity
from bacl_platform.experiment import load

C = 5


@pytest.fixture
def config(tiny):
    return complexity.config_of(load(tiny), C)


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
    parts = complexity.measure(complexity.config_of(load(tiny, overrides), 1230), (800, 1333))
    assert round(sum(part.mmcv_flops for part in parts) / 1e9, 2) == flops
    assert round(sum(part.parameters - part.frozen for part in parts) / 1e6, 2) == parameters


@pytest.mark.parametrize("type_", ["cascade_rcnn", "mask_rcnn"])
def test_every_head_of_other_detectors_is_counted(tiny, type_):
    config = complexity.config_of(load(tiny, [f"detector.type={type_}"]), C)
    found = by_name(complexity.measure(config, (64, 96)))
    expected = "mask head" if type_ == "mask_rcnn" else "box head 3: classifier"
    assert found[expected].multiply_adds > 0


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
