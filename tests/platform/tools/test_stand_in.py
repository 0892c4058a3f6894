from collections import Counter

import pytest

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
