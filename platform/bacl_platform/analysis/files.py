"""Results of detections in files: evaluated here, as those of jobs are where they train."""

import math
from dataclasses import replace
from pathlib import Path

from bacl.datasets.prepared import Prepared
from bacl.evaluation import Detections, Evaluator, Unlimited, read_unlimited
from bacl.results_files import Split, read_results
from bacl_platform.analysis.contenders import Contender
from bacl_platform.analysis.profiles import evaluator_of
from bacl_platform.analysis.results import Report, Result
from bacl_platform.store.names import BEYOND, DETECTIONS


def result_of(
    name: str,
    found: Detections,
    evaluator: Evaluator,
    folder: Path,
    beyond: Unlimited | None = None,
) -> Result:
    """What detections reach; folder: where they are from. beyond: what was found beyond the limit
    per image, where that is known."""
    made = evaluator.evaluate(found, beyond)
    metrics = {k: None if math.isnan(v) else v for k, v in made.metrics.items()}
    facts = name, None, None, "file", "exact", folder, metrics, made.evaluator, made.per_category
    return Result(*facts, found, fixed_limit=made.fixed_limit, beyond=beyond)  # type: ignore[arg-type]


def result_of_file(path: Path, name: str, prepared: Prepared) -> Result:
    """What the detections of a results file reach on a prepared dataset's validation split.

    Masks are left out where the split has none to judge them by. With a store's detections, what
    lies beyond their limit per image is read from the file beside them. Raises UsageError where the
    file is none of detections on this split.
    """
    evaluator = evaluator_of(prepared)
    split = Split.of(prepared, evaluator.provenance["ground_truth_sha256"])
    found = read_results(path, split)
    if found.mask is not None and not prepared.val.masks:
        found = replace(found, mask=None)
    beyond = path.with_name(BEYOND)
    ours = path.name == DETECTIONS and beyond.is_file()
    unlimited = read_unlimited(found, beyond) if ours else None
    return result_of(name, found, evaluator, path.parent, unlimited)


def report_of(result: Result, prepared: Prepared) -> Report:
    """A report of one result without an experiment."""
    return Report(result.variant, None, prepared, [], [], [result], {})


def report_of_file(path: Path, name: str, prepared: Prepared) -> Report:
    """A report of a results file; see `result_of_file`."""
    return report_of(result_of_file(path, name, prepared), prepared)


def contender_of_file(path: Path, name: str, prepared: Prepared) -> Contender:
    """A results file to compare, on a prepared dataset's validation split."""
    return Contender(name, path.name, prepared, None, [result_of_file(path, name, prepared)])
