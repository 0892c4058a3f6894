"""Annotation files and images found in the layouts of tools."""

import json
from pathlib import Path

import pytest

from bacl.errors import UsageError
from bacl_platform.tools.first_experiment import layouts

LAYOUTS = {
    "coco": (
        {
            "annotations/instances_train2017.json": "train2017/1.jpg",
            "annotations/instances_val2017.json": "val2017/2.jpg",
        },
        {
            "annotations/captions_train2017.json": "",
            "annotations/person_keypoints_val2017.json": "",
        },
    ),
    "lvis": (
        {
            "annotations/lvis_v1_train.json": "images/train2017/1.jpg",
            "annotations/lvis_v1_val.json": "images/val2017/2.jpg",
        },
        {},
    ),
    "plain": ({"train.json": "images/1.jpg", "val.json": "images/2.jpg"}, {}),
    "roboflow": (
        {
            "train/_annotations.coco.json": "train/1.jpg",
            "valid/_annotations.coco.json": "valid/2.jpg",
        },
        {"test/_annotations.coco.json": "test/3.jpg"},
    ),
    "cvat": (
        {
            "annotations/instances_Train.json": "images/Train/frame_0.jpg",
            "annotations/instances_Validation.json": "images/Validation/frame_0.jpg",
        },
        {},
    ),
}


def write(folder: Path, files: dict[str, str]) -> None:
    """Annotation files, each of one image, which lies where it says; the entry has the name
    alone."""
    for name, image in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        entry = {"id": 1, "file_name": Path(image).name, "width": 4, "height": 4}
        content = {"images": [entry], "annotations": [], "categories": []}
        path.write_text(json.dumps(content), encoding="utf-8")
        if image:
            (folder / image).parent.mkdir(parents=True, exist_ok=True)
            (folder / image).write_bytes(b"")


def images_of(path, root):
    return layouts.images_of(layouts.content_of(path), path, root, "--images")


@pytest.mark.parametrize("name", LAYOUTS)
def test_splits_and_their_images_are_found(tmp_path, name):
    files, others = LAYOUTS[name]
    write(tmp_path, files | others)
    train, val = (tmp_path / file for file in files)
    for data in (tmp_path, train):
        assert layouts.annotation_files(data) == layouts.Found(train, val)
    assert layouts.root_of(train) == tmp_path
    found = [images_of(path, tmp_path) for path in (train, val)]
    assert found == [(tmp_path / image).parent for image in files.values()]


def test_set_without_validation_split_is_its_only_file_or_has_its_test_split(tmp_path):
    write(tmp_path, {"annotations/instances_default.json": "images/default/1.jpg"})
    whole = tmp_path / "annotations/instances_default.json"
    assert layouts.annotation_files(tmp_path) == layouts.Found(whole, None)
    assert images_of(whole, tmp_path) == tmp_path / "images/default"
    tested = tmp_path / "tested"
    write(tested, {f"{n}/_annotations.coco.json": f"{n}/{n}.jpg" for n in ("train", "test")})
    found = layouts.annotation_files(tested)
    assert found.from_test and found.val == tested / "test/_annotations.coco.json"


def test_file_of_the_whole_set_beside_its_splits_is_left_alone(tmp_path):
    write(tmp_path, {"train.json": "", "val.json": "", "all.json": ""})
    found = layouts.annotation_files(tmp_path)
    assert found == layouts.Found(tmp_path / "train.json", tmp_path / "val.json")


def test_several_sets_none_and_lost_images_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no JSON file with images, annotations and categories"):
        layouts.annotation_files(tmp_path)
    write(tmp_path, {"val.json": ""})
    with pytest.raises(UsageError, match=r"expected a training split, got only val\.json"):
        layouts.annotation_files(tmp_path)
    write(tmp_path, {"birds_train.json": "", "cars_train.json": ""})
    with pytest.raises(UsageError, match=r"got 2: birds_train\.json, cars_train\.json; name one"):
        layouts.annotation_files(tmp_path)
    path = tmp_path / "lost.json"
    write(tmp_path, {"lost.json": "elsewhere.jpg"})
    (tmp_path / "elsewhere.jpg").unlink()
    with pytest.raises(UsageError, match=r"'elsewhere\.jpg'; name their folder with --images"):
        images_of(path, tmp_path)
