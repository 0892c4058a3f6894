"""An experiment's variants beside the rows of the paper's table that have their names."""

import math
from collections import Counter
from pathlib import Path

from bacl_platform.analysis.results import Report
from bacl_platform.report.result_table.mixture import mixture
from bacl_platform.report.result_table.paper_data import why_unlike
from bacl_platform.report.result_table.rows import VARIANT, PaperTable, ResultTable, Row
from bacl_platform.spec.paper_table import published


def beside_paper(report: Report, file: Path, mixed: bool = False) -> ResultTable:
    """An experiment's variants beside the paper's rows of the same names, in the paper's order.

    Rows that the experiment lacks are there as well, and variants that the paper lacks come last.
    Of the metrics, those that the paper prints. file: the experiment's. mixed: whether the paper's
    numbers may stand beside replayed ones. Raises UsageError where they may not and would, and
    where the experiment names no table, or one that is not there.
    """
    assert report.experiment is not None
    table = published(report.experiment.paper, file, "variant")
    theirs = dict(table.rows)
    metrics = list(dict.fromkeys(name for points in theirs.values() for name in points))
    to_run = Counter(name for job in report.unfinished for name in job.variants)
    own = [*report.variants, *to_run]
    rows = []
    for name in dict.fromkeys([*theirs, *own]):
        found: dict[str, dict[int, float]] = {}
        for result in report.of(name):
            for metric in metrics:
                value = result.metrics.get(metric)
                if value is not None and math.isfinite(value) and result.seed is not None:
                    found.setdefault(metric, {})[result.seed] = 100 * value
        there = name in report.variants
        rows.append(
            Row(
                {VARIANT: name},
                f"{to_run[name]} to run" if to_run[name] else "done" if name in own else "-",
                found,
                theirs.get(name, {}),
                seeds=len(report.of(name)),
                features=report.features(name) if there else None,
                evaluated_with=report.evaluated_with.get(name, ""),
                values={VARIANT: name},
            )
        )
    return ResultTable(
        report.name,
        metrics,
        rows,
        metrics[0],
        groups=report.prepared.groups.names,
        paper=PaperTable(
            table.title,
            [({VARIANT: name}, points) for name, points in table.rows],
            why_unlike(table, report.experiment.dataset, report.prepared),
        ),
        notes=[*mixture(file, rows, mixed), *report.notes],
    )
