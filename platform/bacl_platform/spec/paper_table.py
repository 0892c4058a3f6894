"""What the paper prints: rows of the tables in a file such as `experiments/paper.yaml`."""

from pathlib import Path
from typing import Any, Literal

from bacl.errors import UsageError
from bacl_platform.spec.experiment import Paper
from bacl_platform.spec.yaml_files import read_yaml


def published(
    source: Paper | None, file: Path, key: Literal["trial", "variant"]
) -> tuple[str, list[tuple[Any, dict[str, float]]]]:
    """Title and rows of the table that `file` names as `source`: a row's `key`, and its points.

    key: what says which result a row is for, `trial` for a sweep's and `variant` for an
    experiment's. Points are AP times 100 by metric. Raises UsageError where the file names no
    table, or one that is not there or not of such rows, or not which of its columns.
    """
    if source is None:
        raise UsageError(
            f"{file}: paper: expected the table to compare with (file and table), got nothing"
        )
    path = file.parent / source.file
    tables = read_yaml(path, f"{file}: paper.file: ").get("tables", {})
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
    return title, list(zip((row[key] for row in rows), points, strict=True))
