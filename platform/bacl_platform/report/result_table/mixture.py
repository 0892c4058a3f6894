"""Replayed rows beside the paper's numbers, which are exact."""

from collections.abc import Sequence
from pathlib import Path

from bacl.errors import UsageError
from bacl_platform.report.result_table.rows import Row


def mixture(file: Path, rows: Sequence[Row], mixed: bool) -> list[str]:
    """A sentence on rows that are replayed beside the paper's numbers.

    Raises UsageError with it where there are such rows and they are not allowed.
    """
    both = [row for row in rows if row.paper and row.features == "replay"]
    if not both:
        return []
    replayed = [", ".join(row.varied.values()) for row in both]
    which = f"{'; '.join(replayed)}: replayed (trained on stored features)"
    if mixed:
        return [f"MIXED: the paper's numbers are exact, and not these of ours: {which}."]
    raise UsageError(
        f"{file}: {which}, while the paper's numbers are exact: run these with recipe.features: "
        "exact, or let --mixed set them beside each other all the same"
    )
