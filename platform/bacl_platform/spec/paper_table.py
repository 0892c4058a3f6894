"""What the paper prints: rows of the tables in a file such as `experiments/paper.yaml`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from bacl.errors import UsageError
from bacl.schema import Settings
from bacl.settings import Groups
from bacl_platform.spec.experiment import Paper
from bacl_platform.spec.problems import translate
from bacl_platform.spec.yaml_files import read_yaml


class PublishedData(Settings):
    """The data set that published numbers are of, by what tells it from a part of it.

    Its name, the key in `datasets`, is a value of `dataset.format`.
    """

    title: str
    """Its name in texts, such as `LVIS v0.5`."""
    categories: int = Field(gt=0)
    val_images: int = Field(gt=0)
    least_train_images: int = Field(gt=0)
    """Fewer training images are a part of the training split."""
    groups: Groups = Groups()
    """Frequency groups of its metrics."""


@dataclass(frozen=True)
class Published:
    """A table, or a column of one that has several.

    rows: what a row is for (a sweep's values or a variant's name), and its points (AP times 100) by
    metric, in the printed order. dataset: the `dataset.format` of its data set, with what the file
    says of that; None where it names none.
    """

    title: str
    rows: Sequence[tuple[Any, dict[str, float]]]
    dataset: tuple[str, PublishedData] | None = None


def published(source: Paper | None, file: Path, key: Literal["trial", "variant"]) -> Published:
    """The table that `file` names as `source`.

    key: what says which result a row is for, `trial` for a sweep's and `variant` for an
    experiment's. Raises UsageError where the file names no table, or one that is not there or not
    of such rows, or not which of its columns, or where the table's data set is not described.
    """
    if source is None:
        raise UsageError(
            f"{file}: paper: expected the table to compare with (file and table), got nothing"
        )
    path = file.parent / source.file
    content = read_yaml(path, f"{file}: paper.file: ")
    tables = content.get("tables", {})
    if source.table not in tables:
        known = ", ".join(map(str, tables))
        raise UsageError(
            f"{file}: paper.table: expected one of {path.name}'s ({known}), got {source.table!r}"
        )
    table = tables[source.table]
    columns = list(dict.fromkeys(row["column"] for row in table["rows"] if "column" in row))
    if source.column not in (columns or [None]):
        known = ", ".join(columns)
        expected = f"one of the table's ({known})" if columns else "none, which the table lacks"
        got = "nothing" if source.column is None else repr(source.column)
        raise UsageError(f"{file}: paper.column: expected {expected}, got {got}")
    rows = [row for row in table["rows"] if row.get("column") == source.column]
    if not all(key in row for row in rows):
        raise UsageError(
            f"{file}: paper.table: expected a table whose rows are by {key}, got {source.table!r}"
        )
    points = [{name: float(value) for name, value in row["points"].items()} for row in rows]
    column = f", {source.column}" if source.column else ""
    title = f"Table {source.table}{column}: {table['title']}"
    return Published(
        title,
        list(zip((row[key] for row in rows), points, strict=True)),
        _dataset(content, source, path),
    )


def _dataset(content: Any, source: Paper, path: Path) -> tuple[str, PublishedData] | None:
    """The data set of a table: `dataset` is its name, or a name for each of the table's columns."""
    place = f"{path}: tables.{source.table}.dataset"
    name = content["tables"][source.table].get("dataset")
    if isinstance(name, dict):
        if source.column not in name:
            raise UsageError(f"{place}: expected a name for column {source.column!r}, got nothing")
        name = name[source.column]
    if name is None:
        return None
    described = content.get("datasets", {})
    if name not in described:
        known = ", ".join(map(str, described)) or "none"
        raise UsageError(f"{place}: expected one of the file's `datasets` ({known}), got {name!r}")
    try:
        return name, PublishedData.model_validate(described[name])
    except ValidationError as error:
        problems = translate(error, PublishedData)
        raise UsageError("\n".join(f"{path}: datasets.{name}.{p}" for p in problems)) from None
