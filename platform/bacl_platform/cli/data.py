"""`bacl data`: brings named data sets here; checks, counts, shows and exports any.

Commands import what they need when they run.
"""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from bacl.errors import UsageError
from bacl_platform.api.files import DEFAULT_STORE, dataset_of
from bacl_platform.cli import completion
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    DEFAULT_ROOT,
    App,
    Debug,
    Format,
    Images,
    Quiet,
    Root,
    Set,
    StoreOption,
    Train,
    Val,
    ValImages,
    Verbose,
)

if TYPE_CHECKING:
    from rich.console import Console

    from bacl import settings
    from bacl.datasets.provide import Request
    from bacl.datasets.stats import Stats

app = App(
    help="""Prepare, verify, count and look at data sets.

    \b
    Example:
      bacl data verify mine.yaml
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)

What = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME|FILE",
        help="A data set under --root (lvis_v0.5, lvis_v1, coco_lt or embedded) or an experiment "
        "file; without it, the files of --train, --val and --images are meant.",
    ),
]


@app.command()
def prepare(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="One of lvis_v0.5, lvis_v1, coco_lt, embedded.",
            autocompletion=completion.one_of(*completion.DATASETS),
        ),
    ],
    root: Root = DEFAULT_ROOT,
    offline: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Take the archives from there and download nothing."),
    ] = None,
    mirror: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            envvar="BACL_MIRROR",
            help="Base address to take the archives from instead of the public ones; repeatable.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List files, sizes and digests; change nothing.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep-archives", help="Keep archives once they are unpacked.")
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Seed of coco_lt's choice of instances, and of the embedded set.",
        ),
    ] = 0,
    authors: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The authors' train_coco2017_LT_sampled.json, for coco_lt as they have drawn it.",
        ),
    ] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Download, check and unpack a data set.

    After any interruption the same command goes on.

    \b
    Example:
      bacl data prepare lvis_v1 --root ~/data
    """
    with report_errors(debug):
        from bacl.datasets.provide import Request, provide
        from bacl.datasets.sources import NAMED
        from bacl_platform.console import Console, Watching, say

        console = Console()
        if name not in NAMED:
            raise UsageError(f"NAME: expected one of {', '.join(NAMED)}, got {name!r}")
        if authors and name != "coco_lt":
            raise UsageError(f"--authors: expected with coco_lt only, got {name}")
        for address in mirror or []:
            if not address.startswith(("http://", "https://")):
                raise UsageError(
                    f"--mirror: expected an address http://... or https://..., got {address!r}; "
                    "for a folder use --offline"
                )
        for path in (offline, authors):
            if path and not path.exists():
                raise UsageError(f"{path}: expected a folder or file, found none")
        request = Request(name, root, mirror or (), offline, keep, seed, authors)
        if dry_run:
            _print_state(request, console)
            return
        with Watching(console) as watching:
            provide(request, watching.say, watching)
        say(console, _how_to_use(name, root))


@app.command()
def verify(
    what: What = None,
    root: Root = DEFAULT_ROOT,
    train: Train = None,
    val: Val = None,
    images: Images = None,
    val_images: ValImages = None,
    format_: Format = "coco",
    quick: Annotated[
        bool, typer.Option("--quick", help="Read only the images' headers and do not decode them.")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Images to read at a time.", show_default="one for each core"
        ),
    ] = None,
    set_: Set = None,
    store_url: StoreOption = DEFAULT_STORE,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Check a data set: images, boxes, polygons, ids, splits.

    Lists all problems; the exit code is 1 if there are any.

    \b
    Examples:
      bacl data verify mine.yaml
      bacl data verify --train train.json --val val.json --images photos
    """
    with report_errors(debug):
        from bacl.datasets import verify as checks
        from bacl.datasets.sources import NAMED, all_spoilt
        from bacl_platform.console import Console, Watching, say
        from bacl_platform.texts import one_line

        console = Console()
        dataset = dataset_of(what, root, [train, val, images, val_images], format_, set_)
        with Watching(console, unit="images") as watching:
            found = checks.verify(
                dataset,
                _cache(dataset, store_url),
                quick,
                workers or os.cpu_count() or 1,
                watching,
                _detector(what, set_),
            )
        if what in NAMED:
            found.problems[:0] = all_spoilt(root, what)
        for kind, sentences in (("problem", found.problems), ("remark", found.remarks)):
            for sentence in sentences:
                line = f"{kind}: {one_line(sentence)}"
                say(console, line)
        how = "their headers" if quick else "decoding them"
        depth = (
            f"{_count(found.images, 'image')} checked by {how}"
            if found.images
            else "no image was there to check"
        )
        counts = (
            _count(len(found.problems), "problem"),
            _count(len(found.remarks), "remark"),
        )
        console.print(f"{', '.join(counts)}; {depth}", highlight=False)
        raise typer.Exit(1 if found.problems else 0)


@app.command()
def stats(
    what: What = None,
    root: Root = DEFAULT_ROOT,
    train: Train = None,
    val: Val = None,
    images: Images = None,
    val_images: ValImages = None,
    format_: Format = "coco",
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder to write to.")
    ] = Path("data_stats"),
    json_: Annotated[
        bool, typer.Option("--json", help="Print JSON and nothing else; write nothing.")
    ] = False,
    set_: Set = None,
    store_url: StoreOption = DEFAULT_STORE,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Count images, instances and groups of a data set.

    Writes long_tail.png, categories.csv and stats.json.

    \b
    Example:
      bacl data stats mine.yaml
    """
    with report_errors(debug):
        from bacl.datasets.stats import stats as count
        from bacl_platform.console import Console

        if what is None and train and images is None:
            images = train.parent  # counting needs no images
        dataset = dataset_of(what, root, [train, val, images, val_images], format_, set_)
        counted = count(dataset, _cache(dataset, store_url))
        text = json.dumps(counted.as_json(), indent=1)
        if json_:
            print(text)
            return
        from bacl_platform.report.plots.long_tail import long_tail
        from bacl_platform.report.plots.style import png

        out.mkdir(parents=True, exist_ok=True)
        (out / "stats.json").write_text(text + "\n", encoding="utf-8")
        counted.save_categories(out / "categories.csv")
        (out / "long_tail.png").write_bytes(png(long_tail(counted)))
        _print_stats(counted, Console())
        print(f"written: {out}/long_tail.png, categories.csv, stats.json")


@app.command()
def browse(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME",
            help="An experiment file; or, to see it as annotated, a data set under --root "
            "(lvis_v0.5, lvis_v1, coco_lt or embedded).",
        ),
    ],
    as_: Annotated[
        Literal["trained", "annotated"] | None,
        typer.Option(
            "--as",
            metavar="trained|annotated",
            help="Images as training sees them, after all steps of its pipeline, or as they are "
            "annotated.",
            show_default="trained, where that is possible",
        ),
    ] = None,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Stage whose training is shown.",
            autocompletion=completion.stages,
            show_default="the first that trains on images",
        ),
    ] = None,
    split: Annotated[
        Literal["train", "val"],
        typer.Option(metavar="train|val", help="Split to show; val is not trained on."),
    ] = "train",
    category: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Show this category only; repeatable."),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Show this frequency group only; repeatable."),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, metavar="N", help="Pictures of each category, at most.")
    ] = 4,
    most: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Pictures in all, at most: categories after that are left out."
        ),
    ] = 240,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Seed whose training is shown; as annotated, that of the choice of images.",
            show_default="the file's first; as annotated, 0",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Page to write (HTML).")
    ] = Path("data_browse.html"),
    open_: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page if this is a terminal.")
    ] = True,
    root: Root = DEFAULT_ROOT,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Look at images with their boxes and masks, rare categories first.

    Writes one page that needs no other file. It shows what a stage trains on, after Copy-Paste,
    scale jitter and flip, in its sampler's order; or what the annotation file says.

    \b
    Examples:
      bacl data browse mine.yaml --group r
      bacl data browse lvis_v1 --as annotated --split val --category bagel
    """
    with report_errors(debug):
        import webbrowser

        from bacl_platform.api.data import browse as browsing
        from bacl_platform.console import Console

        console = Console()
        browsing(
            what,
            out,
            as_,
            stage,
            split,
            category or (),
            group or (),
            images,
            most,
            seed,
            store_url,
            set_,
            root,
            console,
        )
        if open_ and console.is_terminal:
            webbrowser.open(out.resolve().as_uri())


@app.command()
def export(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME",
            help="An experiment file; or, without --variant, a data set under --root (lvis_v0.5, "
            "lvis_v1, coco_lt or embedded).",
        ),
    ],
    to: Annotated[
        Literal["fiftyone"], typer.Option("--to", metavar="fiftyone", help="Tool to write for.")
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FOLDER", help="New or empty folder to write to."),
    ],
    variant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Finished variant of FILE whose detections are written beside; repeatable.",
            autocompletion=completion.variants,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="A seed of FILE.", show_default="the first"),
    ] = None,
    split: Annotated[
        Literal["train", "val"],
        typer.Option(metavar="train|val", help="Split to write; detections are of val."),
    ] = "val",
    score_threshold: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="SCORE", help="Leave out detections with a lower score."
        ),
    ] = 0.05,
    copy: Annotated[
        bool,
        typer.Option("--copy", help="Copy the images, too, so that the folder can be moved."),
    ] = False,
    root: Root = DEFAULT_ROOT,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write a split, and what variants detect in it, for FiftyOne.

    \b
    Example:
      bacl data export mine.yaml --to fiftyone --variant bacl --out looked_at
    """
    with report_errors(debug):
        from bacl_platform.api.data import export_fiftyone
        from bacl_platform.console import Console

        assert to == "fiftyone"  # the only tool, so far
        export_fiftyone(
            what,
            out,
            variant or (),
            seed,
            split,
            score_threshold,
            copy,
            store_url,
            set_,
            root,
            Console(),
        )


def _detector(what: str | None, set_: list[str] | None) -> "settings.Detector | None":
    """The detector of what the user means, if that is an experiment file."""
    from bacl.datasets.sources import NAMED
    from bacl_platform.spec.load import load

    return None if what is None or what in NAMED else load(what, set_).detector


def _cache(dataset: "settings.Dataset", store_url: str) -> Path:
    """Where an experiment's embedded set is made; other datasets leave it alone."""
    from bacl_platform.store.store import Store

    cache = Store(store_url).datasets
    if dataset.format == "embedded":
        cache.mkdir(parents=True, exist_ok=True)
    return cache


def _how_to_use(name: str, root: Path) -> str:
    from bacl.datasets.sources import NAMED

    place = root.resolve()
    content = f"{{format: {name}, root: {place}}}"
    if name == "embedded":  # experiments make their own; this one is for looking at
        paths = {k: v if k == "format" else place / v for k, v in NAMED[name].dataset.items()}
        content = "{" + ", ".join(f"{key}: {value}" for key, value in paths.items()) + "}"
    return f"{name} is whole; in an experiment file:\n  dataset: {content}"


def _print_state(request: "Request", console: "Console") -> None:
    """The plan of a preparation: every archive with size, digest, address and what is there."""
    import shutil

    from bacl.datasets.provide import state
    from bacl_platform.console import say

    states = state(request)
    for item in states:
        console.print(item.name, style="bold", highlight=False)
        rows = {"state": item.text}
        if item.archive:
            size = item.archive.size
            rows = {
                "size": f"{size:,} bytes" if size else "not published",
                "SHA-256": item.archive.sha256 or "none published: noted at the first download",
                "gives": ", ".join(item.archive.files)
                or f"{item.archive.folder}/ ({item.archive.count:,} files)",
                **rows,
            }
        for key, value in rows.items():
            say(console, f"  {key:8}{value}")
    sizes = [item.download for item in states if item.download != 0]
    unknown = sum(size is None for size in sizes)
    there = request.root.resolve()
    while not there.exists():
        there = there.parent
    say(
        console,
        f"to download: {sum(size or 0 for size in sizes):,} bytes"
        + (f" and {_count(unknown, 'archive')} of unknown size" if unknown else "")
        + f"; free on the disk of {request.root}: {shutil.disk_usage(there).free:,} bytes",
    )


def _print_stats(counted: "Stats", console: "Console") -> None:
    from rich.table import Table

    splits = Table("", "training", "validation", box=None, header_style="bold")
    for column in splits.columns[1:]:
        column.justify = "right"
    for title, key in (
        ("images", "images"),
        ("without instances", "images_without_instances"),
        ("file not there", "images_missing"),
        ("instances", "instances"),
        ("crowds", "crowds"),
        ("categories seen", "categories"),
        ("most in an image", "most_instances"),
        ("with a mask", "masks"),
    ):
        values = [getattr(split, key) for split in (counted.train, counted.val)]
        splits.add_row(title, *(f"{value:,}" for value in values))
    console.print(splits)
    names = ("group", f"training {counted.grouped_by}", "categories", "in validation")
    groups = Table(
        *names, "training images", "instances", "val instances", box=None, header_style="bold"
    )
    for column in groups.columns[1:]:
        column.justify = "right"
    for group in counted.groups:
        numbers = (
            group.categories,
            group.categories_in_val,
            group.train_images,
            group.train_instances,
            group.val_instances,
        )
        groups.add_row(group.name, group.range, *(f"{number:,}" for number in numbers))
    console.print(groups)
    unseen = sum(category.instances == 0 for category in counted.categories)
    ratios = [f"{ratio:,.0f} : 1 in {kind}" for kind, ratio in counted.imbalance.items() if ratio]
    imbalance = f"imbalance: {', '.join(reversed(ratios))}; " if ratios else ""
    console.print(
        f"{imbalance}categories without a training instance: {unseen}",
        highlight=False,
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
