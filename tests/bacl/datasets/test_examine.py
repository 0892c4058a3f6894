"""What is wrong with annotation files and folders of images is told, all at once."""

import os

import pytest
from dataset_folder import content, split

from bacl.errors import UsageError


def test_missing_files_are_told_together(folder):
    folder.prepare()
    os.remove(folder.path / "train.json")
    (folder.path / "val.json").write_text('{"images": [\n1,,]}')
    with pytest.raises(UsageError) as told:
        folder.prepare_as_it_is()
    assert str(told.value).replace(f"{folder.path}/", "").splitlines() == [
        "train.json: expected an annotation file, found none",
        "val.json: line 2, column 3: expected JSON, got: Expecting value",
    ]


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ([], "train.json: expected LVIS or COCO JSON, an object, got a list"),
        (
            {"images": [], "annotations": {}},
            "train.json: expected LVIS or COCO JSON, got none of its lists of objects "
            "annotations, categories",
        ),
        (
            {"images": [1], "annotations": [], "categories": []},
            "train.json: expected LVIS or COCO JSON, got none of its lists of objects images",
        ),
    ],
)
def test_other_json_is_told_by_what_it_lacks(folder, train, expected):
    folder.train = train
    assert folder.problems() == [expected]


def test_binary_file_is_told(folder):
    folder.prepare()
    (folder.path / "train.json").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UsageError, match="expected JSON, got bytes that are no text"):
        folder.prepare_as_it_is()


def test_split_without_images_is_told(folder):
    folder.val = split([])
    assert folder.problems() == ["val.json: images: expected at least one, got none"]


def test_validation_categories_must_be_those_of_training(folder):
    folder.val["categories"] = [{"id": 3, "name": "bowl"}, {"id": 4, "name": "pan"}]
    assert folder.problems() == [
        "val.json: categories: expected those of train.json, which has no 4 (pan)",
        "val.json: categories: expected the names of train.json, they differ in 3 (mug and bowl)",
    ]


def test_validation_may_lack_categories_of_training(folder):
    del folder.val["categories"][1]
    assert len(content(folder.prepare().val)["categories"]) == 2


def test_missing_images_are_counted_and_listed(folder):
    folder.train = split(range(10, 17))
    (folder.images / "4.jpg").unlink()
    assert folder.problems() == [
        "images: 7 of 7 images of train.json are missing: "
        "10.jpg, 11.jpg, 12.jpg, 13.jpg, 14.jpg and 2 more",
        "images: 1 of 2 images of val.json are missing: 4.jpg",
    ]
    assert folder.problems(images=str(folder.path / "photos")) == [
        "photos: expected the folder of the images, found none"
    ]
