"""Experiment files: what they are loaded to, and the sentence that each mistake gets."""

import os
from pathlib import Path

import pytest
import yaml

from bacl.method_settings.registry import METHODS
from bacl.settings import FROZEN_TRUNK
from bacl_platform.spec.load import load
from bacl_platform.spec.yaml_files import assign, data_paths


def test_valid_file_is_read_with_the_defaults_of_the_paper(tiny):
    experiment = load(tiny)
    heads = experiment.stages["heads"]
    assert list(heads.variants) == ["bacl", "softmax"]
    assert heads.variants["bacl"].alpha == 0.85
    assert heads.freeze == list(FROZEN_TRUNK)
    assert experiment.stages["features"].classifier.method == "bce"
    assert experiment.seeds == [0]


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
            "detector.backbone: expected one of tiny, resnet50, resnet101, resnext101, swin_t, "
            "swin_s, swin_b, convnext_t, convnext_s, convnext_b, mobilenet_v2, "
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
            "stages.heads.after: expected the name of a stage, got nothing",
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
            "stages.heads.recipe.decoder=nvjpeg",
            "stages.heads.recipe.decoder: expected cpu without GPUs (resources.gpus is 0), got "
            "'nvjpeg'",
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
def test_mistake_gets_a_sentence_that_names_the_field(tiny, override, sentence, problems):
    assert sentence in problems(tiny, override)


def test_several_mistakes_are_told_together(tiny, problems):
    found = problems(
        tiny, "detector.backbone=vgg", "stages.heads.after=nowhere", "stages.heads.kind=heads"
    )
    assert {line.split(":")[0] for line in found} == {
        "detector.backbone",
        "stages.heads.after",
        "stages.heads.kind",
    }


def test_representation_stage_with_variants_is_told_what_to_do(tiny, problems):
    (sentence,) = problems(tiny, "stages.features.variants={}")
    assert sentence.startswith("stages.features.variants: expected no such field")
    assert "`kind: classifier`" in sentence


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


def test_mistake_in_a_base_names_the_base(tiny, problems):
    first, second = tiny.with_name("first.yaml"), tiny.with_name("second.yaml")
    first.write_text("base: second.yaml\nname: a\nseeds: 5\n")
    second.write_text("base: tiny.yaml\nname: b\ndetector: {backbone: vgg}\n")
    seeds, backbone = problems(first)
    assert seeds.startswith("seeds: expected a list") and "base" not in seeds
    assert backbone == (
        "detector.backbone: expected one of tiny, resnet50, resnet101, resnext101, swin_t, swin_s, "
        "swin_b, convnext_t, convnext_s, convnext_b, mobilenet_v2, "
        f"got 'vgg' (in its base {second})"
    )
    (own,) = problems(first, "seeds=[0]", "detector.backbone=fcn")
    assert own.endswith("got 'fcn'")


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


def test_path_that_is_no_text_is_refused(tiny, monkeypatch, problems):
    monkeypatch.setenv("PHOTOS", os.fsdecode(b"/photos/\xff"))
    texts = "dataset={format: lvis, train: a, val: b, images: $PHOTOS}", 'detector.weights="a\\0"'
    assert problems(tiny, *texts) == [
        "dataset.images, detector.weights: expected paths that are text in UTF-8"
    ]


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


def test_file_of_the_paper_is_meant_from_the_folder_that_names_it(tiny, problems):
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


FOLDER = Path(__file__).parents[3] / "experiments"

EXPERIMENTS = sorted(
    path
    for path in FOLDER.rglob("*.yaml")
    if path.name != "paper.yaml" and FOLDER / "sweeps" not in path.parents
)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_file_of_the_project_is_valid(path, monkeypatch):
    for name in ("BACL_DATA", "DATA", "CHECKPOINT"):
        monkeypatch.setenv(name, "/data")
    assert load(path).stages
