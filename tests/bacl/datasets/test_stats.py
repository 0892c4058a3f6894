"""The numbers of a long tail, counted here by hand."""

import csv
import json

import pytest

from bacl import settings
from bacl.datasets.prepare import prepare
from bacl.datasets.stats import CategoryStats, GroupStats, SplitStats, stats
from bacl.errors import UsageError


def split(images, shown, **given):
    """`shown` gives image, category and whether it is a crowd."""
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in images],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "bbox": [0, 0, 9, 9],
                "area": 81,
                "iscrowd": crowd,
                **({"segmentation": [[0, 0, 9, 0, 9, 9]]} if image == 1 else {}),
            }
            for number, (image, category, crowd) in enumerate(shown, start=1)
        ],
        "categories": [
            {"id": i, "name": name, **given} for i, name in enumerate(("cat", "dog", "emu"), 1)
        ],
    }


@pytest.fixture
def folder(tmp_path):
    train = split(range(1, 7), [(1, 1, 0), (1, 1, 0), (1, 2, 0), (2, 1, 0), (3, 1, 0), (4, 1, 1)])
    val = split(range(7, 10), [(7, 2, 0), (7, 2, 0), (8, 3, 0), (8, 3, 1)])
    (tmp_path / "train.json").write_text(json.dumps(train))
    (tmp_path / "val.json").write_text(json.dumps(val))
    return tmp_path


def dataset(folder, **fields):
    files = {"train": "train.json", "val": "val.json", "images": "images"}
    paths = {key: str(folder / value) for key, value in files.items()}
    return settings.Dataset.model_validate({"format": "coco", **paths, **fields})


GROUPS = {"by": "instances", "bounds": [0, 3], "names": ["none", "few", "many"]}


def test_splits_are_counted(folder):
    counted = stats(dataset(folder), folder)
    assert counted.train == SplitStats(
        file=str(folder / "train.json"),
        images=6,
        images_missing=6,
        images_without_instances=3,  # 5 and 6, and 4 that has a crowd only
        instances=5,
        crowds=1,
        categories=2,
        most_instances=3,
        masks=3,
    )
    assert (counted.val.instances, counted.val.crowds, counted.val.categories) == (3, 1, 2)


def test_categories_are_counted_most_frequent_first(folder):
    assert stats(dataset(folder, groups=GROUPS), folder).categories == [
        CategoryStats(1, "cat", "many", 3, 4, 0, 0),
        CategoryStats(2, "dog", "few", 1, 1, 1, 2),
        CategoryStats(3, "emu", "none", 0, 0, 1, 1),
    ]


def test_groups_are_counted(folder):
    counted = stats(dataset(folder, groups=GROUPS), folder)
    assert counted.grouped_by == "instances"
    assert counted.groups == [
        GroupStats("none", "0-0", 1, 1, 0, 0, 1),
        GroupStats("few", "1-3", 1, 1, 1, 1, 2),
        GroupStats("many", "4+", 1, 0, 3, 4, 0),
    ]


def test_image_with_two_categories_of_a_group_counts_once(folder):
    groups = {"by": "images", "bounds": [10], "names": ["tail", "head"]}
    tail, head = stats(dataset(folder, groups=groups), folder).groups
    assert (tail.train_images, head.train_images) == (3, 0)


def test_imbalance_is_of_the_categories_that_are_seen(folder):
    assert stats(dataset(folder), folder).imbalance == {"images": 3.0, "instances": 4.0}
    (folder / "train.json").write_text(json.dumps(split([1], [])))
    assert stats(dataset(folder), folder).imbalance == {"images": None, "instances": None}


def test_groups_and_counts_are_those_of_a_prepared_dataset(tmp_path):
    small = settings.Dataset(format="embedded", size="small")
    prepared = prepare(small, tmp_path)
    counted = stats(small, tmp_path)
    rows = {c.id: (c.name, c.group, c.images, c.instances) for c in counted.categories}
    assert rows == {
        c.id: (c.name, c.frequency, c.image_count, c.instance_count) for c in prepared.categories
    }
    assert counted.train.images_missing == 0


def test_categories_are_written_as_csv(folder):
    stats(dataset(folder), folder).save_categories(folder / "c.csv")
    with (folder / "c.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        "id": "1",
        "name": "cat",
        "group": "r",
        "images": "3",
        "instances": "4",
        "val_images": "0",
        "val_instances": "0",
    }


def test_files_that_cannot_be_read_are_told(folder):
    (folder / "val.json").write_text("{")
    with pytest.raises(UsageError, match=r"val\.json: line 1, column 2: expected JSON"):
        stats(dataset(folder), folder)
