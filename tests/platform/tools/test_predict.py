"""`bacl predict`: what is drawn and written, and what a bad image or checkpoint gets."""

import csv
import functools
import http.server
import json
import os
import re
import shutil
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from typer.testing import CliRunner

from bacl.errors import RunError, UsageError
from bacl.metric_names import CALIBRATION, FIXED, POOL, kind_of
from bacl_platform import tools
from bacl_platform.cli import main as cli
from bacl_platform.inference.detector import WAITING, Detector
from bacl_platform.inference.exported import exported


@pytest.fixture
def image(tmp_path):
    return picture(tmp_path / "photo.jpg", (96, 64))


def picture(path, size):
    path.parent.mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path


def predict(*words, catch=False):
    words = ["predict", *words, "--device", "cpu"]
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=catch)


def all_of(variant, out):
    """Words that write all that a variant detects to a folder."""
    return ["--checkpoint", variant / "checkpoint.pth", "--out", out, "--score-threshold", 0]


def errors(done):
    return [line.removeprefix("error: ") for line in done.stderr.splitlines()]


def test_masks_are_drawn_and_written(tiny, planned, publish_untrained, store, image, tmp_path):
    masks = "detector.type=mask_rcnn"
    publish_untrained(planned(masks).jobs[1])
    out = tmp_path / "out"
    words = [image, "--run", tiny, "--variant", "softmax", "--store", store.root, "--set", masks]
    done = predict(*words, "--out", out, "--score-threshold", 0)
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads((out / "predictions.json").read_text())["images"]
    assert found["detections"]
    areas = []
    for detection in found["detections"]:
        decoded = coco.decode(detection["mask"])
        assert decoded.shape == (64, 96)
        rows, columns = np.nonzero(decoded)
        areas.append(len(rows))
        if len(rows):  # a mask lies in its box, to a pixel
            x1, y1, x2, y2 = detection["box"]
            assert x1 - 1 <= columns.min() and columns.max() <= x2 + 1
            assert y1 - 1 <= rows.min() and rows.max() <= y2 + 1
    assert max(areas) > 0
    assert Image.open(out / "photo.png").size == (96 * 7, 64 * 7)


def test_detections_of_a_run_are_drawn_and_written(
    tiny, store, exported_variant, image, tmp_path, odd_categories
):
    out = tmp_path / "out"
    done = predict(
        *[image, "--run", tiny, "--variant", "softmax", "--store", store.root],
        *["--out", out, "--score-threshold", 0],
    )
    assert done.exit_code == 0, done.stderr
    assert f"in 1 image: pictures and predictions.json in {out}" in done.stdout
    content = json.loads((out / "predictions.json").read_text())
    assert content["checkpoint"] == str(exported_variant / "checkpoint.pth")
    (found,) = content["images"]
    assert (found["image"], found["picture"]) == (str(image), "photo.png")
    assert 0 < len(found["detections"]) <= 20
    for detection in found["detections"]:
        category = odd_categories[detection["label"]]
        assert (detection["category_id"], detection["category"]) == (category.id, category.name)
        x1, y1, x2, y2 = detection["box"]
        assert 0 <= x1 <= x2 <= 96 and 0 <= y1 <= y2 <= 64
        assert 0.01 <= detection["score"] <= 1
    assert Image.open(out / "photo.png").size == (96 * 7, 64 * 7)


def test_picture_and_boxes_are_of_what_a_viewer_shows(exported_variant, tmp_path):
    """A WebP to be turned and a picture of 12 bits in 16, beside plain files of the same."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 8
    images = {
        name: tmp_path / name for name in ("turned.webp", "deep.png", "plain.png", "grey.png")
    }
    Image.fromarray(noise).save(images["turned.webp"], lossless=True, exif=exif)
    Image.fromarray(np.rot90(noise)).save(images["plain.png"])
    Image.fromarray((noise[..., 0].astype(np.uint16) << 4) + 7).save(images["deep.png"])
    Image.fromarray(noise[..., 0]).save(images["grey.png"])
    out = tmp_path / "out"
    checkpoint = ["--checkpoint", exported_variant / "checkpoint.pth", "--out", out]
    done = predict(*images.values(), *checkpoint, "--score-threshold", 0)
    assert done.exit_code == 0, done.stderr
    written = json.loads((out / "predictions.json").read_text())["images"]
    found = {image["picture"]: image["detections"] for image in written}
    for one, other in (("turned", "plain"), ("deep", "grey")):
        assert found[f"{one}.png"] == found[f"{other}.png"] != []
        drawn = [np.asarray(Image.open(out / f"{name}.png")) for name in (one, other)]
        assert np.array_equal(*drawn)
    assert Image.open(out / "turned.png").size == (64 * 7, 96 * 7)


def test_threshold_leaves_out_lower_scores(exported_variant, image, tmp_path):
    checkpoint = ["--checkpoint", exported_variant / "checkpoint.pth", "--out", tmp_path / "out"]
    predict(image, *checkpoint, "--score-threshold", 0)
    path = tmp_path / "out/predictions.json"
    scores = [d["score"] for d in json.loads(path.read_text())["images"][0]["detections"]]
    middle = sorted(scores)[len(scores) // 2]
    predict(image, *checkpoint, "--score-threshold", middle)
    kept = [d["score"] for d in json.loads(path.read_text())["images"][0]["detections"]]
    assert kept == [score for score in scores if score >= middle]
    assert len(kept) < len(scores)


def moved(exported_variant, folder):
    """The path of a checkpoint that was copied with its configuration and nothing else."""
    for name in ("checkpoint.pth", "config.py"):
        shutil.copy(exported_variant / name, folder / name)
    return folder / "checkpoint.pth"


def detections_of(checkpoint, image, out):
    done = predict(image, "--checkpoint", checkpoint, "--out", out, "--score-threshold", 0)
    assert done.exit_code == 0, done.stderr
    found = json.loads((out / "predictions.json").read_text())["images"][0]["detections"]
    assert found
    return found


def test_checkpoint_away_from_its_store_has_names_and_ids(
    exported_variant, image, tmp_path, odd_categories
):
    for found in detections_of(moved(exported_variant, tmp_path), image, tmp_path / "out"):
        category = odd_categories[found["label"]]
        assert (found["category"], found["category_id"]) == (category.name, category.id)


def test_checkpoint_that_came_without_ids_has_names_alone(
    exported_variant, image, tmp_path, odd_categories
):
    checkpoint = moved(exported_variant, tmp_path)
    content = torch.load(checkpoint, weights_only=True)
    del content["meta"]["dataset_meta"]["category_ids"]
    torch.save(content, checkpoint)
    for found in detections_of(checkpoint, image, tmp_path / "out"):
        assert found["category"] == odd_categories[found["label"]].name
        assert found["category_id"] is None


def test_images_of_equal_stem_get_a_picture_each(exported_variant, tmp_path):
    images = [picture(tmp_path / folder / "a.png", (40, 40)) for folder in ("one", "two")]
    out = tmp_path / "out"
    done = predict(
        *images, images[0], "--checkpoint", exported_variant / "checkpoint.pth", "--out", out
    )
    assert done.exit_code == 0
    written = json.loads((out / "predictions.json").read_text())["images"]
    assert [(i["image"], i["picture"]) for i in written] == [
        (str(images[0]), "a.png"),
        (str(images[1]), "a_2.png"),
    ]
    assert (out / "a_2.png").is_file()


def test_unusable_images_are_listed_together_before_anything_runs(
    exported_variant, image, tmp_path
):
    whole = image.read_bytes()
    bad = {
        "missing.jpg": "expected a readable image, got no such file",
        "text.png": "expected a readable image, got none of JPEG, PNG, WEBP",
        "cut.jpg": "expected a readable image, got a JPEG that is truncated, damaged or",
        "folder": "expected a folder with images or videos in it, found none",
    }
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "folder").mkdir()
    out = tmp_path / "out"
    names = [tmp_path / name for name in bad]
    done = predict(image, *names, "--checkpoint", exported_variant / "checkpoint.pth", "--out", out)
    assert done.exit_code == 2
    assert len(errors(done)) == len(bad)
    for line, (name, reason) in zip(errors(done), bad.items(), strict=True):
        assert line.startswith(f"{tmp_path / name}: {reason}")
    assert not out.exists()


def test_picture_never_replaces_an_image(exported_variant, tmp_path):
    image = picture(tmp_path / "in/a.png", (40, 40))
    before = image.read_bytes()
    done = predict(
        image, "--checkpoint", exported_variant / "checkpoint.pth", "--out", image.parent
    )
    assert done.exit_code == 2
    assert errors(done) == [
        f"--out {image.parent}: expected another folder: {image} would be overwritten"
    ]
    assert image.read_bytes() == before


def test_unknown_variant_is_told_with_those_there_are(planned, store, exported_variant):
    for given in ("blac", None):
        with pytest.raises(UsageError, match=r"variant: .* \(features, bacl, softmax\), got"):
            exported(planned(), store, given, "bacl run tiny.yaml")


def test_variant_that_has_not_run_is_told_with_what_to_run(planned, store):
    with pytest.raises(RunError, match=r"softmax .* is not in the store .* run `bacl run t.yaml`"):
        exported(planned(), store, "softmax", "bacl run t.yaml")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--run", "a.yaml", "--checkpoint", "b.pth"],
        ["--checkpoint", "b.pth", "--variant", "bacl"],
        ["--run", "a.yaml", "--config", "c.py"],
    ],
)
def test_either_a_run_or_a_checkpoint_is_expected(words):
    done = predict("a.png", *words)
    assert done.exit_code == 2
    assert "expected" in errors(done)[0]


class _Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_checkpoint_that_holds_code_is_refused_and_not_run(
    exported_variant, image, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "meta": _Attack()}, tmp_path / "bad.pth")
    done = predict(image, "--checkpoint", "bad.pth", "--config", exported_variant / "config.py")
    assert done.exit_code == 1
    assert errors(done)[0].startswith("bad.pth: expected a whole checkpoint")
    assert not (tmp_path / "attacked").exists()


def test_device_that_is_not_there_is_told(exported_variant, image, tmp_path):
    words = [
        "predict",
        image,
        "--checkpoint",
        exported_variant / "checkpoint.pth",
        "--device",
        "nowhere",
    ]
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 2
    assert errors(done)[0].startswith("device nowhere: expected a device of this machine")


# Many images


@pytest.fixture
def photos(tmp_path):
    """A folder of images in two sizes, of which one cannot be read."""
    for number in range(6):
        picture(tmp_path / "photos" / f"{number}.png", ((64, 48), (48, 64))[number % 2])
    (tmp_path / "photos/broken.jpg").write_bytes(b"no image")
    return tmp_path / "photos"


@pytest.fixture
def passed(monkeypatch):
    """The sizes (height, width) of all images that go through a detector."""
    seen = []
    instances = Detector.instances

    def noting(self, images, batch=8):
        def noted():
            for pixels in images:
                seen.append(pixels.shape[:2])
                yield pixels

        return instances(self, noted(), batch)

    monkeypatch.setattr(Detector, "instances", noting)
    return seen


def pictures_in(out):
    return {path.name: path.read_bytes() for path in out.glob("*.png")}


def content_of(out):
    return json.loads((out / "predictions.json").read_text())


def test_unreadable_image_of_a_folder_is_named_and_the_others_are_done(
    exported_variant, photos, tmp_path
):
    out = tmp_path / "out"
    done = predict(photos, "--checkpoint", exported_variant / "checkpoint.pth", "--out", out)
    assert done.exit_code == 1
    broken = photos / "broken.jpg"
    assert f"left out: {broken}: expected a readable image, got none of" in done.stdout
    assert errors(done) == [
        f"1 of 7 could not be read and are left out ({broken}); all else is done"
    ]
    assert [one["image"] for one in content_of(out)["images"]] == [
        str(photos / f"{number}.png") for number in range(6)
    ]
    assert sorted(pictures_in(out)) == [f"{number}.png" for number in range(6)]


def test_image_that_the_detector_refuses_is_named_and_the_others_are_done(
    exported_variant, photos, tmp_path
):
    for number in (1, 4):
        Image.new("RGB", (2, 4000)).save(photos / f"{number}.png")  # nothing is left of its width
    out = tmp_path / "out"
    words = ["--checkpoint", exported_variant / "checkpoint.pth", "--out", out, "--batch", 2]
    done = predict(photos, *words, "--score-threshold", 0)
    assert done.exit_code == 1
    for number in (1, 4):
        reason = "expected an image that has pixels left when it is scaled for the detector"
        assert f"left out: {photos}/{number}.png: {reason}, got 2 x 4000" in done.stdout
    assert "3 of 7 could not be read" in errors(done)[0]
    images = content_of(out)["images"]
    assert [Path(one["image"]).name for one in images] == ["0.png", "2.png", "3.png", "5.png"]
    single = tmp_path / "single"
    predict(photos / "3.png", *words[:2], "--out", single, "--score-threshold", 0)
    (same,) = content_of(single)["images"]
    assert images[2]["detections"] == same["detections"] != []


def test_batches_find_what_single_images_do(exported_variant, photos, tmp_path, passed):
    (photos / "broken.jpg").unlink()
    found = []
    for batch in (1, 4):
        out = tmp_path / f"out{batch}"
        words = [
            "--checkpoint",
            exported_variant / "checkpoint.pth",
            "--out",
            out,
            "--batch",
            batch,
        ]
        assert predict(photos, *words, "--score-threshold", 0).exit_code == 0
        found.append(content_of(out)["images"])
    for one, other in zip(*found, strict=True):
        assert (one["image"], one["picture"]) == (other["image"], other["picture"])
        assert len(one["detections"]) == len(other["detections"]) > 0
        for ours, theirs in zip(one["detections"], other["detections"], strict=True):
            assert ours["label"] == theirs["label"]
            assert ours["box"] == pytest.approx(theirs["box"], abs=1e-2)
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-4)


def test_same_command_goes_on_where_it_was_stopped(
    exported_variant, photos, tmp_path, passed, monkeypatch
):
    (photos / "broken.jpg").unlink()
    whole, out = tmp_path / "whole", tmp_path / "out"
    words = [
        "--checkpoint",
        exported_variant / "checkpoint.pth",
        "--score-threshold",
        0,
        "--batch",
        1,
    ]
    predict(photos, *words, "--out", whole)
    passed.clear()

    add = tools.journal.Journal.add

    def stopping(self, name, *facts):
        if name.endswith("3.png"):
            raise KeyboardInterrupt
        add(self, name, *facts)

    monkeypatch.setattr(tools.journal.Journal, "add", stopping)
    done = predict(photos, *words, "--out", out)
    assert done.exit_code == 130
    assert not (out / "predictions.json").exists()
    monkeypatch.setattr(tools.journal.Journal, "add", add)
    passed.clear()
    done = predict(photos, *words, "--out", out)
    assert done.exit_code == 0, done.stderr
    assert len(passed) == 3
    assert "3 were done before, 3 now" in done.stdout
    assert content_of(out) == content_of(whole)
    assert pictures_in(out) == pictures_in(whole)


def test_changed_images_and_settings_are_done_anew(exported_variant, photos, tmp_path, passed):
    (photos / "broken.jpg").unlink()
    words = ["--out", tmp_path / "out", "--no-pictures", "--score-threshold", 0]
    predict(photos, *words, "--checkpoint", exported_variant / "checkpoint.pth")
    Image.new("RGB", (80, 40)).save(photos / "2.png")
    picture(photos / "6.png", (64, 48))
    passed.clear()
    predict(photos, *words, "--checkpoint", exported_variant / "checkpoint.pth")
    assert passed == [(40, 80), (48, 64)]
    assert len(content_of(tmp_path / "out")["images"]) == 7
    passed.clear()
    done = predict(photos, *words[:3], "--checkpoint", exported_variant / "checkpoint.pth")
    assert len(passed) == 7 and "is done anew" in done.stdout
    content = torch.load(exported_variant / "checkpoint.pth", weights_only=True)
    content["state_dict"]["roi_head.bbox_head.fc_cls.bias"] += 0.1
    torch.save(content, tmp_path / "checkpoint.pth")
    shutil.copy(exported_variant / "config.py", tmp_path)
    passed.clear()
    predict(photos, *words[:3], "--checkpoint", tmp_path / "checkpoint.pth")
    assert len(passed) == 7


def test_memory_holds_few_images_at_a_time(exported_variant, tmp_path, monkeypatch):
    for number in range(40):
        picture(tmp_path / "photos" / f"{number:02}.png", (32 + 16 * (number % 3), 32))
    read = most = noted = 0
    as_pixels, add = tools.predict.as_pixels, tools.journal.Journal.add

    def reading(image):
        nonlocal read, most
        read += 1
        most = max(most, read - noted)
        return as_pixels(image)

    def noting(self, *facts):
        nonlocal noted
        noted += 1
        add(self, *facts)

    monkeypatch.setattr(tools.predict, "as_pixels", reading)
    monkeypatch.setattr(tools.journal.Journal, "add", noting)
    words = [
        "--checkpoint",
        exported_variant / "checkpoint.pth",
        "--out",
        tmp_path / "out",
        "--batch",
        2,
    ]
    assert predict(tmp_path / "photos", *words, "--no-pictures").exit_code == 0
    assert (read, noted) == (40, 40)
    assert most <= 2 * WAITING + 1


def test_turned_photograph_is_seen_as_a_viewer_shows_it(exported_variant, tmp_path):
    """A JPEG that EXIF turns, in a folder, beside the same pixels turned already."""
    y, x = np.mgrid[:64, :96]
    pixels = np.stack([x * 2, y * 3, 255 - x], axis=-1).astype(np.uint8)
    pixels[20:44, 10:40] = (250, 20, 30)
    exif = Image.Exif()
    exif[274] = 6
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "turned.jpg", exif=exif, quality=95)
    decoded = np.asarray(Image.open(folder / "turned.jpg"))  # as stored
    Image.fromarray(np.rot90(decoded, -1)).save(folder / "upright.png")
    out = tmp_path / "out"
    words = all_of(exported_variant, out)
    assert predict(folder, *words).exit_code == 0
    turned, upright = content_of(out)["images"]
    assert turned["detections"] == upright["detections"] != []
    drawn = [np.asarray(Image.open(out / f"{name}.png")) for name in ("turned", "upright")]
    assert drawn[0].shape == (96 * 7, 64 * 7, 3) and np.array_equal(*drawn)


def test_without_pictures_only_files_are_written(exported_variant, photos, tmp_path):
    (photos / "broken.jpg").unlink()
    out = tmp_path / "out"
    words = all_of(exported_variant, out)
    done = predict(photos, *words, "--no-pictures", "--format", "csv", "--format", "json")
    assert done.exit_code == 0, done.stderr
    assert "in 6 images: predictions.csv and predictions.json in" in done.stdout
    assert not pictures_in(out)
    images = content_of(out)["images"]
    assert all(one["picture"] is None for one in images)
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        (one["image"], "", str(d["category_id"]), d["score"], d["box"])
        for one in images
        for d in one["detections"]
    ]
    sides = ("x1", "y1", "x2", "y2")
    assert expected == [
        (r["image"], r["frame"], r["category_id"], float(r["score"]), [float(r[s]) for s in sides])
        for r in rows
    ]
    done = predict(photos, *words)  # now with them
    assert len(pictures_in(out)) == 6 and "6 now" in done.stdout


def test_page_shows_all_pictures_and_what_is_in_them(exported_variant, tmp_path):
    name = "a & <b> #1%.png"
    picture(tmp_path / "photos" / name, (40, 40))
    out = tmp_path / "out"
    words = all_of(exported_variant, out)
    done = predict(tmp_path / "photos", *words, "--format", "html")
    assert done.exit_code == 0, done.stderr
    text = (out / "predictions.html").read_text()
    assert re.findall(r'<img loading="lazy" src="([^"]*)"', text) == [
        "a%20%26%20%3Cb%3E%20%231%25.png"
    ]
    assert (out / name).is_file()
    assert "a &amp; &lt;b&gt; #1%.png: " in text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)


# A dataset's images


@pytest.fixture
def trained(planned, finished):
    """The tiny experiment's jobs, finished."""
    plan = planned()
    for job in plan.jobs:
        finished(job)
    return plan


def evaluated(file, tiny, store):
    words = ["evaluate", file, "--data", tiny, "--store", store.root, "--json", "--quick"]
    done = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)["metrics"]


@pytest.mark.parametrize("kind", ["coco", "lvis"])
def test_results_reach_the_stores_own_numbers(tiny, trained, store, tmp_path, kind):
    out = tmp_path / "out"
    words = ["--run", tiny, "--variant", "softmax", "--store", store.root, "--data", tiny]
    words += ["--out", out, "--no-pictures", "--score-threshold", 0, "--batch", 1]
    done = predict(*words, "--format", kind)
    assert done.exit_code == 0, done.stderr
    folder = store.entry(trained.jobs[1].key) / "variants/softmax"
    own = json.loads((folder / "metrics.json").read_text())["metrics"]
    name = {"coco": "results.json", "lvis": "lvis_results.json"}[kind]
    assert own["AP"] > 0
    # a file has what the limit per image left, of which AP-Fixed and AP-Pool count more
    found = evaluated(out / name, tiny, store)
    unlike = {metric for metric in own if kind_of(metric) in (FIXED, POOL, CALIBRATION)}
    assert found.keys() == own.keys()
    assert all(found[metric] == own[metric] for metric in own.keys() - unlike)
    # scores may differ in their last digit, which errors of calibration show
    assert found["ECE"] == pytest.approx(own["ECE"], rel=1e-6)


def test_images_of_a_dataset_are_known_by_their_names(
    tiny, publish_untrained, planned, store, prepared, tmp_path
):
    publish_untrained(planned().jobs[1])
    names = sorted(path.name for path in Path(prepared.val.images).iterdir())
    content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    files = [image["file_name"] for image in content["images"]]
    copies = tmp_path / "copies"
    copies.mkdir()
    for name in files[:2]:
        shutil.copy(Path(prepared.val.images) / name, copies)
    out = tmp_path / "out"
    words = ["--run", tiny, "--variant", "softmax", "--store", store.root, "--data", tiny]
    words += ["--out", out, "--format", "coco", "--score-threshold", 0]
    done = predict(copies, *words)
    assert done.exit_code == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    from bacl.datasets.index import Index

    index = Index(prepared.val.index)
    ids = {index.image(place).file: index.image(place).id for place in range(len(index))}
    assert {one["image_id"] for one in results} == {ids[name] for name in files[:2]}

    Image.new("RGB", (10, 10)).save(copies / files[1])  # another of its name
    done = predict(copies, *words)
    assert done.exit_code == 1
    assert f"{copies / files[1]}: expected 96 × 96 pixels as the dataset has them" in done.stdout
    results = json.loads((out / "results.json").read_text())
    assert {one["image_id"] for one in results} == {ids[files[0]]}

    others = [name for name in names if name not in files]
    done = predict(
        Path(prepared.val.images) / others[0], *words[:-6], "--out", tmp_path / "x", *words[-4:]
    )
    assert done.exit_code == 2 and not (tmp_path / "x").exists()
    assert "got 1 of 1 that are none or may be several of it" in errors(done)[0]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["a.png", "--format", "coco"], "--format coco: expected --data NAME|FILE"),
        (
            ["a.png", "--format", "xml"],
            "--format: expected one of json, coco, lvis, csv, html, got 'xml'",
        ),
        (["a.png", "--format", "html", "--no-pictures"], "--format html: expected pictures"),
        ([], "expected images, folders, patterns, videos or addresses, got none"),
    ],
)
def test_wrong_requests_are_told_before_anything_runs(tmp_path, monkeypatch, words, reason):
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png", (8, 8))
    done = predict(*words, "--checkpoint", "gone.pth")
    assert done.exit_code == 2
    assert errors(done)[0].startswith(reason)
    assert not (tmp_path / "predictions").exists()


# Videos


def clip(path, count=5, size=(80, 60)):
    path.parent.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, size)
    noise = np.random.default_rng(1).integers(0, 255, (count, *size[::-1], 3), dtype=np.uint8)
    for frame in noise:
        writer.write(frame)
    writer.release()
    return path


def test_video_is_written_with_boxes_and_its_detections_by_frame(
    exported_variant, tmp_path, passed
):
    path, out = clip(tmp_path / "in/clip.avi"), tmp_path / "out"
    words = all_of(exported_variant, out)
    words += ["--batch", 2, "--format", "json", "--format", "csv", "--format", "html"]
    done = predict(path, *words)
    assert done.exit_code == 0, done.stderr
    assert "objects in 1 video: pictures, predictions.json, predictions.csv and" in done.stdout
    assert len(passed) == 5
    (video,) = content_of(out)["videos"]
    assert (video["video"], video["picture"], video["fps"]) == (str(path), "clip.mp4", 10)
    assert content_of(out)["images"] == [] and video["frame_count"] == 5
    lines = [json.loads(line) for line in (out / video["frames"]).read_text().splitlines()]
    assert [(line["frame"], line["seconds"]) for line in lines] == [(n, n / 10) for n in range(5)]

    capture = cv2.VideoCapture(str(path))
    detector = Detector.load(exported_variant / "checkpoint.pth", device="cpu")
    written = cv2.VideoCapture(str(out / "clip.mp4"))
    for line in lines:
        _, frame = capture.read()
        expected = detector.predict(np.ascontiguousarray(frame[..., ::-1]))
        assert line["detections"] == json.loads(json.dumps(expected.as_json()))
        _, shown = written.read()
        drawn = np.asarray(expected.draw())[..., ::-1]
        assert shown.shape == drawn.shape
        # what a codec keeps of noise: boxes are where they were drawn
        assert np.corrcoef(shown.ravel(), drawn.ravel())[0, 1] > 0.8
    assert not written.read()[0]
    with (out / "predictions.csv").open(newline="") as file:
        frames = [int(row["frame"]) for row in csv.DictReader(file)]
    assert frames == [line["frame"] for line in lines for _ in line["detections"]]
    passed.clear()
    done = predict(path, *words)
    assert not passed and "1 were done before, 0 now" in done.stdout


def test_video_of_a_folder_that_cannot_be_decoded_is_named_and_all_else_is_done(
    exported_variant, tmp_path
):
    folder, out = tmp_path / "in", tmp_path / "out"
    clip(folder / "a.avi", 2)
    (folder / "b.mp4").write_bytes(b"no video")
    picture(folder / "c.png", (40, 40))
    done = predict(folder, "--checkpoint", exported_variant / "checkpoint.pth", "--out", out)
    assert done.exit_code == 1
    assert f"left out: {folder}/b.mp4: expected a video that can be decoded" in done.stdout
    assert "in 1 image and 1 video" in done.stdout
    assert (out / "a.mp4").is_file() and (out / "c.png").is_file()
    assert not (out / "b.mp4").exists()


# Addresses


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def site(tmp_path):
    """A folder and the address at which it is served."""
    folder = tmp_path / "site"
    folder.mkdir()
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_images_are_taken_from_addresses(exported_variant, site, tmp_path, passed):
    folder, address = site
    picture(folder / "a.png", (40, 40))
    (folder / "page.html").write_text("<p>no image</p>")
    out = tmp_path / "out"
    words = all_of(exported_variant, out)
    names = [f"{address}/{name}" for name in ("a.png?size=1", "page.html", "gone.png")]
    done = predict(*names, *words)
    assert done.exit_code == 1
    assert f"left out: {names[1]}: expected an image, got none of" in done.stdout
    assert f"left out: {names[2]}: expected an image, got HTTP 404" in done.stdout
    (found,) = content_of(out)["images"]
    assert (found["image"], found["picture"]) == (names[0], "a.png")
    predict(folder / "a.png", *words[:3], tmp_path / "same", *words[4:])
    (same,) = content_of(tmp_path / "same")["images"]
    assert found["detections"] == same["detections"] != []
    passed.clear()
    predict(names[0], *words)
    assert not passed  # it has not changed
    picture(folder / "a.png", (48, 40))
    predict(names[0], *words)
    assert passed == [(40, 48)]
    secret = names[0].replace("://", "://me:pass@")
    assert predict(secret, *words).exit_code == 0
    assert content_of(out)["images"][0]["image"] == names[0].replace("://", "://***@")
    assert not any(b"me:pass" in path.read_bytes() for path in out.iterdir())
