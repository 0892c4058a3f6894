"""The embedded set: LVIS v1 format, long-tailed, the same for the same seed."""

import hashlib
import json

import cv2
import numpy as np
import pytest

from bacl.datasets.embedded import generate
from bacl.settings import Dataset


def digest(folder):
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def standard(tmp_path_factory):
    folder = tmp_path_factory.mktemp("standard")
    generate(folder, Dataset(format="embedded"))
    return folder


def load(folder, split):
    return json.loads((folder / f"{split}.json").read_text())


def test_equal_seeds_give_equal_bytes_and_others_differ(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        generate(tmp_path / name, Dataset(format="embedded", size="small", seed=seed))
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_it_has_rare_common_and_frequent_categories_counted_from_training(standard):
    train = load(standard, "train")
    for category in train["categories"]:
        mine = [a for a in train["annotations"] if a["category_id"] == category["id"]]
        images = len({a["image_id"] for a in mine})
        assert (category["image_count"], category["instance_count"]) == (images, len(mine))
        assert category["frequency"] == ("r" if images <= 10 else "c" if images <= 100 else "f")
    groups = [category["frequency"] for category in train["categories"]]
    assert [groups.count(group) for group in "rcf"] == [8, 8, 8]


def test_boxes_and_polygons_agree_and_lie_within_the_image(standard):
    for split in ("train", "val"):
        content = load(standard, split)
        for annotation in content["annotations"][::7]:
            x, y, w, h = annotation["bbox"]
            assert x >= 0 and y >= 0 and x + w <= 128 and y + h <= 128 and w > 4 and h > 4
            canvas = np.zeros((128, 128), np.uint8)
            for polygon in annotation["segmentation"]:
                cv2.fillPoly(canvas, [np.array(polygon).reshape(-1, 2)], 1)
            assert canvas.sum() == pytest.approx(annotation["area"], rel=0.05)
            ys, xs = np.nonzero(canvas)
            assert (xs.min(), ys.min()) == (x, y)


def test_federated_lists_are_consistent_with_the_annotations(standard):
    for split in ("train", "val"):
        content = load(standard, split)
        present: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
        for annotation in content["annotations"]:
            present[annotation["image_id"]].add(annotation["category_id"])
        for image in content["images"]:
            assert not present[image["id"]] & set(image["neg_category_ids"])
            assert set(image["not_exhaustive_category_ids"]) <= present[image["id"]]
        assert any(image["not_exhaustive_category_ids"] for image in content["images"])


def test_ids_are_unique_and_splits_share_no_image(standard):
    train, val = load(standard, "train"), load(standard, "val")
    for content in (train, val):
        ids = [a["id"] for a in content["annotations"]]
        assert len(set(ids)) == len(ids)
    assert not {i["id"] for i in train["images"]} & {i["id"] for i in val["images"]}


def test_validation_shows_every_category(standard):
    seen = {a["category_id"] for a in load(standard, "val")["annotations"]}
    assert len(seen) == 24
