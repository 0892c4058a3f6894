"""What the words of a comparison mean: variants of experiments, trials of sweeps, and files."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.errors import UsageError
from bacl_platform.api.experiment import Experiment
from bacl_platform.api.files import Overrides
from bacl_platform.api.sweep import Sweep

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared
    from bacl_platform.analysis.contenders import Contender
    from bacl_platform.analysis.results import Report
    from bacl_platform.store.store import Store

_YAML = re.compile(r"(.+\.ya?ml)(?::(.+))?")


@dataclass(frozen=True)
class Word:
    """A variant of an experiment or sweep file, or with none a file of detections; `every` stands
    for all variants of the file."""

    file: Path
    variant: str | None
    every: bool = False

    @property
    def planned(self) -> bool:
        """Whether the file is an experiment or sweep."""
        return self.every or self.variant is not None


def read_words(words: Sequence[str]) -> list[Word]:
    """What is to be compared; after a leading experiment, a bare name is one of its variants.

    Raises UsageError for words that mean nothing, and where they are fewer than two.
    """
    base: Path | None = None
    leading = _YAML.fullmatch(words[0]) if words else None
    if leading and leading[2] is None:
        base, words = Path(words[0]), words[1:]
    found = [_read(word, base) for word in words]
    if len(found) < 2:
        raise UsageError(
            f"expected two or more to compare, got {len(found)}: such as FILE.yaml A B, or "
            "A.yaml:VARIANT B.yaml:VARIANT results.json, or FILE.yaml --all"
        )
    for place, word in enumerate(found):
        if word in found[:place]:
            raise UsageError(f"expected two different variants, got {words[place]} twice")
    return found


def read_all_words(words: Sequence[str]) -> list[Word]:
    """What is to be compared, every pair of it: an experiment alone stands for all its variants, or
    for those that bare names after it say.

    Raises UsageError for words that mean nothing, and where one comes twice.
    """
    found: list[Word] = []
    base: Path | None = None
    for word in words:
        leading = _YAML.fullmatch(word)
        if leading and leading[2] is None:
            base = Path(word)
            one = Word(base, None, every=True)
        else:
            one = _read(word, base)
            if found and found[-1].every and (leading is None and one.file == found[-1].file):
                found.pop()
        if one in found:
            raise UsageError(f"expected different variants and files, got {word} twice")
        found.append(one)
    return found


def _read(word: str, base: Path | None) -> Word:
    from bacl.results_files import is_results

    if match := _YAML.fullmatch(word):
        if match[2] is None:
            raise UsageError(f"{word}: expected a variant of it as well: {word}:VARIANT")
        return Word(Path(match[1]), match[2])
    path = Path(word)
    if is_results(path):
        return Word(path, None)
    if (path / "detections.parquet").is_file():  # a folder of an evaluation, or of a store's entry
        return Word(path / "detections.parquet", None)
    if base is not None:
        return Word(base, word)
    raise UsageError(
        f"{word}: expected FILE.yaml:VARIANT, a results file (.json or .parquet), a folder with "
        "detections.parquet, or after FILE.yaml a variant of it"
    )


def contenders(
    words: Sequence[Word],
    dataset: "Prepared | None",
    store: "Store",
    overrides: Overrides,
    seeds: Sequence[int] | None,
) -> list["Contender"]:
    """The detections of all words, as the stores and files have them.

    dataset: whose validation split files are of; None takes that of the first experiment. Raises
    UsageError for unknown variants and files of other data, RunError where nothing is finished.
    """
    from bacl_platform.analysis.contenders import contender
    from bacl_platform.analysis.files import contender_of_file

    several = len({word.file for word in words if word.planned}) > 1
    reports: dict[Path, Report] = {}
    for word in words:
        if word.planned and word.file not in reports:
            reports[word.file] = _report(word.file, store, overrides, seeds)
    if dataset is None:
        dataset = next((report.prepared for report in reports.values()), None)
    if dataset is None:
        raise UsageError(
            "expected the dataset that the files are of: --data with an experiment file or the "
            "name of a data set"
        )
    stems = [word.file.stem for word in words]
    made = []
    for word in words:
        if word.planned:
            report = reports[word.file]
            for variant in [word.variant] if word.variant else report.variants:
                name = f"{report.name}:{variant}" if several else variant
                made.append(contender(report, variant, name))
        else:
            unique = stems.count(word.file.stem) == 1
            own = word.file.stem if unique else str(word.file)
            name = word.file.parent.name if word.file.name == "detections.parquet" else own
            made.append(contender_of_file(word.file, name, dataset))
    return made


def _report(
    file: Path, store: "Store", overrides: Overrides, seeds: Sequence[int] | None
) -> "Report":
    """What the store has of an experiment, or of a sweep's trials by their values."""
    from bacl_platform.spec.sweep import is_sweep

    if is_sweep(file):
        return Sweep.load(file, overrides, store, seeds).found
    return Experiment.load(file, overrides, store, seeds).found
