"""`bacl predict`: what is drawn and written, and what a bad image or checkpoint gets."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco
from typer.testing import CliRunner

from bacl.errors import RunError, UsageError
from bacl_platform.cli import main as cli
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
    assert f"in 1 images: pictures and predictions.json in {out}" in done.stdout
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
        "folder": "expected an image, got a folder",
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
