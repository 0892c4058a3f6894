"""`bacl data`: what a user sees of preparing, verifying and counting."""

import functools
import hashlib
import http.server
import json
import threading
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from bacl.datasets.sources import NAMED, Archive, Named
from bacl.datasets.stats import stats
from bacl.settings import Dataset, Groups
from bacl_platform.cli import main as cli
from bacl_platform.report.plots.long_tail import long_tail
from bacl_platform.report.plots.style import png
from bacl_platform.spec.load import load

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def bacl(*arguments):
    return CliRunner().invoke(cli.app, ["data", *map(str, arguments)], env={"COLUMNS": "200"})


def content(first, count, **image):
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 8, "height": 6, **image}
            for i in range(first, first + count)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [1, 1, 3, 3], "area": 9}
            for i in range(first, first + count)
        ],
        "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "mug"}],
    }


@pytest.fixture
def files(tmp_path) -> Path:
    """A sound data set as plain files."""
    folder = tmp_path / "files"
    (folder / "photos").mkdir(parents=True)
    for i in range(1, 6):
        Image.new("RGB", (8, 6), (40 * i, 0, 0)).save(folder / "photos" / f"{i}.jpg")
    (folder / "train.json").write_text(json.dumps(content(1, 3)))
    (folder / "val.json").write_text(json.dumps(content(4, 2)))
    return folder


def named_by(folder) -> list[str]:
    names = ("train", "val")
    return [
        *(word for n in names for word in (f"--{n}", f"{folder}/{n}.json")),
        *("--images", f"{folder}/photos"),
    ]


@pytest.fixture
def shelf(tmp_path, files, monkeypatch) -> Path:
    """Archives of the same; `lvis_v1` is made to consist of them."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        for path in sorted((files / "photos").iterdir()):
            archive.write(path, f"photos/{path.name}")
    lists = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    with zipfile.ZipFile(folder / "json.zip", "w") as archive:
        archive.writestr("train.json", json.dumps(content(1, 3, **lists)))
        archive.writestr("val.json", json.dumps(content(4, 2, **lists)))
    photos = (folder / "photos.zip").read_bytes()
    digest = hashlib.sha256(photos).hexdigest()
    paths = {"train": "annotations/train.json", "val": "annotations/val.json", "images": "photos"}
    named = Named(
        (
            Archive("photos.zip", ["http://x"], len(photos), digest, folder="photos", count=5),
            Archive("json.zip", ["http://x"], None, None, dict.fromkeys(list(paths.values())[:2])),
        ),
        (),
        {"format": "lvis", **paths},
    )
    monkeypatch.setitem(NAMED, "lvis_v1", named)
    return folder


# prepare


def test_dry_run_lists_files_sizes_and_digests_and_changes_nothing(tmp_path):
    result = bacl("prepare", "lvis_v1", "--root", tmp_path / "root", "--dry-run")
    assert result.exit_code == 0, result.output
    for archive in NAMED["lvis_v1"].archives:
        assert archive.name in result.output
        assert f"{archive.size:,} bytes" in result.output
        assert archive.sha256 in result.output
        assert f"to download from {archive.addresses[0]}" in result.output
    assert "to download: 20,566,738,917 bytes; free on the disk of" in result.output
    assert not (tmp_path / "root").exists()


def test_dry_run_says_where_no_digest_is_published(tmp_path):
    result = bacl("prepare", "lvis_v0.5", "--root", tmp_path / "root", "--dry-run")
    assert result.output.count("none published: noted at the first download") == 2
    assert "and 2 archives of unknown size" in result.output


def test_dry_run_says_what_is_there_already(shelf, tmp_path):
    root = tmp_path / "root"
    (root / "archives").mkdir(parents=True)
    (root / "archives/photos.zip.part").write_bytes(b"x" * 100)
    result = bacl("prepare", "lvis_v1", "--root", root, "--dry-run", "--mirror", "http://m/")
    assert "to download from http://m/photos.zip, 100 bytes are there" in result.output
    result = bacl("prepare", "lvis_v1", "--root", root, "--dry-run", "--offline", shelf)
    assert f"to take from {shelf}/json.zip" in result.output
    bacl("prepare", "lvis_v1", "--root", root, "--offline", shelf)
    result = bacl("prepare", "lvis_v1", "--root", root, "--dry-run")
    assert "there (5 files)" in result.output
    assert "to download: 0 bytes" in result.output


def test_prepared_set_is_verified_counted_and_found_by_an_experiment(shelf, tmp_path):
    root = tmp_path / "root"
    result = bacl("prepare", "lvis_v1", "--root", root, "--offline", shelf)
    assert result.exit_code == 0, result.output
    assert f"dataset: {{format: lvis_v1, root: {root}}}" in result.output
    result = bacl("verify", "lvis_v1", "--root", root)
    assert (result.exit_code, result.output) == (
        0,
        "0 problems, 0 remarks; 5 images checked by decoding them\n",
    )
    result = bacl("stats", "lvis_v1", "--root", root, "--json")
    assert json.loads(result.output)["train"]["instances"] == 3

    experiment = tmp_path / "e.yaml"
    text = (EXPERIMENTS / "photos.yaml").read_text().splitlines()
    lines = [line for line in text if not line.startswith("dataset:")]
    lines.append("dataset: {format: lvis_v1, root: root}")  # relative to the file
    experiment.write_text("\n".join(lines))
    assert load(experiment).dataset.root == str(root)
    result = bacl("verify", experiment, "--quick", "--store", tmp_path / "store")
    assert result.output == "0 problems, 0 remarks; 5 images checked by their headers\n"
    assert not (tmp_path / "store").exists()


def test_mirror_comes_from_the_environment_too(shelf, tmp_path, monkeypatch):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=shelf)
    handler.func.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv("BACL_MIRROR", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("BACL_DATA", str(tmp_path / "root"))
    try:
        result = bacl("prepare", "lvis_v1")
    finally:
        server.shutdown()
        server.server_close()
    assert result.exit_code == 0, result.output
    assert "json.zip: no digest is published for it; got SHA-256" in result.output
    assert (tmp_path / "root/photos/5.jpg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["prepare", "coco"],
            "NAME: expected one of lvis_v0.5, lvis_v1, coco_lt, embedded, got 'coco'",
        ),
        (
            ["prepare", "lvis_v1", "--mirror", "/mnt"],
            "--mirror: expected an address http://... or https://..., got '/mnt'; "
            "for a folder use --offline",
        ),
        (
            ["prepare", "lvis_v1", "--offline", "/none"],
            "/none: expected a folder or file, found none",
        ),
        (["prepare", "lvis_v1", "--authors", "/"], "--authors: expected with coco_lt only"),
        (
            ["verify", "--train=t", "--val=v", "--images=i", "--format=cocos"],
            "--format: expected one of lvis, coco, got 'cocos' (did you mean `coco`?)",
        ),
        (["verify"], "expected one of lvis_v0.5, lvis_v1, coco_lt, embedded, an experiment file"),
        (["stats", "nothing"], "expected one of lvis_v0.5, lvis_v1, coco_lt, embedded or an exper"),
        (["stats", "lvis_v1", "--val", "/a"], "expected either lvis_v1 or --train, --val and"),
        (["verify", "lvis_v1", "--root", "/none"], "/none: expected what `bacl data prepare lv"),
    ],
)
def test_mistakes_are_told_in_a_sentence(arguments, message):
    result = bacl(*arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")
    assert len(result.stderr.splitlines()) == 1


def test_wrong_archive_exits_1(shelf, tmp_path):
    content = bytearray((shelf / "photos.zip").read_bytes())
    content[50] ^= 1
    (shelf / "photos.zip").write_bytes(content)
    result = bacl("prepare", "lvis_v1", "--root", tmp_path / "root", "--offline", shelf)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {shelf}/photos.zip: expected SHA-256 ")


# verify


def test_problems_are_listed_together_and_exit_1(files):
    (files / "photos/1.jpg").unlink()
    (files / "photos/2.jpg").write_bytes(b"")
    result = bacl("verify", *named_by(files), "--workers", 2)
    assert result.exit_code == 1
    assert result.output.replace(f"{files}/", "").splitlines() == [
        "problem: photos: 1 of 3 images of train.json are missing: 1.jpg",
        "problem: photos: 1 image: cannot be read, got an empty file: 2.jpg",
        "2 problems, 0 remarks; 4 images checked by decoding them",
    ]


def test_remarks_do_not_fail(files):
    training = content(1, 3)
    training["annotations"] *= 4
    training["annotations"] = [
        dict(a, id=i, bbox=[1 + i / 10, 1, 3, 3]) for i, a in enumerate(training["annotations"])
    ]
    training["annotations"][0]["bbox"] = [6, 1, 3, 3]
    (files / "train.json").write_text(json.dumps(training))
    result = bacl("verify", *named_by(files))
    assert result.exit_code == 0
    assert result.output.startswith("remark: train.json: 1 annotation: boxes (x, y, width, height")


def test_files_that_were_lost_after_preparation_are_told(shelf, tmp_path):
    root = tmp_path / "root"
    bacl("prepare", "lvis_v1", "--root", root, "--offline", shelf)
    (root / "photos/4.jpg").unlink()
    result = bacl("verify", "lvis_v1", "--root", root)
    assert result.exit_code == 1
    assert "problem: " in result.output and "1 of 5 files of photos.zip are missing" in (
        result.output
    )


# stats


def test_stats_are_printed_and_written(files, tmp_path):
    out = tmp_path / "out"
    result = bacl("stats", *named_by(files), "--out", out)
    assert result.exit_code == 0, result.output
    assert "imbalance: 2 : 1 in instances" in result.output
    assert {path.name for path in out.iterdir()} == {
        "long_tail.png",
        "categories.csv",
        "stats.json",
    }
    assert json.loads((out / "stats.json").read_text())["val"]["images"] == 2
    assert Image.open(out / "long_tail.png").size[0] == 1600


def test_stats_need_no_images(files):
    result = bacl("stats", *named_by(files)[:4], "--json")
    assert json.loads(result.output)["train"]["images_missing"] == 3


def test_stats_of_an_experiments_embedded_set(tmp_path, tiny):
    result = bacl("stats", tiny, "--store", tmp_path / "store", "--json")
    assert result.exit_code == 0, result.output
    assert [g["name"] for g in json.loads(result.output)["groups"]] == ["r", "c", "f"]


@pytest.mark.parametrize("categories", [3, 80])
def test_picture_shows_every_category_in_its_group(tmp_path, categories):
    shown = [(number, 1 + number % 7) for number in range(1, categories + 1)]
    training = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 9, "height": 9} for i in range(9)],
        "annotations": [
            {"id": 100 * c + i, "image_id": i, "category_id": c, "bbox": [0, 0, 5, 5], "area": 25}
            for c, count in shown
            for i in range(count)
        ],
        "categories": [{"id": c, "name": f"name {c}"} for c, _ in shown],
    }
    for name in ("train", "val"):
        (tmp_path / f"{name}.json").write_text(json.dumps(training))
    counted = stats(
        Dataset(
            format="coco",
            train=str(tmp_path / "train.json"),
            val=str(tmp_path / "val.json"),
            images=str(tmp_path),
            groups=Groups(by="instances", bounds=[2, 5], names=["1", "2", "3"]),
        ),
        tmp_path,
    )
    figure = long_tail(counted)
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in axes.containers[0]]
    assert heights == sorted((count for _, count in shown), reverse=True)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert ("name 1" in labels) == (categories == 3)
    assert png(figure).startswith(b"\x89PNG")
