"""What settings refuse, and the arithmetic of schedules."""

import pytest
from pydantic import ValidationError

from bacl.settings import Dataset, Schedule


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
        ({"epochs": 12, "milestones": [12]}, "lie at or after the end, 12"),
        ({"epochs": 1, "batch": 3}, "is odd"),
        ({"epochs": 1, "lr": -1}, "greater than 0"),
    ],
)
def test_schedule_that_makes_no_sense_is_refused(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        Schedule(**fields)


def test_dataset_needs_the_files_of_its_format():
    with pytest.raises(ValidationError, match="format lvis needs val, images"):
        Dataset(format="lvis", train="train.json")
    with pytest.raises(ValidationError, match="makes its own files: remove train"):
        Dataset(format="embedded", train="train.json")
