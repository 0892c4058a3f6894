"""What `bacl init` says on the terminal: what it found, what is odd, what it chose and why."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bacl import settings
from bacl_platform.console import say
from bacl_platform.texts import one_line, shortened
from bacl_platform.tools.first_experiment.choices import Choices
from bacl_platform.tools.first_experiment.facts import Facts

if TYPE_CHECKING:
    from rich.console import Console

SHOWN = 3
"""Categories that are named at each end of the tail."""
CHOSEN = (
    "backbone",
    "groups",
    "scales",
    "anchor_scale",
    "max_detections",
    "smallest_image",
    "representation",
    "classifier",
    "optimizer",
    "hallucination",
    "resources",
)
"""Choices that are told, in this order."""


def tell(
    dataset: settings.Dataset, facts: Facts, notes: list[str], choices: Choices, console: "Console"
) -> None:
    """Print a table of the splits, sentences about them, and the choices."""
    _table(facts, console)
    for line in _found(dataset, facts):
        say(console, one_line(line))
    for sentence in (*notes, *facts.odd):
        say(console, f"note: {one_line(sentence)}")
    say(console, "chosen:")
    for name in CHOSEN:
        if name in choices.why:
            say(console, f"  {name}: {one_line(choices.why[name])}")


def _table(facts: Facts, console: "Console") -> None:
    from rich.table import Table

    stats = facts.stats
    table = Table()
    table.add_column("")
    for column in ("train", "val"):
        table.add_column(column, justify="right")
    for row in (
        ("images", "images"),
        ("with boxes", None),
        ("boxes", "instances"),
        ("crowds", "crowds"),
        ("categories with boxes", "categories"),
        ("most boxes in an image", "most_instances"),
    ):
        label, name = row
        values = [
            split.images - split.images_without_instances if name is None else getattr(split, name)
            for split in (stats.train, stats.val)
        ]
        if any(values) or label != "crowds":
            table.add_row(label, *(f"{value:,}" for value in values))
    console.print(table)


def _found(dataset: settings.Dataset, facts: Facts) -> Iterator[str]:
    rules = "LVIS's, with lists of absent categories" if facts.federated else "COCO's"
    folders = dict.fromkeys(str(f) for f in (dataset.images, dataset.val_images) if f)
    yield f"annotations: {dataset.train} and {dataset.val}, judged by {rules} rules"
    yield f"images: {' and '.join(folders)}"
    ranked = facts.trained
    ends = [ranked[:SHOWN], ranked[-SHOWN:]] if len(ranked) > 2 * SHOWN else [ranked]
    words = [", ".join(f"{shortened(one.name, 30)} {one.images:,}" for one in end) for end in ends]
    total = len(facts.stats.categories)
    yield f"categories: {total:,}, by training images: {' ... '.join(words)}"
    longest, shortest = facts.sides
    size = "all" if facts.alike else "in the median"
    low, _, middle, _, high = (f"{100 * share:.0f} %" for share in facts.box_sizes)
    yield (
        f"sizes: images {size} {longest} x {shortest} pixels; boxes {middle} of the longest side "
        f"in the median, most from {low} to {high}"
    )


def next_steps(out: Path, console: "Console") -> None:
    """Print the file that was written, and the commands to give next."""
    import shlex

    name = shlex.quote(str(out))
    say(console, f"written: {out}")
    say(console, f"next: bacl run {name}, then bacl report {name} (bacl plan {name} only looks)")
