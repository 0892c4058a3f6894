"""`bacl trees`, `doctor`, `complexity` and `bench`.

Commands import what they need when they run.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from bacl.errors import UsageError
from bacl_platform.api.files import DEFAULT_STORE
from bacl_platform.cli import completion
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    App,
    Command,
    Debug,
    Device,
    File,
    Quiet,
    Set,
    StoreOption,
    Verbose,
)

app = App()


@app.command()
def trees(
    file: File,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Finished representation stage whose features the visual tree is made of.",
            autocompletion=completion.stages,
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="File to write.")] = Path(
        "trees.json"
    ),
    visual: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Parents of the visual tree; 0 leaves it out."),
    ] = 25,
    geometric: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Parents of the geometric tree; 0 leaves it out."),
    ] = 50,
    lexical: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Parents of the lexical tree, at least; 0 leaves it out.",
            show_default="0; 108 with --wordnet",
        ),
    ] = None,
    wordnet: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="WordNet's index.noun and data.noun, for --lexical."),
    ] = None,
    boxes: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Boxes of each category that the visual tree is made of."
        ),
    ] = 100,
    device: Device = None,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Make the trees of categories that method forest needs.

    Groups categories by looks (a finished stage's features), shape (box sizes) and meaning
    (WordNet).

    \b
    Example:
      bacl trees mine.yaml --stage representation --out trees.json
    """
    with report_errors(debug):
        from bacl_platform.api.experiment import Experiment
        from bacl_platform.console import Console
        from bacl_platform.tools import trees as making

        one = Experiment.load(file, set_, store_url)
        wanted = making.Wanted(visual, geometric, lexical, stage, boxes, wordnet, device)
        making.make(one.jobs(), one.store, wanted, out, one.command, Console())


@app.command()
def doctor(
    store_url: StoreOption = DEFAULT_STORE, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Try everything that a run needs on this machine.

    The exit code is 1 if a run could not work here.

    \b
    Examples:
      bacl doctor
      bacl doctor --store s3://bacl/store
    """
    with report_errors(debug):
        from bacl_platform.tools import doctor as checks

        raise typer.Exit(checks.run(store_url))


@app.command()
def complexity(
    file: File,
    categories: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Number of categories.", show_default="the dataset's"
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Variant whose classifier the detector has.",
            show_default="the last stage's first",
            autocompletion=completion.variants,
        ),
    ] = None,
    scale: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="HEIGHT WIDTH",
            help="Image size in pixels.",
            show_default="the test scale, landscape",
        ),
    ] = None,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Count a detector's FLOPs and parameters at test.

    By part of the detector, beside the paper's Table XI.

    \b
    Example:
      bacl complexity experiments/lvis/v1.0_r50.yaml --categories 1203
    """
    with report_errors(debug):
        from bacl_platform.api.experiment import Experiment
        from bacl_platform.console import Console
        from bacl_platform.spec.load import load
        from bacl_platform.tools import complexity as counting
        from bacl_platform.tools.stand_in import stand_in

        if categories is None:
            one = Experiment.load(file, set_, store_url)
            experiment, prepared = one.settings, one.prepared
        else:  # the dataset's files need not be there
            experiment = load(file, [*(set_ or []), "dataset={format: embedded}"])
            prepared = stand_in(categories)
        config = counting.config_of(experiment, prepared, variant)
        counting.print_complexity(config, scale, Console())


class BenchCommand(Command):
    """A command whose help ends with what each bench measures."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from bacl_platform.bench import summaries

        with formatter.section("Benches"):
            formatter.write_dl(list(summaries().items()))


@app.command(cls=BenchCommand)
def bench(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="BENCH",
            help="Any of those that are listed below.",
            autocompletion=completion.benches,
        ),
    ],
    json_: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON and nothing else: a list of rows, each with its name, ratio, limit, "
            "and what was measured on both sides.",
        ),
    ] = False,
    repeat: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Rounds to take the median of.",
            show_default="as many as a bench needs",
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            metavar="cpu|cuda",
            help="Device to run on.",
            autocompletion=completion.one_of("cpu", "cuda"),
        ),
    ] = "cpu",
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="CPU threads of torch.")] = 1,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="small|full",
            help="Images of 400x672 or 800x1333 in bank and step; 250 or 5,000 images in evaluate.",
            show_default="small on a CPU, full on a GPU",
            autocompletion=completion.one_of("small", "full"),
        ),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Configuration of MMDetection's whose detector step takes.",
            show_default="R50-FPN",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Time parts of BACL beside others' code, on this machine.

    Each is run in turns with MMDetection's, lvis-api's or a plain loop, and the ratio is compared
    with its limit.

    \b
    Examples:
      bacl bench bank loss
      bacl bench step --device cuda --json
    """
    with report_errors(debug):
        from bacl_platform import bench as benches
        from bacl_platform.console import Console

        known = benches.names()
        if unknown := [name for name in names if name not in known]:
            raise UsageError(f"BENCH: expected some of {', '.join(known)}, got {unknown[0]!r}")
        setting = benches.setting_of(device, scale, repeat, threads, config)
        rows = [row for name in names for row in benches.run(name, setting)]
        if json_:
            print(json.dumps([row.as_json() for row in rows], indent=1))
        else:
            benches.print_rows(rows, setting, Console())
