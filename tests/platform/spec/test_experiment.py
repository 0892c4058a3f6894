"""Experiment files: what is read, and the sentence each mistake gets."""

import os
from pathlib import Path

import pytest
import yaml

from bacl.errors import UsageError
from bacl.method_settings import METHODS
from bacl.settings import FROZEN_TRUNK
from bacl_platform.spec.experiment import assign, data_paths, load, read_yaml


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UsageError) as raised:
        load(path, list(overrides))
    lines = str(raised.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_valid_file_is_read_with_the_defaults_of_the_paper(tiny):
    experiment = load(tiny)
    heads = experiment.stages["heads"]
    assert list(heads.variants) == ["bacl", "softmax"]
    assert heads.variants["bacl"].alpha == 0.85
    assert heads.freeze == list(FROZEN_TRUNK)
    assert experiment.stages["features"].classifier.method == "bce"
    assert experiment.seeds == [0]


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
    ("override", "sentence"),
    [
        (
            "stages.heads.variants.bacl.alpha=high",
            "stages.heads.variants.bacl.alpha: expected a number >= 0, got 'high'",
        ),
        (
            "stages.heads.variants.bacl.hallucination.beta=1.5",
            "stages.heads.variants.bacl.hallucination.beta: "
            "expected a number >= 0 and < 1, got 1.5",
        ),
        ("detector.bakbone=tiny", "detector.bakbone: unknown field, did you mean `backbone`?"),
        (
            "detector.backbone=tinny",
            "detector.backbone: expected one of tiny, resnet50, resnet101, swin_t, "
            "got 'tinny' (did you mean `tiny`?)",
        ),
        (
            "stages.heads.variants.softmax.method=sofmax",
            f"stages.heads.variants.softmax.method: expected one of {', '.join(sorted(METHODS))}, "
            "got 'sofmax' (did you mean `softmax`?)",
        ),
        (
            "stages.heads.variants.softmax={}",
            "stages.heads.variants.softmax.method: is missing, expected one of "
            f"{', '.join(sorted(METHODS))}",
        ),
        (
            "stages.heads.variants.Big={method: bce}",
            "stages.heads.variants.Big: expected a name of a-z, 0-9, _ and -, beginning with a "
            "letter or digit, got 'Big'",
        ),
        (
            "stages.heads.after=null",
            "stages.heads.after: expected the name of a representation stage, got nothing",
        ),
        (
            "stages.heads.after=nowhere",
            "stages.heads.after: expected one of features, heads, got 'nowhere'",
        ),
        (
            "stages.heads.recipe.schedule.epochs=2",
            "stages.heads.recipe.schedule: expected either epochs or iterations, got both",
        ),
        (
            "stages.heads.resources.workers=2",
            "stages.heads.recipe.schedule.batch: expected a multiple of 4 "
            "(whole image pairs on each of 2 workers), got 2",
        ),
        (
            "stages.heads.resources.backend=nccl",
            "stages.heads.resources.backend: expected auto or gloo without GPUs "
            "(resources.gpus is 0), got 'nccl'",
        ),
        (
            "stages.heads.resources.accelerator=H100",
            "stages.heads.resources.accelerator: expected nothing without GPUs "
            "(resources.gpus is 0), got 'H100'",
        ),
        (
            "seeds=[]",
            "seeds: expected a list of whole numbers with at least one entry, got []",
        ),
        ("detector.neck_channels=true", "detector.neck_channels: expected a number, got true"),
        ("seeds=[1, 1]", "seeds: expected each seed once, got [1, 1]"),
        ("baseline=bagl", "baseline: expected one of features, bacl, softmax, got 'bagl'"),
        ("dataset.train=a.json", "dataset: format embedded makes its own files: remove train"),
        (
            "stages.heads.variants.features={method: bce}",
            "stages.heads: expected a variant name of its own, "
            "got 'features', which stage 'features' has",
        ),
        (
            "name=5",
            "name: expected a name of A-Z, a-z, 0-9, ., _ and -, beginning with a letter or digit, "
            "got 5: put it in quotes, which make it text",
        ),
    ],
)
def test_mistake_gets_a_sentence_that_names_the_field(tiny, override, sentence):
    assert sentence in problems(tiny, override)


def test_several_mistakes_are_told_together(tiny):
    found = problems(
        tiny, "detector.backbone=vgg", "stages.heads.after=nowhere", "stages.heads.kind=heads"
    )
    assert {line.split(":")[0] for line in found} == {
        "detector.backbone",
        "stages.heads.after",
        "stages.heads.kind",
    }


def test_representation_stage_with_variants_is_told_what_to_do(tiny):
    (sentence,) = problems(tiny, "stages.features.variants={}")
    assert sentence.startswith("stages.features.variants: expected no such field")
    assert "`kind: classifier`" in sentence


def test_method_is_refused_with_images_that_it_cannot_learn_from(tiny):
    overrides = [
        "stages.features.classifier={method: softmax}",
        "stages.heads.variants.mine={method: simcal}",
    ]
    assert problems(tiny, *overrides) == [
        "stages.heads.recipe.sampler: expected class_aware, whose images method simcal of variant "
        "mine learns from, got 'random'"
    ]
    load(tiny, [*overrides, "stages.heads.recipe.sampler=class_aware"])


def test_iterative_box_head_is_refused_where_others_share_the_trunk(tiny):
    classifier = "{method: pcb, passes: [0.2, 0.2, 0.6]}"
    assert problems(tiny, f"stages.heads.variants.mine={classifier}") == [
        "stages.heads.variants.mine: method pcb with these options changes what the box head sees, "
        "which other variants share: expected it as the classifier of a stage of kind "
        "representation"
    ]
    load(tiny, [f"stages.features.classifier={classifier}"])
    load(tiny, ["stages.heads.variants.mine={method: pcb}"])


@pytest.mark.parametrize("place", ["features.classifier", "heads.variants.mine"])
def test_trees_are_found_from_the_folder_of_the_file_that_names_them(tiny, tmp_path, place):
    raw = yaml.safe_load(tiny.read_text())
    assign(raw, ["stages", *place.split(".")], {"method": "forest", "trees": "trees.json"})
    tiny.write_text(yaml.safe_dump(raw))
    (tmp_path / "below").mkdir()
    below = tmp_path / "below" / "experiment.yaml"
    below.write_text(yaml.safe_dump({"base": str(tiny)}))
    for path in (tiny, below):
        stages = load(path).stages
        stage = stages[place.split(".")[0]]
        found = stage.classifier if place.startswith("f") else stage.variants["mine"]
        assert found.trees == str(tiny.parent / "trees.json")
    assert data_paths(raw)[f"stages.{place}.trees"] == "trees.json"


def test_method_that_corrects_a_classifier_is_refused_where_none_is_before_it(tiny):
    assert problems(tiny, "stages.features.classifier={method: disalign}") == [
        "stages.features.classifier: method disalign corrects a classifier that a stage before "
        "has trained: expected it in a stage of kind classifier"
    ]


@pytest.mark.parametrize("before", ["bce", "sigmoid", "cosine"])
def test_method_that_corrects_a_classifier_is_refused_after_one_of_another_kind(tiny, before):
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


def test_classifier_stage_needs_a_representation_stage(tiny):
    more = "stages.more={kind: classifier, after: heads, variants: {x: {method: bce}}, recipe: {}}"
    found = problems(tiny, more, "stages.more.recipe.schedule={iterations: 1, batch: 2}")
    assert found == [
        "stages.more.after: expected a representation stage, got the classifier stage 'heads'"
    ]


def test_cycle_is_shown_once(tiny):
    found = problems(tiny, "stages.features.after=heads", "stages.features.kind=classifier")
    assert [line for line in found if "cycle" in line] == [
        "stages.heads.after: expected stages without a cycle, got heads -> features -> heads"
    ] or [line for line in found if "cycle" in line] == [
        "stages.features.after: expected stages without a cycle, got features -> heads -> features"
    ]


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
def test_file_that_is_no_mapping_names_the_line(tmp_path, text, sentence):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert problems(path) == [sentence]


def test_missing_file_is_told(tmp_path):
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


def test_missing_base_is_told_with_the_files_that_lead_to_it(tiny):
    first, second = tiny.with_name("first.yaml"), tiny.with_name("second.yaml")
    first.write_text("base: second.yaml\nname: a\n")
    second.write_text("base: nowhere.yaml\nname: b\n")
    missing = tiny.with_name("nowhere.yaml")
    assert problems(first) == [f"base: {second}: base: {missing}: there is no such file"]
    second.write_text("base: $NO_SUCH_VARIABLE/a.yaml\nname: b\n")
    assert problems(first) == [
        f"base: {second}: base: expected the environment variable NO_SUCH_VARIABLE to be set"
    ]


def test_mistake_in_a_base_names_the_base(tiny):
    first, second = tiny.with_name("first.yaml"), tiny.with_name("second.yaml")
    first.write_text("base: second.yaml\nname: a\nseeds: 5\n")
    second.write_text("base: tiny.yaml\nname: b\ndetector: {backbone: vgg}\n")
    seeds, backbone = problems(first)
    assert seeds.startswith("seeds: expected a list") and "base" not in seeds
    assert backbone == (
        "detector.backbone: expected one of tiny, resnet50, resnet101, swin_t, got 'vgg' (in its "
        f"base {second})"
    )
    (own,) = problems(first, "seeds=[0]", "detector.backbone=fcn")
    assert own.endswith("got 'fcn'")


def test_sweep_is_refused_as_an_experiment_and_as_a_base(tiny):
    sweep, other = tiny.with_name("sweep.yaml"), tiny.with_name("other.yaml")
    sweep.write_text("name: s\nbase: tiny.yaml\nspace: {variant.alpha: [0, 1]}\n")
    other.write_text("name: o\nbase: sweep.yaml\n")
    for path, place in ((sweep, ""), (other, f"base: {sweep}: ")):
        (sentence,) = problems(path)
        assert sentence.startswith(f"{place}expected an experiment, got a sweep")
        assert "`bacl sweep`" in sentence


@pytest.mark.parametrize(
    "override", ["seeds", "=1", "a..b=1", "stages.heads.recipe.scales.7=1", "name.first=a"]
)
def test_bad_override_is_told(tiny, override):
    with pytest.raises(UsageError, match="--set"):
        load(tiny, [override])


def test_paths_are_meant_from_the_files_folder(tiny, monkeypatch):
    monkeypatch.setenv("PHOTOS", "/photos")
    text = "dataset={format: lvis, train: a/t.json, val: ../v.json, images: $PHOTOS/all}"
    experiment = load(tiny, [text, "detector.weights=w.pth"])
    folder = tiny.parent
    assert experiment.dataset.train == str(folder / "a/t.json")
    assert experiment.dataset.val == str(folder.parent / "v.json")
    assert experiment.dataset.images == "/photos/all"
    assert experiment.detector.weights == str(folder / "w.pth")
    resnet = ["detector.weights=torchvision", "detector.backbone=resnet50"]
    assert load(tiny, resnet).detector.weights == "torchvision"


def test_path_that_is_no_text_is_refused(tiny, monkeypatch):
    monkeypatch.setenv("PHOTOS", os.fsdecode(b"/photos/\xff"))
    texts = "dataset={format: lvis, train: a, val: b, images: $PHOTOS}", 'detector.weights="a\\0"'
    assert problems(tiny, *texts) == [
        "dataset.images, detector.weights: expected paths that are text in UTF-8"
    ]


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


def test_paths_of_a_base_are_meant_from_the_bases_folder(tiny):
    folder = tiny.parent / "sub"
    folder.mkdir()
    tiny.write_text(
        tiny.read_text().replace(
            "dataset: {format: embedded, size: small}",
            "dataset: {format: coco, train: t.json, val: $PWD/v.json, images: i}",
        )
    )
    (folder / "other.yaml").write_text("base: ../tiny.yaml\nname: other\n")
    assert load(folder / "other.yaml").dataset.train == str(tiny.parent / "t.json")


def test_file_of_the_paper_is_meant_from_the_folder_that_names_it(tiny):
    folder = tiny.parent / "sub"
    folder.mkdir()
    tiny.write_text(tiny.read_text() + "paper: {file: numbers.yaml, table: XIII, column: one}\n")
    other = folder / "other.yaml"
    other.write_text("base: ../tiny.yaml\nname: other\npaper: {column: two}\n")
    paper = load(other).paper
    assert (paper.file, paper.column) == (str(tiny.parent / "numbers.yaml"), "two")
    assert problems(other, "paper.tabel=X") == [
        "paper.tabel: unknown field, did you mean `table`?",
    ]


def test_base_that_leads_back_is_refused(tiny):
    tiny.write_text("base: tiny.yaml\n")
    with pytest.raises(UsageError, match="which leads back here"):
        load(tiny)


FOLDER = Path(__file__).parents[3] / "experiments"
EXPERIMENTS = sorted(
    path
    for path in FOLDER.rglob("*.yaml")
    if path.name != "paper.yaml" and FOLDER / "sweeps" not in path.parents
)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_file_of_the_project_is_valid(path, monkeypatch):
    for name in ("BACL_DATA", "DATA"):
        monkeypatch.setenv(name, "/data")
    assert load(path).stages
