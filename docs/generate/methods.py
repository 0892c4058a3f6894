"""The cards of all methods and corrections, from the classes of their settings."""

from typing import Any

from bacl.method_settings.corrections import CORRECTIONS
from bacl.method_settings.registry import METHODS
from bacl_platform.cli import methods as cards

FILES = {
    "paper": "The paper's",
    "suppression": "Which categories a sample discourages",
    "priors": "Weights and margins from counts",
    "adaptive": "Losses that follow scores or gradients",
    "resampling": "More samples or features of rare categories",
    "classifiers": "Classifiers of their own",
    "corrections": "Corrections of trained scores",
}
"""Titles of the kinds, by the file of `bacl/method_settings/` that their settings are in."""


def page() -> str:
    """The Markdown of the page: a table of all, then a card for each, by kind."""
    known = {**METHODS, **CORRECTIONS}
    kinds: dict[str, list[str]] = {kind: [] for kind in FILES}
    for name, method in known.items():
        kinds[method.__module__.rpartition(".")[2]].append(name)
    lines = [
        "# Methods",
        "",
        f"Choose a classifier: {len(METHODS)} methods that train as variants of a bank, and "
        f"{len(CORRECTIONS)} corrections of trained ones. Made from the code, as "
        "`bacl methods show NAME` is; [which are of the paper's tables, and what their authors do "
        "besides](field.md).",
        "",
        "| method | what it does |",
        "|---|---|",
    ]
    lines += [
        f"| [`{name}`](#{name}) | {_cell(cards._summary(known[name]))} |"
        for names in kinds.values()
        for name in names
    ]
    for kind, names in kinds.items():
        lines += ["", f"## {FILES[kind]}"]
        for name in names:
            lines += ["", *_card(name, known[name])]
    return "\n".join(lines) + "\n"


def _card(name: str, method: Any) -> list[str]:
    lines = [f"### {name} {{ #{name} }}", "", cards._about(method), ""]
    facts = {
        "Source": method.source,
        "Equations": method.equations,
        "Cost": method.cost or "that of a linear classifier",
        "After": method.follows and f"a stage whose classifier is {' or '.join(method.follows)}",
        "Needs": method.sampler and f"`recipe.sampler: {method.sampler}`",
    }
    lines += [f"- **{title}**: {_line(text)}" for title, text in facts.items() if text]
    lines += [f"- **Open in the sources**: {_line(point)}" for point in method.open_points]
    if found := cards._options(method):
        lines += ["", "| option | default | what it is |", "|---|---|---|"]
        lines += [f"| `{path}` | `{default}` | {_cell(text)} |" for path, default, text in found]
    return lines


def _line(text: str) -> str:
    """Text as a line of Markdown that shows its letters as they are."""
    return " ".join(str(text).split()).translate({ord(mark): f"\\{mark}" for mark in "*_<>$[]"})


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
