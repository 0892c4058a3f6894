"""Making of a first experiment file for a user's data, or for the embedded set."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bacl import settings
from bacl.datasets import reading
from bacl.datasets.examine import stop
from bacl.datasets.formats import EMBEDDED, FORMATS
from bacl.errors import UsageError
from bacl_platform.console import Watching, say
from bacl_platform.spec.load import load
from bacl_platform.texts import is_text
from bacl_platform.tools.first_experiment import embedded, layouts, splitting, told
from bacl_platform.tools.first_experiment.choices import choose
from bacl_platform.tools.first_experiment.facts import facts_of
from bacl_platform.tools.first_experiment.starts import machine_of, start_of
from bacl_platform.tools.first_experiment.writing import text_of, title_of

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Request:
    """What a user asks for; what is None is found.

    data: a folder, or the training split's annotation file; None for the embedded set. device:
    `cpu`, `gpu`, or `auto` for what is here. seed: of the division into splits, where there is no
    validation split. force: whether files that are there are replaced.
    """

    data: Path | None
    out: Path
    val: Path | None = None
    images: Path | None = None
    val_images: Path | None = None
    weights: str | None = None
    backbone: str | None = None
    device: str = "auto"
    seed: int = 0
    force: bool = False


def make(request: Request, cache: Path, console: "Console") -> None:
    """Write an experiment file that fits the data, and print what was found and chosen.

    cache: folder of prepared datasets, where results of reading images are kept.

    Raises:
        UsageError: there is no data set, it could not be trained on, or the file is there already;
            nothing is written then.
    """
    out = request.out
    _check_out(out, request.force)
    machine = machine_of(request.device)
    if request.data is None:
        _refuse_without_data(request)
        text = text_of(
            embedded.NAME,
            ["Data: the embedded set, generated photographs of 24 categories with a long tail."],
            settings.Dataset(format=EMBEDDED),
            embedded.choices(machine),
            out,
        )
        _write(text, out)
        say(
            console,
            "no --data given: the embedded set, generated images of 24 categories with a long "
            "tail; for your own say bacl init --data FOLDER",
        )
        told.next_steps(out, console)
        return
    start = start_of(request.weights, request.backbone, machine.gpus > 0)
    made = _split_folder(out)
    before = made.exists()
    try:
        with Watching(console, unit="images") as watching:
            dataset, notes = _dataset(request, request.data)
            facts = facts_of(dataset, cache, watching)
        choices = choose(facts, machine, start)
        heading = [f"Data: {facts.stats.train.images:,} training and {facts.stats.val.images:,} "]
        heading[0] += f"validation images of {len(facts.stats.categories):,} categories."
        name = title_of(layouts.root_of(request.data.resolve()).name)
        _write(text_of(name, [*heading, *notes], dataset, choices, out), out)
    except BaseException:
        if not before:
            shutil.rmtree(made, ignore_errors=True)
        raise
    told.tell(dataset, facts, notes, choices, console)
    told.next_steps(out, console)


def _check_out(out: Path, force: bool) -> None:
    if not is_text(str(out)) or out.suffix.lower() not in (".yaml", ".yml"):
        raise UsageError(f"--out: expected the name of a .yaml file, got {str(out)!r}")
    if out.is_dir():
        raise UsageError(f"--out {out}: expected the name of a file, got a folder")
    if out.exists() and not force:
        raise UsageError(
            f"{out}: expected no such file, to write it; --force replaces it, --out names another"
        )


def _refuse_without_data(request: Request) -> None:
    for option in ("val", "images", "val_images", "weights", "backbone"):
        if getattr(request, option) is not None:
            raise UsageError(f"--{option.replace('_', '-')}: expected with --data, got no --data")


def _split_folder(out: Path) -> Path:
    """Where the splits of a data set that has none are written."""
    return out.with_name(f"{out.stem}_split")


def _dataset(request: Request, data: Path) -> tuple[settings.Dataset, list[str]]:
    """The data set that a user means, divided if it has no validation split; and what there is to
    say about its splits."""
    found = layouts.annotation_files(data, request.val)
    root = layouts.root_of(data)
    train, val, notes = found.train, found.val, []
    content = layouts.content_of(train)
    images = request.images or layouts.images_of(content, train, root, "--images")
    if val is None:
        train, val = _divided(request, train)
        notes.append(
            f"There is no validation split, so {train} and {val.name} beside it divide the "
            f"images of {found.train.name} by seed {request.seed}, every fifth of each category "
            "for validation; if images are frames of videos or otherwise alike, divide them "
            "yourself and name the file with --val."
        )
        federated = layouts.is_federated(content)
        val_images = images
    else:
        content = layouts.content_of(val)
        federated = layouts.is_federated(content)
        val_images = (
            request.val_images
            or request.images
            or layouts.images_of(content, val, root, "--images")
        )
        if found.from_test:
            notes.append(
                f"There is no validation split, so the test split, {val}, is taken for it."
            )
    own = {"val_images": str(val_images)} if val_images != images else {}
    dataset = settings.Dataset.model_validate(
        {
            "format": "lvis" if federated else "coco",
            "train": str(train),
            "val": str(val),
            "images": str(images),
            **own,
        }
    )
    return dataset, notes


def _divided(request: Request, annotations: Path) -> tuple[Path, Path]:
    """The files of the splits that a checked annotation file is divided into."""
    folder = _split_folder(request.out)
    if folder.exists() and not request.force:
        raise UsageError(
            f"{folder}: expected no such folder, to write the splits there; --force replaces them, "
            "--out names another file and so another folder"
        )
    problems: list[str] = []
    content = reading.read(
        annotations, problems, form=FORMATS["coco"], federated=False, counted=True, sized=False
    )
    if content:
        reading.relate(content, reading.by_label(content.categories), annotations, problems)
    stop(problems)
    return splitting.split(annotations, folder, request.seed)


def _write(text: str, out: Path) -> None:
    """Write the file once it has been read as what it is, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.stem}.{os.getpid()}.yaml")
    try:
        part.write_text(text, encoding="utf-8")
        load(part)
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)
