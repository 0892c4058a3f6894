"""Options that several commands have, and how help shows arguments."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from bacl.errors import UsageError
from bacl_platform.cli import completion
from bacl_platform.volume import Volume, set_volume

if TYPE_CHECKING:
    from collections.abc import Callable

StoreOption = Annotated[
    str,
    typer.Option(
        "--store",
        metavar="STORE",
        envvar="BACL_STORE",
        help="Store of finished jobs and prepared datasets: a folder or s3://BUCKET/PREFIX.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="Experiment file (YAML).")]
Either = Annotated[Path, typer.Argument(metavar="FILE", help="Experiment or sweep file (YAML).")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a field of the file, such as detector.backbone=tiny; repeatable.",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Ray cluster to run on: auto on one of its nodes, HEAD:PORT, or local for a new Ray "
        "on this machine.",
        show_default="that of RAY_ADDRESS, or a new Ray on this machine",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        metavar="FOLDER",
        help="Folder to write to.",
        show_default="STORE/reports/EXPERIMENT",
    ),
]


def _chooses(chosen: Volume) -> "Callable[[typer.Context, bool], bool]":
    """The callback of an option that says how much is printed."""

    def choose(ctx: typer.Context, given: bool) -> bool:
        if given and not ctx.resilient_parsing:
            if ctx.meta.setdefault("bacl.volume", chosen) is not chosen:
                raise typer.BadParameter("expected --quiet or --verbose, got both")
            set_volume(chosen)
            # The root's end, which comes also where the rest of the line is refused.
            ctx.find_root().call_on_close(lambda: set_volume(Volume.NORMAL))
        return given

    return choose


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=_chooses(Volume.QUIET),
        help="Print results, warnings and errors only: no progress.",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        callback=_chooses(Volume.VERBOSE),
        help="Show progress in more steps, and what jobs and libraries print.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON and nothing else; AP there is a fraction of 1."),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="Device as torch calls it, such as cpu or cuda:0.",
        show_default="a GPU if there is one",
    ),
]
Optimize = Annotated[
    bool,
    typer.Option(
        "--optimize",
        help="On a CPU, compile the detector first: some seconds at the start, and then a quarter "
        "less for each image; scores differ by rounding.",
    ),
]
Mixed = Annotated[
    bool,
    typer.Option(
        "--mixed", help="Set replayed results beside exact ones all the same; the output says so."
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(
        metavar="N,N,...",
        help="Seeds that are meant instead of the file's.",
        show_default="those of the file",
    ),
]

Root = Annotated[
    Path,
    typer.Option(
        "--root", metavar="FOLDER", envvar="BACL_DATA", help="Folder that holds the data sets."
    ),
]
Train = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Annotation file of the training split.")
]
Val = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Annotation file of the validation split.")
]
Images = Annotated[Path | None, typer.Option(metavar="FOLDER", help="Folder of the images.")]
ValImages = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Folder of the validation images.", show_default="that of --images"
    ),
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="lvis|coco|NAME",
        autocompletion=completion.one_of("lvis", "coco"),
        help="Format of --train and --val; NAME is one that an installed package brings.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="NAME|FILE",
        help="Dataset on whose validation split detections are judged: a data set under --root "
        "(lvis_v0.5, lvis_v1, coco_lt or embedded) or an experiment file.",
    ),
]

DEFAULT_ROOT = Path("bacl_data")


def seeds_of(text: str | None) -> list[int] | None:
    """The seeds that --seeds names."""
    if text is None:
        return None
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        raise UsageError(
            f"--seeds: expected whole numbers with commas between, such as 0,1, got {text!r}"
        )
    return [int(word) for word in text.split(",")]


class Command(TyperCommand):
    """A command whose help shows arguments and defaults as manuals do, without Python's types."""

    def collect_usage_pieces(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [
            piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)
        ]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the tables of arguments and options."""
        for title, rows in records(self, ctx).items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def records(command: Any, ctx: Any) -> dict[str, list[tuple[str, str]]]:
    """What a command takes, under `Arguments` and `Options`: how it is written, and what it is."""
    found: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
    for param in command.get_params(ctx):
        if (record := param.get_help_record(ctx)) is None:
            continue
        argument = param.param_type_name == "argument"
        name = re.sub(r" <.*>$", "", record[0]) if argument else record[0]
        found["Arguments" if argument else "Options"].append((name, _in_words(record[1])))
    return found


def _in_words(text: str) -> str:
    """Help whose ranges are words, and whose defaults stand without parentheses.

    `[default: (none); 1<=x<=5]` becomes `[default: none; 1 to 5]`.
    """
    about, bracket, extra = text.rpartition("  [")
    if not bracket:
        return text
    extra = re.sub(r"default: \((.*)\)(?=[;\]])", r"default: \1", extra)
    extra = re.sub(r"(; )?x>=0\]$", "]", extra)
    extra = re.sub(r"([\d.]+)<=x<=([\d.]+)\]$", r"\1 to \2]", extra)
    return about + bracket + re.sub(r"x>=([\d.]+)\]$", r"at least \1]", extra)


_SETTINGS = {"help_option_names": ["--help", "-h"]}


class App(typer.Typer):
    """A group of such commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(context_settings=_SETTINGS, **options)

    def command(self, *args: Any, **options: Any) -> "Callable[..., Any]":
        return super().command(*args, **{"cls": Command, "context_settings": _SETTINGS, **options})
