"""When an experiment's data is the paper's: never by its name or its counts alone."""

import pytest

from bacl.settings import Dataset, Groups
from bacl_platform.report.result_table.paper_data import why_unlike
from bacl_platform.spec.paper_table import Published, PublishedData

SET = PublishedData(title="LVIS v1.0", categories=9, val_images=5, least_train_images=20)
TABLE = Published("Table", [], ("lvis_v1", SET))
NAMED = Dataset(format="lvis_v1", root="/data")


@pytest.fixture
def found(prepared):
    """A prepared data set that is as described."""
    categories = prepared.categories[:1] * 9
    val = prepared.val.model_copy(update={"image_total": 5})
    train = prepared.train.model_copy(update={"image_total": 20})
    return prepared.model_copy(
        update={"categories": categories, "val": val, "train": train, "groups": Groups()}
    )


def test_set_of_the_name_and_the_counts_is_the_papers(found):
    assert why_unlike(TABLE, NAMED, found) == ""


def test_other_format_is_not_even_with_the_same_counts(found):
    own = Dataset(format="lvis", train="t.json", val="v.json", images="i")
    assert why_unlike(TABLE, own, found).endswith(
        "ours of data of format lvis, which is not known to be the same"
    )
    embedded = Dataset(format="embedded")
    assert why_unlike(TABLE, embedded, found).endswith("ours of the embedded set")


def test_part_of_the_set_is_not(found):
    less = found.model_copy(update={"categories": found.categories[1:]})
    assert why_unlike(TABLE, NAMED, less).endswith("with 9 categories, ours has 8")
    val = found.val.model_copy(update={"image_total": 4})
    less = found.model_copy(update={"val": val})
    assert why_unlike(TABLE, NAMED, less).endswith("with 5 validation images, ours has 4")
    train = found.train.model_copy(update={"image_total": 19})
    less = found.model_copy(update={"train": train})
    assert why_unlike(TABLE, NAMED, less).endswith("at least 20 training images, ours has 19")


def test_other_groups_are_not(found):
    other = found.model_copy(update={"groups": Groups(bounds=[5, 50])})
    assert "frequency groups" in why_unlike(TABLE, NAMED, other)


def test_table_that_names_no_set_never_compares(found):
    assert "not said which data set" in why_unlike(Published("Table", []), NAMED, found)
