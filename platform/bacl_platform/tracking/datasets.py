"""What runs were trained and evaluated on, as MLflow describes data sets."""

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bacl.datasets.formats import EMBEDDED, NAMED
from bacl.settings import Dataset
from bacl_platform.plan.judged import words

if TYPE_CHECKING:
    from mlflow.entities import Dataset as Described
    from mlflow.entities import DatasetInput

    from bacl.datasets.prepared import Prepared

Part = Literal["train", "val"]
_USES: dict[Part, str] = {"train": "training", "val": "evaluation"}


def name_of(dataset: Dataset, part: Part) -> str:
    """What a split is called: by its data set, such as `lvis_v1 val`, or by its annotation file."""
    if dataset.format in (EMBEDDED, *NAMED):
        return f"{dataset.format} {part}"
    names = {of: Path(str(getattr(dataset, of))).stem for of in _USES}
    return names[part] if names["train"] != names["val"] else f"{names[part]} {part}"


def short(digest: str) -> str:
    """The first digits of a prepared dataset's digest: MLflow takes 36, and tables are narrow."""
    return digest[:16]


def inputs(dataset: Dataset, prepared: "Prepared") -> list["DatasetInput"]:
    """Both splits, with what a run uses them for."""
    from mlflow.entities import DatasetInput, InputTag

    return [
        DatasetInput(_described(dataset, prepared, part), [InputTag("mlflow.data.context", use)])
        for part, use in _USES.items()
    ]


def _described(dataset: Dataset, prepared: "Prepared", part: Part) -> "Described":
    from mlflow.entities import Dataset as Described

    split = prepared.train if part == "train" else prepared.val
    counts = {
        "images": split.image_total,
        "boxes": split.instance_total,
        "categories": len(prepared.categories),
        **_by_group(prepared),
    }
    columns = {"image": "binary", "boxes": "array", "categories": "array"}
    columns |= {"masks": "array"} if split.masks else {}
    colspec = [{"name": name, "type": type_, "required": True} for name, type_ in columns.items()]
    return Described(
        name_of(dataset, part),
        short(prepared.digest),
        "local",
        json.dumps({"uri": getattr(dataset, part) or split.images}),
        json.dumps({"mlflow_colspec": colspec}),
        json.dumps(counts),
    )


def _by_group(prepared: "Prepared") -> dict[str, int]:
    """How many categories each frequency group has."""
    found = Counter(category.frequency for category in prepared.categories)
    return {f"{word} categories": found[name] for name, word in words(prepared.groups).items()}
