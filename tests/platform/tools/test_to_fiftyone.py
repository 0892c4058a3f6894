"""`bacl data export --to fiftyone`: boxes, masks and scores as FiftyOne has them; what is refused.

FiftyOne itself was tried by hand (docs/guides/looking-at-data.md), because it needs a database
server.
"""

import base64
import io
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco
from typer.testing import CliRunner

from bacl.datasets.index import Index
from bacl.evaluation import Detections
from bacl_platform.cli import main as cli
from bacl_platform.console import Console
from bacl_platform.tools.to_fiftyone import export

APS = {("features", 0): 0.0, ("bacl", 0): 1.0, ("softmax", 0): 0.4}


def bacl(*words):
    words = ["data", "export", *words, "--to", "fiftyone"]
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def trained(planned, fill):
    plan = planned()
    fill(plan.jobs, APS)
    return plan


def samples_of(folder):
    return json.loads((folder / "samples.json").read_text())["samples"]


def mask_of(detection):
    """A mask as FiftyOne's `deserialize_numpy_array` unpacks it."""
    packed = detection["mask"]["$binary"]["base64"]
    return np.load(io.BytesIO(zlib.decompress(base64.b64decode(packed))))


def test_truth_has_the_files_boxes_and_masks(tiny, store, prepared, tmp_path):
    out = tmp_path / "out"
    done = bacl(tiny, "--store", store.root, "--out", out)
    assert done.exit_code == 0, done.stderr
    content = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))
    samples = samples_of(out)
    assert len(samples) == len(content["images"])
    for image, sample in zip(content["images"], samples, strict=True):
        with Image.open(sample["filepath"]) as opened:
            assert opened.size == (image["width"], image["height"])
        facts = {"_cls": "ImageMetadata", "width": image["width"], "height": image["height"]}
        assert sample["metadata"] == facts and sample["tags"] == ["val"]
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        found = sample["ground_truth"]["detections"]
        for detection, annotation in zip(found, own, strict=True):
            category = prepared.categories[annotation["category_id"]]
            assert (detection["label"], detection["group"]) == (category.name, category.frequency)
            x, y, width, height = annotation["bbox"]
            relative = np.divide(annotation["bbox"], 2 * [image["width"], image["height"]])
            assert detection["bounding_box"] == pytest.approx(relative.tolist())
            outlines = coco.frPyObjects(annotation["segmentation"], image["height"], image["width"])
            whole = coco.decode(coco.merge(outlines))
            mask = mask_of(detection)
            assert mask.dtype == bool
            assert mask.shape == (
                round(y + height) - round(y),
                round(x + width) - round(x),
            )
            # the box holds the mask, but for what a pixel on the border may have of it
            assert abs(int(mask.sum()) - int(whole.sum())) <= sum(mask.shape)
            assert np.array_equal(mask, whole[round(y) :, round(x) :][: len(mask), : mask.shape[1]])
    info = json.loads((out / "metadata.json").read_text())["info"]
    assert info["default_classes"] == [category.name for category in prepared.categories]


def test_detections_of_variants_stand_beside(tiny, trained, store, prepared, tmp_path):
    out = tmp_path / "out"
    words = [tiny, "--store", store.root, "--out", out, "--variant", "bacl", "--variant", "softmax"]
    done = bacl(*words, "--score-threshold", 0.6)
    assert done.exit_code == 0, done.stderr
    samples = samples_of(out)
    folder = store.entry(trained.jobs[1].key) / "variants"
    for variant in ("bacl", "softmax"):
        rows = [
            row
            for row in pq.read_table(folder / variant / "detections.parquet").to_pylist()
            if row["score"] >= 0.6
        ]
        written = [
            (place, name_, *box, score)
            for place, sample in enumerate(samples)
            for name_, box, score in (
                (one["label"], one["bounding_box"], one["confidence"])
                for one in sample[f"predictions_{variant}"]["detections"]
            )
        ]
        expected = []
        for row in rows:
            size = samples[row["image"]]["metadata"]
            box = (
                *(row["x"] / size["width"], row["y"] / size["height"]),
                *(row["width"] / size["width"], row["height"] / size["height"]),
            )
            name = prepared.categories[row["label"]].name
            expected.append((row["image"], name, *box, row["score"]))
        assert rows and sorted(written) == sorted(expected)
        assert f"{len(rows)} of {variant}" in done.stdout


def test_masks_of_detections_are_cut_to_their_boxes(prepared, tmp_path):
    entry = Index(prepared.val.index).image(3)
    pixels = np.zeros((entry.height, entry.width), dtype=np.uint8, order="F")
    pixels[10:14, 20:30] = 1
    counts = np.array([coco.encode(pixels)["counts"]] * 2, dtype=object)
    boxes = np.array([[20, 8, 10, 6], [20.2, 8.1, 0.1, 0.1]])
    found = Detections(np.array([3, 3]), np.array([1, 1]), np.array([0.5, 0.4]), boxes, counts)
    out = tmp_path / "out"
    export(prepared, "val", {"a-b": found}, "x", out, False, 0, Console(quiet=True))
    first, second = samples_of(out)[3]["predictions_a_b"]["detections"]
    mask = mask_of(first)
    assert mask.shape == (6, 10) and not mask[:2].any() and mask[2:].all()
    assert "mask" not in second  # its box has no pixel


def test_copied_images_make_the_folder_one_that_can_be_moved(tiny, store, prepared, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):  # written again over what is its own
        done = bacl(tiny, "--store", store.root, "--out", out, "--copy", "--split", "train")
        assert done.exit_code == 0, done.stderr
    moved = out.rename(tmp_path / "moved")
    samples = samples_of(moved)
    assert len(samples) == prepared.train.image_total
    for sample in samples:
        path = moved / sample["filepath"]
        assert path.is_file() and not Path(sample["filepath"]).is_absolute()
        assert path.read_bytes() == (Path(prepared.train.images) / path.name).read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["--variant", "blac"], 2, "variant: expected one of tiny's (features, bacl, softmax)"),
        (["--variant", "bacl"], 1, "is not in the store"),
        (["--variant", "bacl", "--split", "train"], 2, "--split train: expected val"),
        (["--seed", 1], 2, "--seed: expected with --variant"),
    ],
)
def test_wrong_requests_are_told_and_nothing_is_written(tiny, store, tmp_path, words, code, reason):
    out = tmp_path / "out"
    done = bacl(tiny, "--store", store.root, "--out", out, *words)
    assert (done.exit_code, out.exists()) == (code, False)
    assert reason in done.stderr


def test_folder_with_other_things_is_left_alone(tiny, store, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = bacl(tiny, "--store", store.root, "--out", tmp_path)
    assert done.exit_code == 2
    assert done.stderr == f"error: --out {tmp_path}: expected a new or empty folder\n"
