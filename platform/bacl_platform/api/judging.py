"""Detections judged and compared, whatever has made them."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.errors import UsageError
from bacl_platform.api.files import (
    Overrides,
    dataset_of,
    override_words,
    prepare_dataset,
    store_of,
)
from bacl_platform.api.shown import Shown

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from bacl import settings
    from bacl_platform.analysis.compare import Comparison
    from bacl_platform.analysis.contenders import Contender
    from bacl_platform.analysis.profiles import Analysis
    from bacl_platform.analysis.results import Report
    from bacl_platform.store.store import Store


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """What detections reach on a validation split. analysis: of their errors, unless left out."""

    found: "Report"
    analysis: "Analysis | None"
    folder: Path

    @property
    def metrics(self) -> dict[str, float | None]:
        """Fractions by name; None where no category is evaluated."""
        return self.found.results[0].metrics

    def show(self, console: "Console") -> None:
        from bacl_platform.report import evaluation_report

        evaluation_report.print_evaluation(self.found, self.folder, console)

    def as_json(self) -> dict[str, Any]:
        from bacl_platform.report import evaluation_report

        return evaluation_report.as_json(self.found, self.analysis)


def evaluate(
    what: str | Path,
    data: "str | Path | settings.Dataset",
    config: str | Path | None = None,
    source: str | None = None,
    name: str | None = None,
    device: str | None = None,
    quick: bool = False,
    store: "str | Path | Store | None" = None,
    overrides: Overrides = None,
    out: str | Path | None = None,
) -> Evaluation:
    """Judge a results file, a checkpoint or the folder of an exported variant on a validation
    split, and write a report.

    data: an experiment file, or a dataset. config: of a checkpoint. source: where a checkpoint
    without one is from. quick: analyse no errors. overrides: changes to the experiment file. out:
    the folder to write to, STORE/reports/NAME if not given. Raises UsageError for files that do
    not fit the dataset.
    """
    from bacl.results_files import is_results
    from bacl_platform.console import Console
    from bacl_platform.report import evaluation_report, experiment_report

    what, store = Path(what), store_of(store)
    if is_results(what) and (config is not None or device is not None):
        raise UsageError(f"--config, --device: expected with a checkpoint, got {what}")
    if not what.exists():
        raise UsageError(f"{what}: there is no such file or folder")
    file = data if isinstance(data, str | Path) else None
    prepared = prepare_dataset(dataset_of(data, overrides=overrides), store)
    title = name or (what.resolve().name if what.is_dir() else what.stem)
    folder = Path(out or store.root / "reports" / title)
    progress = Console(stderr=True)
    if is_results(what):
        from bacl_platform.analysis.files import report_of_file

        report = report_of_file(what, title, prepared)
    else:
        from bacl_platform.inference.detector import files_of
        from bacl_platform.spec.load import load
        from bacl_platform.tools.evaluate import evaluate_checkpoint, take_in

        found = files_of(what, Path(config) if config else None)
        with tempfile.TemporaryDirectory() as scratch:
            if not found[1].exists() and config is None:
                if file is None:
                    raise UsageError(
                        f"{what}: expected config.py beside it, --config FILE, or --data with an "
                        "experiment file whose `detector` the checkpoint is of"
                    )
                experiment = load(file, override_words(overrides))
                found = take_in(found[0], source, experiment, prepared, Path(scratch), progress)
            report = evaluate_checkpoint(*found, title, prepared, folder, device, progress)
    analysis, sections = None, []
    if not quick:
        from bacl_platform.analysis import profiles
        from bacl_platform.report import findings

        analysis = profiles.analyse(report, progress)
        sections = findings.sections(report, analysis, None, 0, 0)
    sections[:0] = evaluation_report.sections(report, analysis)
    experiment_report.write(report, folder, "", sections)
    return Evaluation(report, analysis, folder)


@dataclass(frozen=True, repr=False)
class VariantComparison(Shown):
    """What one gains over the other, and the page that says so."""

    comparison: "Comparison"
    page: Path

    def show(self, console: "Console") -> None:
        from bacl_platform.report import comparison_report

        comparison_report.print_comparison(self.comparison, self.page, console)

    @property
    def metrics(self) -> "pd.DataFrame":
        """A row for each metric: both as fractions, their difference, its 95 % interval from `low`
        to `high`, and whether that leaves out zero."""
        import pandas as pd

        return pd.DataFrame(
            {
                "metric": name,
                "first": change.first,
                "second": change.second,
                "difference": change.difference,
                "low": change.low,
                "high": change.high,
                "clear": change.clear,
            }
            for name, change in self.comparison.metrics.items()
        )

    def as_json(self) -> dict[str, Any]:
        from bacl_platform.report import comparison_report

        return comparison_report.as_json(self.comparison)


def compare_two(
    first: "Contender",
    second: "Contender",
    store: "Store",
    resamples: int = 1000,
    out: str | Path | None = None,
    mixed: bool = False,
) -> VariantComparison:
    """What `second` gains over `first`; writes a page to `out`, STORE/reports/NAME if not given."""
    from bacl_platform.analysis.compare import compare
    from bacl_platform.console import Console
    from bacl_platform.report import comparison_report

    made = compare(first, second, resamples, Console(stderr=True), mixed=mixed)
    place = next((one.place for one in (first, second) if one.experiment), "files")
    folder = Path(out or store.root / "reports" / place)
    return VariantComparison(made, comparison_report.write(made, folder))


def compare(
    *what: str,
    data: "str | Path | settings.Dataset | None" = None,
    resamples: int = 1000,
    store: "str | Path | Store | None" = None,
    overrides: Overrides = None,
    seeds: Sequence[int] | None = None,
    out: str | Path | None = None,
    mixed: bool = False,
) -> list[VariantComparison]:
    """What each of the others gains over the first, with 95 % intervals by a paired bootstrap.

    what: FILE.yaml:VARIANT (of a sweep its trial), results files, folders of evaluations; after a
    leading FILE.yaml also names of its variants. data: whose validation split files are of; the
    first experiment's if not given. mixed: replayed may stand beside exact.
    """
    from bacl_platform.api.contenders import contenders, read_words

    words, store = read_words(what), store_of(store)
    prepared = None
    if data is not None:
        prepared = prepare_dataset(dataset_of(data, overrides=overrides), store)
    first, *others = contenders(words, prepared, store, overrides, seeds)
    return [compare_two(first, other, store, resamples, out, mixed) for other in others]
