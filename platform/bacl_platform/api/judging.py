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
    from bacl.datasets.prepared import Prepared
    from bacl_platform.analysis.compare import Comparison
    from bacl_platform.analysis.contenders import Contender
    from bacl_platform.analysis.matrix import Matrix
    from bacl_platform.analysis.profiles import Analysis
    from bacl_platform.analysis.results import Report
    from bacl_platform.store.store import Store


@dataclass(frozen=True, repr=False)
class Evaluation(Shown):
    """What detections reach on a validation split.

    analysis: of their errors, unless left out; `analysis.masks` is that of masks, or None.
    """

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
    from bacl_platform.spec.other_files import refuse

    what, store = Path(what), store_of(store)
    if is_results(what) and (config is not None or device is not None):
        raise UsageError(f"--config, --device: expected with a checkpoint, got {what}")
    if not what.exists():
        raise UsageError(f"{what}: there is no such file or folder")
    refuse(
        what,
        "detections or a detector",
        *("a results file", "a checkpoint", "an exported variant", "an annotation file"),
    )
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
        to `high`, whether that leaves out zero, its p-value, and the part of its variance that is
        of seeds (NaN with one seed)."""
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
                "p_value": change.p_value,
                "share_of_seeds": change.share_of_seeds,
            }
            for name, change in self.comparison.metrics.items()
        )

    def as_json(self) -> dict[str, Any]:
        from bacl_platform.report import comparison_report

        return comparison_report.as_json(self.comparison)


@dataclass(frozen=True, repr=False)
class VariantMatrix(Shown):
    """What each of several gains over each other, and the page that says so."""

    matrix: "Matrix"
    page: Path

    def show(self, console: "Console") -> None:
        from bacl_platform.report import matrix_report

        matrix_report.print_matrix(self.matrix, self.page, console)

    @property
    def pairs(self) -> "pd.DataFrame":
        """A row for each pair and metric: both as fractions, their difference, its 95 % interval
        from `low` to `high`, its p-value alone and corrected for all pairs of the metric (Holm),
        and whether that is below 0.05."""
        import pandas as pd

        names = self.matrix.names
        return pd.DataFrame(
            {
                "first": names[first],
                "second": names[second],
                "metric": name,
                "first_value": change.first,
                "second_value": change.second,
                "difference": change.difference,
                "low": change.low,
                "high": change.high,
                "p_value": change.p_value,
                "p_value_holm": self.matrix.corrected[name][first, second],
                "clear": self.matrix.is_clear(name, first, second),
            }
            for (first, second), pair in self.matrix.pairs.items()
            for name, change in pair.items()
        )

    def as_json(self) -> dict[str, Any]:
        from bacl_platform.report import matrix_report

        return matrix_report.as_json(self.matrix)


def compare_contenders(
    first: "Contender",
    others: Sequence["Contender"],
    store: "Store",
    resamples: int = 1000,
    out: str | Path | None = None,
    mixed: bool = False,
    metrics: Sequence[str] | None = None,
) -> list[VariantComparison]:
    """What each of `others` gains over `first`; writes pages to `out`, STORE/reports/NAME if not
    given."""
    from bacl_platform.analysis.compare import compare_each
    from bacl_platform.console import Console
    from bacl_platform.report import comparison_report

    found = compare_each(
        first, others, resamples, Console(stderr=True), mixed=mixed, metrics=metrics
    )
    made = []
    for other, comparison in zip(others, found, strict=True):
        folder = _folder([first, other], store, out)
        made.append(VariantComparison(comparison, comparison_report.write(comparison, folder)))
    return made


def compare_every_pair(
    found: Sequence["Contender"],
    store: "Store",
    resamples: int = 1000,
    out: str | Path | None = None,
    mixed: bool = False,
    metrics: Sequence[str] | None = None,
) -> VariantMatrix:
    """What each contender gains over each other; writes a page to `out`, STORE/reports/NAME if not
    given."""
    from bacl_platform.analysis.matrix import compare_all as compared
    from bacl_platform.console import Console
    from bacl_platform.report import matrix_report

    made = compared(found, resamples, Console(stderr=True), mixed=mixed, metrics=metrics)
    return VariantMatrix(made, matrix_report.write(made, _folder(found, store, out)))


def _folder(found: Sequence["Contender"], store: "Store", out: str | Path | None) -> Path:
    place = next((one.place for one in found if one.experiment), "files")
    return Path(out or store.root / "reports" / place)


def compare(
    *what: str,
    data: "str | Path | settings.Dataset | None" = None,
    resamples: int = 1000,
    store: "str | Path | Store | None" = None,
    overrides: Overrides = None,
    seeds: Sequence[int] | None = None,
    out: str | Path | None = None,
    mixed: bool = False,
    metrics: Sequence[str] | None = None,
) -> list[VariantComparison]:
    """What each of the others gains over the first, with 95 % intervals over images and seeds.

    what: FILE.yaml:VARIANT (of a sweep its trial), results files, folders of evaluations; after a
    leading FILE.yaml also names of its variants. data: whose validation split files are of; the
    first experiment's if not given. mixed: replayed may stand beside exact. metrics: such as
    `["AP", "APFixed"]`, each with its frequency groups.
    """
    from bacl_platform.api.contenders import contenders, read_words

    words, store = read_words(what), store_of(store)
    prepared = _prepared(data, overrides, store)
    first, *others = contenders(words, prepared, store, overrides, seeds)
    return compare_contenders(first, others, store, resamples, out, mixed, metrics)


def compare_all(
    *what: str,
    data: "str | Path | settings.Dataset | None" = None,
    resamples: int = 1000,
    store: "str | Path | Store | None" = None,
    overrides: Overrides = None,
    seeds: Sequence[int] | None = None,
    out: str | Path | None = None,
    mixed: bool = False,
    metrics: Sequence[str] | None = None,
) -> VariantMatrix:
    """What each gains over each other, p-values corrected for the number of pairs (Holm).

    what: as for `compare`, and FILE.yaml alone for all its variants that are finished. The other
    arguments are `compare`'s.
    """
    from bacl_platform.api.contenders import contenders, read_all_words

    words, store = read_all_words(what), store_of(store)
    prepared = _prepared(data, overrides, store)
    found = contenders(words, prepared, store, overrides, seeds)
    return compare_every_pair(found, store, resamples, out, mixed, metrics)


def _prepared(
    data: "str | Path | settings.Dataset | None", overrides: Overrides, store: "Store"
) -> "Prepared | None":
    if data is None:
        return None
    return prepare_dataset(dataset_of(data, overrides=overrides), store)
