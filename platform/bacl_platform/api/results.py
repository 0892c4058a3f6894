"""Results as pandas frames."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from bacl_platform.analysis.results import Report


class Results(pd.DataFrame):
    """A row for each variant and seed: `variant`, `seed`, `features` (exact or replay), and the
    metrics as fractions of 1, those of boxes first: AP, AP50, AP75, then AP of each frequency
    group. NaN where no category is evaluated.

    What is made of it is a plain frame, which `per_category` is not of.
    """

    _metadata = ["_report"]

    @classmethod
    def of(cls, report: "Report") -> "Results":
        """The results of a report."""
        rows = [
            {"variant": r.variant, "seed": r.seed, "features": r.features, **r.metrics}
            for r in report.results
        ]
        made = cls(rows, columns=["variant", "seed", "features", *report.metrics])
        made[report.metrics] = made[report.metrics].astype(float)
        made._report = report
        return made

    @property
    def _constructor(self) -> "Callable[..., pd.DataFrame]":
        return pd.DataFrame

    def per_category(self) -> pd.DataFrame:
        """A row for each variant, seed and category: its id, name, frequency group, counts of
        training images and instances, and metrics such as AP as fractions."""
        report: Report = self._report
        counts = ["image_count", "instance_count"]
        made = pd.DataFrame(
            [
                {"variant": r.variant, "seed": r.seed} | category
                for r in report.results
                for category in r.categories
            ]
        )
        return made.astype({**dict.fromkeys(counts, int), **dict.fromkeys(report.columns, float)})
