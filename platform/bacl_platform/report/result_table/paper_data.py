"""Whether an experiment's data is that of a published table, so that points compare."""

from bacl.datasets.formats import EMBEDDED
from bacl.datasets.prepared import Prepared
from bacl.settings import Dataset
from bacl_platform.spec.paper_table import Published


def why_unlike(table: Published, dataset: Dataset, prepared: Prepared) -> str:
    """Why the table's points do not compare with an experiment's, in words; empty where they do.

    They do only where the experiment names the table's data set as its format, and all of that is
    there, in the same frequency groups: anything else compares by gains.
    """
    if table.dataset is None:
        return "It is not said which data set the paper's points are of (`dataset` of its table)"
    name, theirs = table.dataset
    if dataset.format != name:
        ours = (
            "the embedded set"
            if dataset.format == EMBEDDED
            else f"data of format {dataset.format}, which is not known to be the same"
        )
        return f"The paper's points are of {theirs.title} (dataset.format {name}), ours of {ours}"
    found = {
        "categories": len(prepared.categories),
        "validation images": prepared.val.image_total,
    }
    expected = {"categories": theirs.categories, "validation images": theirs.val_images}
    for what, count in found.items():
        if count != expected[what]:
            return (
                f"The paper's points are of {theirs.title} with {expected[what]} {what}, ours has "
                f"{count}"
            )
    if prepared.train.image_total < theirs.least_train_images:
        return (
            f"The paper's points are of {theirs.title} with at least "
            f"{theirs.least_train_images} training images, ours has {prepared.train.image_total}"
        )
    if prepared.groups != theirs.groups:
        return f"The paper's points are of {theirs.title} in other frequency groups than ours"
    return ""
