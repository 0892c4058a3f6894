"""What settings refuse, and the arithmetic of schedules."""

import pytest
from pydantic import ValidationError

from bacl.settings import Dataset, Groups, Schedule


def test_schedule_in_epochs_counts_whole_batches():
    schedule = Schedule(epochs=12, milestones=[8, 11], batch=16)
    assert schedule.total_iterations(100) == 12 * 7
    assert schedule.milestone_iterations(100) == [56, 77]


def test_learning_rate_scales_with_the_batch():
    assert Schedule(epochs=1, batch=8, lr=0.02, lr_batch=16).scaled_lr == pytest.approx(0.01)


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({}, "either epochs or iterations"),
        ({"epochs": 1, "iterations": 5}, "either epochs or iterations"),
        ({"epochs": 12, "milestones": [12]}, "expected numbers below the length, 12, got .12."),
        ({"epochs": 1, "batch": 3}, "batch: expected an even number.*got 3"),
        ({"epochs": 1, "lr": -1}, "greater than 0"),
    ],
)
def test_schedule_that_makes_no_sense_is_refused(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Schedule(**fields)


def test_groups_are_lvis_s_by_default():
    groups = Groups()
    counts = [0, 10, 11, 100, 101]
    assert [groups.name(n, 999) for n in counts] == ["r", "r", "c", "c", "f"]
    assert groups.ranges == ["0-10 images", "11-100 images", "101+ images"]


@pytest.mark.parametrize(
    "fields, sentence",
    [
        ({"bounds": [100, 10]}, r"bounds \[100, 10\] do not rise"),
        ({"bounds": [10, 10]}, "do not rise"),
        ({"bounds": [10]}, "1 bounds make 2 groups: expected as many names, got 3"),
        ({"names": ["a", "b", "a"]}, "repeat"),
        ({"names": ["a", "b", "c/d"]}, "match pattern"),
        ({"bounds": [-1, 10]}, "greater than or equal to 0"),
    ],
)
def test_groups_that_make_no_sense_are_refused(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Groups(**fields)


def test_dataset_needs_the_files_of_its_format():
    with pytest.raises(ValidationError, match="format lvis needs val, images"):
        Dataset(format="lvis", train="train.json")
    with pytest.raises(ValidationError, match="makes its own files: remove train"):
        Dataset(format="embedded", train="train.json")


def test_named_dataset_is_found_under_its_root():
    assert Dataset(format="lvis_v1", root="/data").train is None
    with pytest.raises(ValidationError, match="format coco_lt needs root"):
        Dataset(format="coco_lt")
    with pytest.raises(ValidationError, match="finds its files under root: remove train, images"):
        Dataset(format="lvis_v1", root="/data", train="train.json", images="images")
    files = {"train": "train.json", "val": "val.json", "images": "images"}
    with pytest.raises(ValidationError, match="format coco names its files itself: remove root"):
        Dataset(format="coco", root="/data", **files)
