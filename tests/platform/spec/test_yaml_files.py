"""YAML files as they are read: bases, overrides, and the sentence each mistake gets."""

import pytest

from bacl.errors import UsageError
from bacl_platform.spec.load import load
from bacl_platform.spec.yaml_files import read_yaml


def test_override_of_an_aliased_part_leaves_the_other_alone(tiny):
    stages = load(tiny, ["stages.heads.recipe.schedule.lr=0.5"]).stages
    assert stages["heads"].recipe.schedule.lr == 0.5
    assert stages["features"].recipe.schedule.lr == 0.02


def test_override_replaces_nested_values_and_list_entries(tiny):
    experiment = load(
        tiny,
        [
            "stages.heads.variants.bacl.alpha=0.5",
            "stages.heads.recipe.scales.0=[64, 32]",
            "seeds=[3, 4]",
            "stages.heads.recipe.schedule.lr=1e-3",
        ],
    )
    heads = experiment.stages["heads"]
    assert heads.variants["bacl"].alpha == 0.5
    assert heads.recipe.scales == [(64, 32)]
    assert heads.recipe.schedule.lr == 1e-3
    assert experiment.seeds == [3, 4]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: a\nname: b", "line 2: expected YAML: `name` is given twice, first in line 1"),
        ("name: [1", "line 1: expected YAML: expected ',' or ']', but got '<stream end>'"),
        ("- 1", "expected a mapping of fields, got [1]"),
        ('a: 1\nname: "\\ud83d"', "line 2: expected YAML: '\\ud83d' has half a character"),
        (
            "a: 1\nname: \x01",
            "line 2: expected YAML, got the character U+0001, which it does not allow",
        ),
    ],
)
def test_file_that_is_no_mapping_names_the_line(tmp_path, text, sentence, problems):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert problems(path) == [sentence]


def test_missing_file_is_told(tmp_path, problems):
    assert problems(tmp_path / "none.yaml") == ["there is no such file"]
    assert problems(tmp_path) == ["expected a YAML file, got a folder"]
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff")
    assert problems(tmp_path / "bytes.yaml") == [
        "expected UTF-8 text, got other bytes (first at byte 6)"
    ]


def test_pair_of_escapes_makes_one_character(tmp_path):
    path = tmp_path / "pair.yaml"
    path.write_text('name: "\\ud83d\\ude00"')
    assert read_yaml(path) == {"name": "\U0001f600"}


def test_missing_base_is_told_with_the_files_that_lead_to_it(tiny, problems):
    first, second = tiny.with_name("first.yaml"), tiny.with_name("second.yaml")
    first.write_text("base: second.yaml\nname: a\n")
    second.write_text("base: nowhere.yaml\nname: b\n")
    missing = tiny.with_name("nowhere.yaml")
    assert problems(first) == [f"base: {second}: base: {missing}: there is no such file"]
    second.write_text("base: $NO_SUCH_VARIABLE/a.yaml\nname: b\n")
    assert problems(first) == [
        f"base: {second}: base: expected the environment variable NO_SUCH_VARIABLE to be set"
    ]


def test_sweep_is_refused_as_an_experiment_and_as_a_base(tiny, problems):
    sweep, other = tiny.with_name("sweep.yaml"), tiny.with_name("other.yaml")
    sweep.write_text("name: s\nbase: tiny.yaml\nspace: {variant.alpha: [0, 1]}\n")
    other.write_text("name: o\nbase: sweep.yaml\n")
    for path, place in ((sweep, ""), (other, f"base: {sweep}: ")):
        (sentence,) = problems(path)
        assert sentence.startswith(f"{place}expected an experiment, got a sweep")
        assert f"`bacl sweep {sweep}` runs it" in sentence


@pytest.mark.parametrize(
    "override", ["seeds", "=1", "a..b=1", "stages.heads.recipe.scales.7=1", "name.first=a"]
)
def test_bad_override_is_told(tiny, override):
    with pytest.raises(UsageError, match="--set"):
        load(tiny, [override])


def test_file_with_a_base_says_only_what_differs(tiny):
    other = tiny.with_name("other.yaml")
    other.write_text(
        "base: tiny.yaml\nname: other\n"
        "stages: {heads: {variants: {bce: {method: bce}}, recipe: {schedule: {lr: 0.5}}}}\n"
        "baseline: bce\n"
    )
    base, experiment = load(tiny), load(other)
    assert list(experiment.stages["heads"].variants) == ["bce"]
    assert experiment.stages["heads"].recipe.schedule.lr == 0.5
    assert experiment.stages["heads"].recipe.schedule.iterations == 12
    assert experiment.stages["features"] == base.stages["features"]


def test_stage_of_null_leaves_the_bases_out(tiny):
    other = tiny.with_name("other.yaml")
    other.write_text("base: tiny.yaml\nname: other\nstages: {heads: null}\nbaseline: null\n")
    assert list(load(other).stages) == ["features"]


def test_base_that_leads_back_is_refused(tiny):
    tiny.write_text("base: tiny.yaml\n")
    with pytest.raises(UsageError, match="which leads back here"):
        load(tiny)
