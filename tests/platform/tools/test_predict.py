"""`bacl predict`: what is drawn and written, and what a bad image or checkpoint gets."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from PIL import Image
from pycocotools import mask as coco
from typer.testing import CliRunner

import bacl.register  # noqa: F401

# isort: split
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules

from bacl.errors import RunError, UsageError
from bacl.export import export_variants
from bacl_platform.cli import main as cli
from bacl_platform.tools.predict import Detection, draw, exported, load_detector


@pytest.fixture
def categories(prepared):
    """The prepared ones with ids as annotation files may have them: with gaps, or text."""
    ids = [3, 10**20, *(f"no. {label}" for label in range(2, len(prepared.categories)))]
    return [
        category.model_copy(update={"id": own})
        for category, own in zip(prepared.categories, ids, strict=True)
    ]


@pytest.fixture
def entry(planned, categories, store):
    """The store's entry of a classifier job whose bank has not been trained."""
    return untrained(planned().jobs[1], categories, store)


def untrained(job, categories, store):
    register_all_modules(init_default_scope=True)
    model = MODELS.build(ConfigDict(job.config["model"]))
    torch.manual_seed(0)
    model.init_weights()
    folder = store.work(job.key) / "entry/variants"
    export_variants(job.config, model.state_dict(), categories, folder)
    return store.publish(job.key, folder.parent)


@pytest.fixture
def variant(entry):
    return entry / "variants/softmax"


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


def test_masks_are_drawn_and_written(tiny, planned, store, image, tmp_path, categories):
    masks = "detector.type=mask_rcnn"
    untrained(planned(masks).jobs[1], categories, store)
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


def test_pixels_of_a_mask_have_its_colour_and_others_stay():
    pixels = np.zeros((20, 20), dtype=np.uint8, order="F")
    pixels[12:16, 2:10] = 1
    encoded = coco.encode(pixels)
    mask = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    box = [2.0, 12.0, 10.0, 16.0]
    grey = Image.new("RGB", (20, 20), (100, 100, 100))
    with_mask = np.asarray(draw(grey, [Detection(0, "a", 1, 0.9, box, mask)]), dtype=int)
    without = np.asarray(draw(grey, [Detection(0, "a", 1, 0.9, box)]), dtype=int)
    changed = (with_mask != without).any(axis=2)
    assert changed[13 * 32 + 16, 5 * 32 + 16]  # the image is enlarged 32 times
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 12 * 32 and rows.max() < 16 * 32
    assert columns.min() >= 2 * 32 and columns.max() < 10 * 32
    assert "mask" not in Detection(0, "a", 1, 0.9, box).as_json()


def test_detections_of_a_run_are_drawn_and_written(
    tiny, store, variant, image, tmp_path, categories
):
    out = tmp_path / "out"
    done = predict(
        *[image, "--run", tiny, "--variant", "softmax", "--store", store.root],
        *["--out", out, "--score-threshold", 0],
    )
    assert done.exit_code == 0, done.stderr
    assert f"in 1 images: pictures and predictions.json in {out}" in done.stdout
    content = json.loads((out / "predictions.json").read_text())
    assert content["checkpoint"] == str(variant / "checkpoint.pth")
    (found,) = content["images"]
    assert (found["image"], found["picture"]) == (str(image), "photo.png")
    assert 0 < len(found["detections"]) <= 20
    for detection in found["detections"]:
        category = categories[detection["label"]]
        assert (detection["category_id"], detection["category"]) == (category.id, category.name)
        x1, y1, x2, y2 = detection["box"]
        assert 0 <= x1 <= x2 <= 96 and 0 <= y1 <= y2 <= 64
        assert 0.01 <= detection["score"] <= 1
    assert Image.open(out / "photo.png").size == (96 * 7, 64 * 7)


def test_picture_and_boxes_are_of_what_a_viewer_shows(variant, tmp_path):
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
    checkpoint = ["--checkpoint", variant / "checkpoint.pth", "--out", out]
    done = predict(*images.values(), *checkpoint, "--score-threshold", 0)
    assert done.exit_code == 0, done.stderr
    written = json.loads((out / "predictions.json").read_text())["images"]
    found = {image["picture"]: image["detections"] for image in written}
    for one, other in (("turned", "plain"), ("deep", "grey")):
        assert found[f"{one}.png"] == found[f"{other}.png"] != []
        drawn = [np.asarray(Image.open(out / f"{name}.png")) for name in (one, other)]
        assert np.array_equal(*drawn)
    assert Image.open(out / "turned.png").size == (64 * 7, 96 * 7)


def test_threshold_leaves_out_lower_scores(variant, image, tmp_path):
    checkpoint = ["--checkpoint", variant / "checkpoint.pth", "--out", tmp_path / "out"]
    predict(image, *checkpoint, "--score-threshold", 0)
    path = tmp_path / "out/predictions.json"
    scores = [d["score"] for d in json.loads(path.read_text())["images"][0]["detections"]]
    middle = sorted(scores)[len(scores) // 2]
    predict(image, *checkpoint, "--score-threshold", middle)
    kept = [d["score"] for d in json.loads(path.read_text())["images"][0]["detections"]]
    assert kept == [score for score in scores if score >= middle]
    assert len(kept) < len(scores)


def moved(variant, folder):
    """The path of a checkpoint that was copied with its configuration and nothing else."""
    for name in ("checkpoint.pth", "config.py"):
        shutil.copy(variant / name, folder / name)
    return folder / "checkpoint.pth"


def detections_of(checkpoint, image, out):
    done = predict(image, "--checkpoint", checkpoint, "--out", out, "--score-threshold", 0)
    assert done.exit_code == 0, done.stderr
    found = json.loads((out / "predictions.json").read_text())["images"][0]["detections"]
    assert found
    return found


def test_checkpoint_away_from_its_store_has_names_and_ids(variant, image, tmp_path, categories):
    for found in detections_of(moved(variant, tmp_path), image, tmp_path / "out"):
        category = categories[found["label"]]
        assert (found["category"], found["category_id"]) == (category.name, category.id)


def test_checkpoint_that_came_without_ids_has_names_alone(variant, image, tmp_path, categories):
    checkpoint = moved(variant, tmp_path)
    content = torch.load(checkpoint, weights_only=True)
    del content["meta"]["dataset_meta"]["category_ids"]
    torch.save(content, checkpoint)
    for found in detections_of(checkpoint, image, tmp_path / "out"):
        assert found["category"] == categories[found["label"]].name
        assert found["category_id"] is None


def test_loaded_detector_comes_with_names_and_ids(variant, categories):
    _, classes, ids = load_detector(variant / "config.py", variant / "checkpoint.pth", "cpu")
    assert list(classes) == [category.name for category in categories]
    assert list(ids) == [category.id for category in categories]


def test_names_are_found_where_earlier_versions_of_mmdetection_have_them(variant, tmp_path):
    content = torch.load(variant / "checkpoint.pth", weights_only=True)
    names = content["meta"]["dataset_meta"]["classes"]
    for meta in ({"dataset_meta": {"CLASSES": names}}, {"CLASSES": names}):
        torch.save({**content, "meta": meta}, tmp_path / "old.pth")
        _, classes, ids = load_detector(variant / "config.py", tmp_path / "old.pth", "cpu")
        assert (classes, ids) == (names, None)


def test_images_of_equal_stem_get_a_picture_each(variant, tmp_path):
    images = [picture(tmp_path / folder / "a.png", (40, 40)) for folder in ("one", "two")]
    out = tmp_path / "out"
    done = predict(*images, images[0], "--checkpoint", variant / "checkpoint.pth", "--out", out)
    assert done.exit_code == 0
    written = json.loads((out / "predictions.json").read_text())["images"]
    assert [(i["image"], i["picture"]) for i in written] == [
        (str(images[0]), "a.png"),
        (str(images[1]), "a_2.png"),
    ]
    assert (out / "a_2.png").is_file()


def test_unusable_images_are_listed_together_before_anything_runs(variant, image, tmp_path):
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
    done = predict(image, *names, "--checkpoint", variant / "checkpoint.pth", "--out", out)
    assert done.exit_code == 2
    assert len(errors(done)) == len(bad)
    for line, (name, reason) in zip(errors(done), bad.items(), strict=True):
        assert line.startswith(f"{tmp_path / name}: {reason}")
    assert not out.exists()


def test_picture_never_replaces_an_image(variant, tmp_path):
    image = picture(tmp_path / "in/a.png", (40, 40))
    before = image.read_bytes()
    done = predict(image, "--checkpoint", variant / "checkpoint.pth", "--out", image.parent)
    assert done.exit_code == 2
    assert errors(done) == [
        f"--out {image.parent}: expected another folder: {image} would be overwritten"
    ]
    assert image.read_bytes() == before


def test_unknown_variant_is_told_with_those_there_are(planned, store, entry):
    for given in ("blac", None):
        with pytest.raises(UsageError, match=r"--variant: .* \(features, bacl, softmax\), got"):
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


def test_checkpoint_of_other_categories_is_refused(variant, tmp_path):
    path = variant / "checkpoint.pth"
    content = torch.load(path, weights_only=True)
    head = "roi_head.bbox_head.fc_cls."
    for name in ("weight", "bias"):
        content["state_dict"][head + name] = content["state_dict"][head + name][:4]
    other = tmp_path / "other.pth"
    torch.save(content, other)
    with pytest.raises(RunError, match=r"other.pth: .* with 6 categories, got those of one with 3"):
        load_detector(variant / "config.py", other, "cpu")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c["state_dict"].pop("backbone.conv1.weight"), "got none named backbone.conv1"),
        (lambda c: c["state_dict"].update(new=torch.ones(1)), "got others, such as new"),
        (
            lambda c: c["state_dict"].update({"rpn_head.rpn_cls.bias": torch.ones(5)}),
            r"rpn_head.rpn_cls.bias of shape \(3,\), got \(5,\)",
        ),
        (lambda c: c.pop("meta"), "expected a name for each category .* got 0"),
    ],
)
def test_checkpoint_that_does_not_fit_is_refused(variant, tmp_path, change, reason):
    content = torch.load(variant / "checkpoint.pth", weights_only=True)
    change(content)
    other = tmp_path / "other.pth"
    torch.save(content, other)
    with pytest.raises(RunError, match=reason):
        load_detector(variant / "config.py", other, "cpu")


class _Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_checkpoint_that_holds_code_is_refused_and_not_run(variant, image, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {}, "meta": _Attack()}, tmp_path / "bad.pth")
    done = predict(image, "--checkpoint", "bad.pth", "--config", variant / "config.py")
    assert done.exit_code == 1
    assert errors(done)[0].startswith("bad.pth: expected a whole checkpoint")
    assert not (tmp_path / "attacked").exists()


def test_configuration_that_is_missing_or_broken_is_told(variant, tmp_path):
    with pytest.raises(UsageError, match=r"config.py: .* no such file"):
        load_detector(tmp_path / "config.py", variant / "checkpoint.pth", "cpu")
    (tmp_path / "config.py").write_text("model = dict(type='NoSuchDetector', backbone=dict())\n")
    with pytest.raises(UsageError, match=r"config.py: expected the configuration of a detector"):
        load_detector(tmp_path / "config.py", variant / "checkpoint.pth", "cpu")


def test_device_that_is_not_there_is_told(variant, image, tmp_path):
    words = ["predict", image, "--checkpoint", variant / "checkpoint.pth", "--device", "nowhere"]
    done = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert done.exit_code == 2
    assert errors(done)[0].startswith("--device nowhere: expected a device of this machine")


def test_small_images_are_enlarged_and_boxes_with_them():
    image = Image.new("RGB", (100, 50), "black")
    drawn = draw(image, [Detection(0, "disc", 1, 0.9, [10.0, 20.0, 40.0, 45.0])])
    assert drawn.size == (700, 350)
    pixels = np.asarray(drawn).any(axis=2)
    assert pixels[20 * 7, 10 * 7] and pixels[45 * 7 - 1, 40 * 7 - 1]
    assert not pixels[30 * 7, 25 * 7]
    assert draw(Image.new("RGB", (2000, 1000)), []).size == (2000, 1000)
