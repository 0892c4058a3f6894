"""The text of a first experiment file: its settings, each beside the reason for it."""

import math
import os
import re
import textwrap
import unicodedata
from pathlib import Path
from typing import Any

import yaml

import bacl_platform
from bacl import settings
from bacl.errors import UsageError
from bacl.weights import is_file
from bacl_platform.spec.yaml_files import VARIABLE
from bacl_platform.texts import is_text, one_line
from bacl_platform.tools.first_experiment.choices import BASELINE, METHODS, Choices, Length

WIDTH = 100
"""Letters in a line of comment, at most."""


def text_of(
    name: str, heading: list[str], dataset: settings.Dataset, choices: Choices, out: Path
) -> str:
    """The text of an experiment file at `out`.

    heading: sentences that it begins with. Raises UsageError where a path cannot be said in a
    file.
    """
    why = choices.why
    made = f"Made by `bacl init`. {' '.join(heading)}"
    lines = [
        *schema_line(),
        *_comment(made, 0),
        f"#   bacl plan {out.name}      what would run",
        f"#   bacl run {out.name}       train and evaluate; after an interruption, go on",
        f"#   bacl report {out.name}    the table",
        *_comment(
            "Above a field stands why it has its value. All fields, with types and defaults: `bacl "
            "schema experiment`; recipes: docs/guides/recipes.md; weights: docs/guides/weights.md.",
            0,
        ),
        f"name: {_flow(name)}",
        *_dataset(dataset, choices, out),
        *_detector(choices, out),
        "stages:",
        "  representation:",
        "    kind: representation",
        "    recipe:",
        *_comment("; ".join(why[name] for name in ("representation", "batch") if name in why), 6),
        f"      schedule: {_schedule(choices.representation, choices.batch)}",
        *_reasoned("optimizer", choices.optimizer, why, 6),
        *_recipe(choices, 6),
        *_reasoned("resources", choices.resources, why, 4),
        "  classifier:",
        "    kind: classifier",
        "    after: representation",
        *_comment(
            "All train in one job, on the same frozen features; `bacl methods` lists more.", 4
        ),
        "    variants:",
        *_variants(choices),
        "    recipe:",
        *_comment(why["classifier"], 6),
        f"      schedule: {_schedule(choices.classifier, choices.batch)}",
        *_recipe(choices, 6, again=True),
        f"    resources: {_flow(choices.resources)}",
        *_comment("The variant that `bacl report` compares the others with.", 0),
        f"baseline: {BASELINE}",
    ]
    return "\n".join(lines) + "\n"


def schema_line() -> list[str]:
    """The line by which editors find the schema of experiment files; none where it is not
    installed."""
    schema = Path(bacl_platform.__file__).parent / "spec" / "schemas" / "experiment.json"
    if not schema.is_file():
        return []
    return [f"# yaml-language-server: $schema={schema.resolve().as_uri()}"]


def title_of(folder: str) -> str:
    """An experiment's name made of a folder's."""
    plain = unicodedata.normalize("NFKD", folder).encode("ascii", "ignore").decode()
    title = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-")
    return title or "first-experiment"


def said(path: Path | str, out: Path) -> str:
    """A path as the file at `out` says it: from its folder where it lies below, else absolute.

    Raises UsageError for a path that is no text, or has a $ that would be taken for a variable.
    """
    absolute, folder = os.path.abspath(path), os.path.realpath(out.parent)
    inside = Path(absolute).is_relative_to(folder)
    text = os.path.relpath(absolute, folder) if inside else absolute
    if VARIABLE.search(text):
        text = os.path.relpath(absolute, folder)
    if VARIABLE.search(text):
        raise UsageError(
            f"{text}: expected a path without $, which experiment files take for the beginning of "
            "a variable: rename the folder, or write the file beside the data with --out"
        )
    if not is_text(text):
        raise UsageError(f"{text!r}: expected a path that is text in UTF-8")
    return f"./{text}" if text.startswith("~") else text


def _dataset(dataset: settings.Dataset, choices: Choices, out: Path) -> list[str]:
    fields = dataset.model_dump(exclude_none=True, exclude_defaults=True)
    lines = ["dataset:"]
    for name in ("format", "train", "val", "images", "val_images"):
        if name in fields:
            value = fields[name] if name == "format" else said(fields[name], out)
            lines.append(f"  {name}: {_flow(value)}")
    lines += _comment(choices.why["groups"], 2) if "groups" in choices.why else []
    if choices.groups is not None:
        lines.append(f"  groups: {_flow(choices.groups.model_dump())}")
    return lines


def _detector(choices: Choices, out: Path) -> list[str]:
    lines = ["detector:"]
    for name, value in choices.detector.items():
        if name == "weights":
            if value is None:
                continue
            value = said(value, out) if is_file(value) else value
        lines += _reasoned(name, value, choices.why, 2)
    return lines


def _recipe(choices: Choices, indent: int, again: bool = False) -> list[str]:
    """Fields of a recipe besides the schedule; again: without the reasons, which stand above."""
    lines = []
    for name, value in choices.images.items():
        lines += _reasoned(name, value, {} if again else choices.why, indent)
    return lines


def _variants(choices: Choices) -> list[str]:
    lines = []
    for method in METHODS:
        variant: dict[str, Any] = {"method": method}
        if method == "bacl" and choices.hallucination is not None:
            lines += _comment(choices.why["hallucination"], 6)
            variant["hallucination"] = {"categories": choices.hallucination}
        lines.append(f"      {method}: {_flow(variant)}")
    return lines


def _schedule(length: Length, batch: int) -> str:
    later = sorted({m for m in length.milestones if 0 < m < length.total})
    return _flow(
        {
            length.unit: length.total,
            "milestones": later,
            "batch": batch,
            "lr": length.lr,
            "lr_batch": length.lr_batch,
            "warmup": length.warmup,
        }
    )


def _reasoned(name: str, value: Any, why: dict[str, str], indent: int) -> list[str]:
    """A field in one line, below the reason for it if there is one; nothing for None."""
    if value is None:
        return []
    comment = _comment(why[name], indent) if name in why else []
    return [*comment, f"{' ' * indent}{name}: {_flow(value)}"]


def _comment(text: str, indent: int) -> list[str]:
    start = f"{' ' * indent}# "
    return textwrap.wrap(
        one_line(text),
        WIDTH,
        initial_indent=start,
        subsequent_indent=start,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _flow(value: Any) -> str:
    """A value in one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
