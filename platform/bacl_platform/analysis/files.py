"""Results of detections in files: evaluated here, as those of jobs are where they train."""

import math
from dataclasses import replace
from pathlib import Path

from bacl.datasets.prepared import Prepared
from bacl.evaluation import Detections, Evaluator
from bacl.results_files import Split, read_results
from bacl_platform.analysis.contenders import Contender
from bacl_platform.analysis.profiles import evaluator_of
from bacl_platform.analysis.results import Report, Result


def result_of(name: str, found: Detections, evaluator: Evaluator, folder: Path) -> Result:
    """What detections reach; folder: where they are from."""
    made = evaluator.evaluate(found)
    metrics = {k: None if math.isnan(v) else v for k, v in made.metrics.items()}
    return Result(
        name, None, None, "file", "exact", folder, metrics, made.evaluator, made.per_category, found
    )


def result_of_file(path: Path, name: str, prepared: Prepared) -> Result:
    """What the detections of a results file reach on a prepared dataset's validation split.

    Masks are left out where the split has none to judge them by. Raises UsageError where the file
    is none of detections on this split.
    """
    evaluator = evaluator_of(prepared)
    split = Split.of(prepared, evaluator.provenance["ground_truth_sha256"])
    found = read_results(path, split)
    if found.mask is not None and not prepared.val.masks:
        found = replace(found, mask=None)
    return result_of(name, found, evaluator, path.parent)


def report_of(result: Result, prepared: Prepared) -> Report:
    """A report of one result without an experiment."""
    return Report(result.variant, None, prepared, [], [], [result], {})


def report_of_file(path: Path, name: str, prepared: Prepared) -> Report:
    """A report of a results file; see `result_of_file`."""
    return report_of(result_of_file(path, name, prepared), prepared)


def contender_of_file(path: Path, name: str, prepared: Prepared) -> Contender:
    """A results file to compare, on a prepared dataset's validation split."""
    return Contender(name, path.name, prepared, None, [result_of_file(path, name, prepared)])
