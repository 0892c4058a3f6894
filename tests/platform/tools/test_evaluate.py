"""`bacl evaluate`: files and detectors get the numbers that a store's own evaluation gives."""

import contextlib
import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mmengine.config import ConfigDict
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

import bacl.register  # noqa: F401

# isort: split
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules

from bacl.datasets.index import Index
from bacl.datasets.plain import plain
from bacl.errors import UsageError
from bacl.export import export_variants
from bacl.metric_names import kind_of
from bacl.results_files import Split
from bacl_platform.analysis.files import result_of_file
from bacl_platform.analysis.results import collect
from bacl_platform.api.experiment import Experiment
from bacl_platform.cli import main as cli
from bacl_platform.tools.evaluate import labels_of


def bacl_(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def finished_study(two_seeds, store, fill, rival_aps):
    """The tiny experiment with two seeds, as trained."""
    fill(two_seeds.jobs, rival_aps)
    return collect(two_seeds, store, "")


def as_results(folder, prepared):
    """A store's detections as COCO's list, with the ids of the annotation file."""
    index = Index(prepared.val.index)
    rows = pq.read_table(folder / "detections.parquet").to_pylist()
    return [
        {
            "image_id": index.image(row["image"]).id,
            "category_id": prepared.categories[row["label"]].id,
            "bbox": [row["x"], row["y"], row["width"], row["height"]],
            "score": row["score"],
        }
        for row in rows
    ]


@pytest.fixture
def results(finished_study, prepared, tmp_path):
    """The detections of softmax's first seed as a results file."""
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(as_results(finished_study.of("softmax")[0].folder, prepared)))
    return path


def test_file_reaches_what_the_same_detections_of_a_store_do(
    finished_study, results, prepared, store, tiny, tmp_path
):
    done = bacl_("evaluate", results, "--data", tiny, "--store", store.root, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    folder = finished_study.of("softmax")[0].folder
    stored = bacl_(
        *("evaluate", folder / "detections.parquet", "--data", tiny, "--store", store.root),
        *("--json", "--name", "theirs"),
    )
    # the digest of the ground truth beside made results is not the split's
    assert "got those of another" in stored.stderr
    (folder / "metrics.json").unlink()
    again = bacl_(
        *("evaluate", folder / "detections.parquet", "--data", tiny, "--store", store.root),
        *("--json", "--name", "theirs"),
    )
    assert found == json.loads(again.stdout)
    assert found["name"] == "theirs" and found["metrics"]["AP"] > 0
    assert set(found["errors"]) == {"Cls", "Loc", "Both", "Dupe", "Bkg", "Miss"}
    assert found["confusions"]  # detections were called by the next category's name
    for pair in found["confusions"]:
        names = [category.name for category in prepared.categories]
        assert names.index(pair["taken_for"]) == (names.index(pair["category"]) + 1) % len(names)


def test_report_of_a_file_is_written_and_printed(results, store, tiny, prepared):
    done = bacl_("evaluate", results, "--data", tiny, "--store", store.root)
    assert done.exit_code == 0, done.output
    assert "theirs" in done.stdout and "*" not in done.stdout
    folder = store.root / "reports/theirs"
    text = (folder / "report.md").read_text()
    for heading in ("## Categories", "## What errors cost", "## Where the AP is lost"):
        assert heading in text
    assert "Checkpoints" not in text
    with (folder / "per_category.csv").open() as file:
        rows = list(csv.DictReader(file))
    result = result_of_file(results, "theirs", prepared)
    assert [float(row["AP theirs"]) for row in rows] == [row["AP"] for row in result.categories]


@pytest.mark.slow
def test_masks_of_a_file_are_analysed_beside_its_boxes(
    finished_study, give_masks, prepared, store, tiny, tmp_path
):
    give_masks(finished_study)
    folder = finished_study.of("softmax")[0].folder
    file = tmp_path / "masks.parquet"
    shutil.copy(folder / "detections.parquet", file)
    done = bacl_("evaluate", file, "--data", tiny, "--store", store.root, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["mask_errors"].keys() == found["errors"].keys()
    # upper thirds of boxes that are right
    assert found["errors"]["Loc"]["AP50"] == 0 < found["mask_errors"]["Loc"]["mask_AP50"]
    assert set(found["mask_errors"]["Loc"]) == {f"mask_{name}" for name in found["errors"]["Loc"]}
    assert all(pair["boxes"] > 0 for pair in found["mask_confusions"])
    text = (store.root / "reports/masks/report.md").read_text()
    for heading in ("## What errors of masks cost", "## Where the mask AP is lost"):
        assert heading in text
    rows = csv.DictReader((store.root / "reports/masks/per_category.csv").open())
    assert [float(row["mask_AP masks"] or -1) for row in rows] == [
        -1 if one["mask_AP"] is None else one["mask_AP"] for one in found["categories"]
    ]


def test_quick_evaluation_analyses_no_errors(results, store, tiny):
    words = ("evaluate", results, "--data", tiny, "--store", store.root, "--quick")
    assert "errors" not in json.loads(bacl_(*words, "--json").stdout)
    assert "What errors cost" not in (store.root / "reports/theirs/report.md").read_text()


def test_dataset_may_be_given_by_its_files(tiny, store, results, tmp_path):
    from bacl_platform.spec.load import load

    dataset = plain(load(tiny).dataset, store.datasets)
    words = [f"--{n}={getattr(dataset, n)}" for n in ("train", "val", "images")]
    by_files = bacl_(
        *("evaluate", results, *words, "--format", "lvis", "--store", tmp_path / "other"),
        *("--quick", "--json"),
    )
    assert by_files.exit_code == 0, by_files.output
    by_name = bacl_(
        *("evaluate", results, "--data", tiny, "--store", store.root, "--quick", "--json")
    )
    assert json.loads(by_files.stdout)["metrics"] == json.loads(by_name.stdout)["metrics"]


def test_file_reaches_what_pycocotools_says(tiny, store, tmp_path):
    """On a dataset in COCO's format, from its own annotation file and the same results file."""
    from bacl_platform.spec.load import load

    dataset = plain(load(tiny).dataset, store.datasets)
    truth = json.loads(Path(dataset.val).read_text(encoding="utf-8"))
    generator = np.random.default_rng(0)
    items = []
    for annotation in truth["annotations"]:
        box = np.array(annotation["bbox"]) + generator.normal(0, 2, 4)
        box[2:] = box[2:].clip(1)
        called = generator.choice([one["id"] for one in truth["categories"]])
        right = generator.random() < 0.8
        items.append(
            {
                "image_id": annotation["image_id"],
                "category_id": annotation["category_id"] if right else int(called),
                "bbox": box.tolist(),
                "score": float(generator.random()),
            }
        )
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps(items))
    words = [f"--{n}={getattr(dataset, n)}" for n in ("train", "val", "images")]
    done = bacl_("evaluate", path, *words, "--store", tmp_path / "other", "--quick", "--json")
    found = json.loads(done.stdout)["metrics"]
    with contextlib.redirect_stdout(io.StringIO()):
        theirs = COCO(dataset.val)
        run = COCOeval(theirs, theirs.loadRes(str(path)), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    expected = dict(zip(("AP", "AP50", "AP75"), run.stats))
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert 0.1 < found["AP"] < 0.9


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["none.json", "--data", "tiny"], "none.json: there is no such file or folder"),
        (["theirs.json"], "expected one of lvis_v0.5"),
        (["theirs.json", "--data", "tiny", "--device", "cpu"], "expected with a checkpoint, got"),
        ([".", "--data", "tiny"], "a folder with checkpoint.pth and config.py"),
    ],
)
def test_words_that_mean_nothing_are_told(results, store, tiny, words, sentence, monkeypatch):
    monkeypatch.chdir(results.parent)
    words = [str(tiny) if word == "tiny" else word for word in words]
    done = bacl_("evaluate", *words, "--store", store.root)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert sentence in line


# Detectors


@pytest.fixture
def exported(planned, prepared, store):
    """The folder of an exported variant of a detector with masks, untrained."""
    (job,) = [job for job in planned("detector.type=mask_rcnn").jobs if job.kind == "classifier"]
    register_all_modules(init_default_scope=True)
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(job.config["model"]))
    model.init_weights()
    folder = store.work(job.key) / "entry/variants"
    export_variants(job.config, model.state_dict(), prepared.categories, folder)
    return folder / "softmax"


def test_checkpoint_is_judged_by_what_it_detects(exported, store, tiny, tmp_path, prepared):
    """Its detections, as a results file, reach the same; boxes and masks."""
    out = tmp_path / "out"
    words = ("--data", tiny, "--store", store.root, "--json", "--quick")
    command = [sys.executable, "-m", "bacl_platform", "evaluate", exported, *words, "--out", out]
    # in a process where nothing has loaded what a detector needs
    done = subprocess.run(
        [*command, "--device", "cpu"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["name"] == "softmax" and "mask_AP" in found["metrics"]
    table = pq.read_table(out / "detections.parquet")
    assert len(table) and "mask" in table.column_names and not (out / ".shards").exists()
    index = Index(prepared.val.index)
    listed = as_results(out, prepared)
    for item, row in zip(listed, table.to_pylist(), strict=True):
        entry = index.image(row["image"])
        size = [entry.height, entry.width]
        item["segmentation"] = {"size": size, "counts": row["mask"].decode()}
    (tmp_path / "softmax.json").write_text(json.dumps(listed))
    again = json.loads(bacl_("evaluate", tmp_path / "softmax.json", *words).stdout)
    limit = 20  # of the detector, which the file's images are full with
    assert (again["fixed_limit"], found["fixed_limit"]) == (limit, None)
    assert f"cut at {limit} per image: softmax" in again["notes"][0]
    known = {n for n in again["metrics"] if "Fixed" not in n and "Pool" not in n}
    assert {n: again["metrics"][n] for n in known} == {n: found["metrics"][n] for n in known}
    # masks are not made of what lies beyond the limit
    of_masks = set(again["metrics"]) - set(found["metrics"])
    assert {kind_of(name) for name in of_masks} == {"mask_APFixed", "mask_APPool"}
    beside = bacl_("evaluate", out / "detections.parquet", *words, "--name", "softmax")
    assert json.loads(beside.stdout) == found


@pytest.mark.slow
def test_checkpoint_without_a_configuration_is_taken_in_as_the_experiments_detector(
    exported, store, tiny, tmp_path
):
    words = ("--data", tiny, "--store", store.root, "--json", "--quick", "--device", "cpu")
    words += ("--set", "detector.type=mask_rcnn", "--name", "one")
    expected = json.loads(bacl_("evaluate", exported, *words).stdout)
    shutil.copy(exported / "checkpoint.pth", tmp_path / "bare.pth")
    done = bacl_("evaluate", tmp_path / "bare.pth", *words)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == expected
    assert "tensors of a checkpoint of mmdet" in done.stderr
    other = bacl_("evaluate", tmp_path / "bare.pth", *words, "--set", "detector.fc_channels=16")
    assert other.exit_code == 1
    (line,) = other.stderr.splitlines()
    assert "the checkpoint is of another detector than `detector` says" in line
    wrong = bacl_("evaluate", tmp_path / "bare.pth", *words, "--source", "keras")
    assert "--source: expected one of mmdet, torchvision, detectron2, bacl_release" in wrong.stderr


def test_categories_are_matched_by_id_and_else_by_name(prepared, tmp_path):
    names = [category.name for category in prepared.categories]
    ids = [category.id for category in prepared.categories]
    label = dict(zip(names, range(len(names))))
    backwards = ["foreign", *names[::-1]]
    assert labels_of(tmp_path, backwards, None, prepared).tolist() == [
        label.get(name, -1) for name in backwards
    ]
    other = [f"other {name}" for name in names]
    assert labels_of(tmp_path, other, ids[::-1], prepared).tolist() == list(label.values())[::-1]
    lacking = f"of the dataset's {len(names)} categories, got one of 2 that lacks {len(names) - 1}"
    with pytest.raises(UsageError, match=f"{lacking} of them \\({names[1]}, {names[2]}"):
        labels_of(tmp_path, [names[0], "foreign"], None, prepared)


@pytest.mark.slow
def test_exported_variant_reaches_what_its_job_did(planned, finished, store, tiny, tmp_path):
    jobs = planned().jobs
    for job in jobs:
        finished(job)
    folder = store.entry(jobs[-1].key) / "variants/softmax"
    copy = tmp_path / "moved"
    copy.mkdir()
    for name in ("checkpoint.pth", "config.py"):
        shutil.copy(folder / name, copy / name)
    out = tmp_path / "out"
    words = ("--data", tiny, "--store", store.root, "--quick", "--device", "cpu")
    done = bacl_("evaluate", copy, *words, "--out", out)
    assert done.exit_code == 0, done.output
    assert (out / "categories.csv").read_bytes() == (folder / "categories.csv").read_bytes()
    found, expected = (json.loads((at / "metrics.json").read_text()) for at in (out, folder))
    # an export may round scores otherwise in their last digit, which errors of calibration show
    known = [
        {name: value for name, value in one.pop("metrics").items() if value is not None}
        for one in (found, expected)
    ]
    assert known[0] == pytest.approx(known[1], rel=1e-6)
    assert found == expected


# Beside variants of a store


def compared(store, *words):
    done = bacl_("compare", *words, "--store", store.root, "--resamples", 20, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_file_is_compared_as_the_variant_that_it_is(finished_study, results, store, tiny):
    seeds = ("--seeds", "0")
    own = compared(store, tiny, "softmax", "bacl", *seeds)
    file = compared(store, results, f"{tiny}:bacl", *seeds)
    assert (file["first"], file["second"]) == ("theirs", "bacl")
    for name, change in own["metrics"].items():
        theirs = file["metrics"][name]
        assert theirs["theirs"] == change["softmax"] and theirs["bacl"] == change["bacl"]
        assert theirs["interval"] == change["interval"]
    assert file["features"] == {"theirs": "file", "bacl": "exact"}


def test_file_is_set_beside_each_seed(finished_study, results, store, tiny):
    found = compared(store, tiny, "bacl", results, "--seeds", "0,1")
    assert list(found["metrics"]["AP"]["by_seed"]) == ["0", "1"]
    assert "theirs is one set of detections, beside each seed's." in found["notes"]


def test_first_is_compared_with_each_other(finished_study, results, store, tiny, tmp_path):
    copy = tmp_path / "copy.json"
    shutil.copy(results, copy)
    found = compared(store, results, copy, f"{tiny}:bacl", "--seeds", "0")
    assert [(one["first"], one["second"]) for one in found] == [
        ("theirs", "copy"),
        ("theirs", "bacl"),
    ]
    assert found[0]["metrics"]["AP"]["difference"] == 0
    alone = compared(store, results, copy, "--data", tiny)
    assert found[0]["metrics"].items() <= alone["metrics"].items()
    assert (store.root / "reports/files/compare_theirs_copy.html").is_file()


def test_variants_of_two_experiments_are_compared_on_their_split(
    finished_study, store, tiny, tmp_path
):
    other = tmp_path / "other.yaml"
    other.write_text("base: tiny.yaml\nname: other\n")  # the same jobs by another name
    found = compared(store, f"{tiny}:softmax", f"{other}:bacl", "--seeds", "0,1")
    assert (found["first"], found["second"]) == ("tiny:softmax", "other:bacl")
    own = compared(store, tiny, "softmax", "bacl", "--seeds", "0,1")
    differences = [found["metrics"][n]["interval"] for n in own["metrics"]]
    assert differences == [change["interval"] for change in own["metrics"].values()]
    assert (store.root / "reports/tiny/compare_tiny_softmax_other_bacl.html").is_file()


def test_trials_of_a_sweep_are_compared_by_their_values(filled, store, tiny):
    sweep = filled()
    path = sweep.file.path
    first, second = (cell.trial.label.replace(", ", ",") for cell in sweep.cells[:2])
    found = compared(store, path, first, second)
    assert (found["first"], found["second"]) == (first, second)
    assert found["metrics"]["AP"][first] != found["metrics"]["AP"][second]
    done = bacl_("compare", path, "alpha=9", second, "--store", store.root)
    assert done.exit_code == 2 and f"expected one of {first}" in done.stderr


def test_another_split_is_refused_with_what_differs(finished_study, store, tiny, tmp_path, fill):
    other = tmp_path / "other.yaml"
    other.write_text("base: tiny.yaml\nname: other\ndataset: {seed: 7}\n")
    fill(
        Experiment.load(other, store=store).jobs().jobs,
        dict.fromkeys([("features", 0), ("bacl", 0), ("softmax", 0)], 0.5),
    )
    done = bacl_(
        *("compare", f"{tiny}:bacl", f"{other}:bacl", "--store", store.root, "--seeds", "0")
    )
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert "tiny:bacl and other:bacl: expected the same validation split, got two that" in line
    assert "compare variants whose experiments name the same `dataset.val`" in line


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["tiny", "softmax"], "expected two or more to compare, got 1"),
        (["tiny", "softmax", "softmax"], "expected two different variants, got softmax twice"),
        (["tiny", "softmax", "nobody"], "expected one of features, bacl, softmax that the store"),
        (["softmax", "bacl"], "softmax: expected FILE.yaml:VARIANT, a results file"),
        (["theirs.json", "tiny"], "expected a variant of it as well"),
        (["theirs.json", "none.json"], "expected the dataset that the files are of: --data"),
        (["tiny", "softmax", "none.json"], "none.json: there is no such file"),
    ],
)
def test_words_that_cannot_be_compared_are_told(
    finished_study, results, store, tiny, words, sentence, monkeypatch
):
    monkeypatch.chdir(results.parent)
    words = [tiny.name if word == "tiny" else word for word in words]
    done = bacl_("compare", *words, "--store", store.root, "--seeds", "0,1")
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert sentence in line


def test_results_of_other_images_are_told_with_how_many(results, store, tiny):
    items = json.loads(results.read_text())
    for item in items[:3]:
        item["image_id"] += 10**6
    results.write_text(json.dumps(items))
    done = bacl_("evaluate", results, "--data", tiny, "--store", store.root)
    assert done.exit_code == 2
    (line,) = done.stderr.splitlines()
    assert f"in 3 of {len(items)} detections: give the dataset" in line


def test_split_of_a_dataset_has_the_files_ids(prepared):
    split = Split.of(prepared)
    content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    index = Index(prepared.val.index)
    assert list(split.images) == [index.image(k).id for k in range(len(content["images"]))]
    assert np.array_equal(split.categories, [category.id for category in prepared.categories])
