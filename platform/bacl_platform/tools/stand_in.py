"""What a detector needs to know of a dataset, without the dataset: for measuring untrained ones."""

from bacl.datasets.categories import Category
from bacl.datasets.prepared import Prepared, Split

MOST = 100_000


def stand_in(categories: int) -> Prepared:
    """The description of a dataset with that many categories, whose files do not exist.

    Its categories are in from `MOST` images down to one, evenly on a logarithmic scale, so that
    methods that go by the counts find rare and frequent ones, as in LVIS.
    """
    counts = [round(MOST ** (1 - rank / max(categories - 1, 1))) for rank in range(categories)]
    split = Split(annotations="", images="", image_total=MOST, instance_total=1, masks=True)
    return Prepared(
        digest="",
        evaluation="lvis",
        train=split,
        val=split,
        categories=[
            Category(
                id=rank + 1,
                name=f"category {rank + 1}",
                frequency="r" if count <= 10 else "c" if count <= 100 else "f",
                image_count=count,
                instance_count=2 * count,
            )
            for rank, count in enumerate(counts)
        ],
        warnings=[],
    )
