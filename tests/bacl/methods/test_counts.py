"""What methods are told of the training split, and which categories that makes tail."""

import pytest
from batches import COUNTS

from bacl.methods.counts import Counts


def test_frequency_is_the_share_of_images_that_show_a_category():
    expected = [count / 1000 for count in (2, 5, 10, 40, 300, 900)]
    assert Counts(**COUNTS).frequency().tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("below", "tail"),
    [
        (0.01, [0, 1]),  # 10 of 1000 images are no smaller share
        (0.011, [0, 1, 2]),
        (0.001, []),
        (None, [0, 1, 2, 3]),
    ],
)
def test_tail_is_what_few_images_show_or_all_groups_but_the_most_frequent(below, tail):
    is_tail = Counts(**COUNTS).tail(below)
    assert is_tail.nonzero()[:, 0].tolist() == tail


def test_groups_without_categories_leave_the_most_frequent_there_is():
    counts = Counts(**{**COUNTS, "groups": [0, 0, 1, 1, 1, 0]})
    assert counts.tail(None).tolist() == [True, True, False, False, False, True]
