"""The dataset that is not there: how many categories it has, and how long its tail is."""

from collections import Counter

import pytest

from bacl_platform.spec.load import load
from bacl_platform.tools import complexity
from bacl_platform.tools.stand_in import MOST, stand_in


@pytest.mark.parametrize("categories", [1, 2, 6, 80, 1203])
def test_stand_in_has_as_many_categories_from_the_most_images_down(categories):
    counts = [category.image_count for category in stand_in(categories).categories]
    assert len(counts) == categories and counts[0] == MOST
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == (1 if categories > 1 else MOST)


def test_stand_in_of_lvis_s_size_has_every_group():
    groups = Counter(category.frequency for category in stand_in(1203).categories)
    assert groups.keys() == {"r", "c", "f"} and min(groups.values()) > 100


def test_stand_in_has_what_methods_that_go_by_counts_want(tiny):
    bags = ["stages.heads.variants={bags: {method: bags}}", "baseline=null"]
    model = complexity.config_of(load(tiny, bags), stand_in(1203), "bags")["model"]
    assert model["roi_head"]["bbox_head"]["variants"]["bags"]["counts"]["instances"][0] == 2 * MOST
