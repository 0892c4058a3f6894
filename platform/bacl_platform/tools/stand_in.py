"""What a detector needs to know of a dataset, without the dataset: for measuring untrained ones."""

from bacl.datasets.categories import Category
from bacl.datasets.prepared import Prepared, Split


def stand_in(categories: int) -> Prepared:
    """The description of a dataset with that many categories, whose files do not exist."""
    split = Split(annotations="", images="", image_total=1, instance_total=1, masks=True)
    return Prepared(
        digest="",
        evaluation="lvis",
        train=split,
        val=split,
        categories=[
            Category(id=n, name=f"category {n}", frequency="f", image_count=1, instance_count=1)
            for n in range(1, categories + 1)
        ],
        warnings=[],
    )
