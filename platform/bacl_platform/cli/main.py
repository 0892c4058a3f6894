"""The command line. Commands import what they need when they run, so `bacl --help` is quick."""

import contextlib
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bacl.errors import BaclError, UsageError
from bacl_platform.cli import data, methods
from bacl_platform.cli import store as store_commands
from bacl_platform.cli.options import DEFAULT_STORE, App, Debug, StoreOption
from bacl_platform.redaction import redacted
from bacl_platform.texts import one_line

if TYPE_CHECKING:
    from bacl_platform.plan.job import Plan
    from bacl_platform.plan.sweep_plan import Preparation, SweepPlan
    from bacl_platform.store.store import Store

app = App(
    help="Train, compare and ship long-tailed object detectors.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(store_commands.app, name="store")
app.add_typer(methods.app, name="methods")

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
        "on this machine; without it, RAY_ADDRESS says it, else Ray is started on this machine.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Folder to write to.", show_default="STORE/reports/EXPERIMENT"
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
Seeds = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Run these seeds and not the file's.")
]


@app.command()
def plan(
    file: Either,
    store: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    seeds: Seeds = None,
    debug: Debug = False,
) -> None:
    """Show what a run or sweep would do; start nothing.

    Checks the file and its data, and shows the jobs: which of them the store has, which variants
    share a trunk, how many images all of it processes.

    \b
    Example:
      bacl plan experiments/embedded/demo.yaml
    """
    with told(debug):
        from bacl_platform.console import Console
        from bacl_platform.plan.show import print_plan
        from bacl_platform.plan.weights import check_weights
        from bacl_platform.report.sweep_report import print_sweep
        from bacl_platform.spec.sweep import is_sweep

        if is_sweep(file):
            (sweep,), where, _ = swept([file], store, set_, seeds)
            check_weights(sweep.missing(where))
            print_sweep(sweep, where, Console())
        else:
            what, where = planned(file, store, set_, seeds)
            check_weights(what.missing(where))
            print_plan(what, where, Console())


@app.command()
def run(
    file: File,
    store: StoreOption = DEFAULT_STORE,
    address: Address = None,
    set_: Set = None,
    seeds: Seeds = None,
    debug: Debug = False,
) -> None:
    """Run what the store lacks of an experiment.

    After any interruption the same command goes on from the last checkpoints.

    \b
    Examples:
      bacl run experiments/embedded/demo.yaml
      bacl run mine.yaml --seeds 0,1 --set stages.classifier.recipe.flip=0
    """
    with told(debug):
        from bacl_platform.console import Console
        from bacl_platform.plan.weights import check_weights
        from bacl_platform.run.driver import run as run_plan
        from bacl_platform.store.drivers import driving
        from bacl_platform.tracking.tracking import Tracking

        console = Console()
        what, where = planned(file, store, set_, seeds)
        check_weights(what.missing(where))
        with driving(where):
            run_plan(what, where, Tracking.of_plan(what, where), console, address)
        console.print(
            f"results: bacl report {file}; runs: bacl ui; checkpoints: {where.url}", soft_wrap=True
        )


@app.command()
def sweep(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Sweep files (YAML); several run as one."),
    ],
    store: StoreOption = DEFAULT_STORE,
    address: Address = None,
    set_: Set = None,
    seeds: Seeds = None,
    max_trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="Ask before running more trials than this.")
    ] = 200,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run trials that have failed before again.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run the trials of sweeps that the store lacks.

    After any interruption the same command goes on from the last checkpoints.

    \b
    Example:
      bacl sweep experiments/sweeps/embedded/table3.yaml
    """
    with told(debug):
        from bacl_platform.console import Console
        from bacl_platform.plan.weights import check_weights
        from bacl_platform.store.drivers import driving
        from bacl_platform.tune import sweeps

        console = Console()
        plans, where, prepare = swept(files, store, set_, seeds, max_trials)
        check_weights(job for each in plans for job in each.missing(where))
        with driving(where):
            sweeps.run_sweeps(plans, where, prepare, console, address, retry_failed)
        for file in files:
            console.print(f"results: bacl report {file}", soft_wrap=True, highlight=False)


@app.command()
def submit(
    file: Either,
    store: Annotated[
        str,
        typer.Option(
            metavar="FOLDER|s3://BUCKET/PREFIX",
            envvar="BACL_STORE",
            help="Store that all nodes of the cluster see.",
        ),
    ],
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The cluster's dashboard, such as http://127.0.0.1:8265.",
            show_default="RAY_ADDRESS, or a cluster on this machine",
        ),
    ] = None,
    set_: Set = None,
    seeds: Seeds = None,
    max_trials: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Trials that a sweep may run at most.", show_default="200"
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Pass an environment variable, such as MLFLOW_TRACKING_URI, with the value that "
            "it has here or as NAME=VALUE; repeatable. The cluster's dashboard shows the value.",
        ),
    ] = None,
    code: Annotated[
        bool, typer.Option("--code", help="Send BACL itself, to a cluster that lacks it.")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Return once the job is submitted.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Run an experiment or sweep on a Ray cluster, from outside it.

    Sends the YAML files that FILE is made of, starts a Ray job and follows its log. Ctrl-C leaves
    the job running.

    \b
    Example:
      bacl submit mine.yaml --address http://HEAD:8265 --store s3://bacl/store
    """
    with told(debug):
        from bacl_platform.console import Console
        from bacl_platform.run.submit import submit as submit_file
        from bacl_platform.spec.sweep import is_sweep

        if max_trials is not None and not is_sweep(file):
            raise UsageError(f"--max-trials: expected a sweep, got the experiment {file}")
        options = ["--seeds", seeds] if seeds else []
        options += ["--max-trials", str(max_trials)] if max_trials else []
        exit_code = submit_file(
            file, store, Console(), address, set_ or [], options, env or [], code, not no_wait
        )
        raise typer.Exit(exit_code)


@app.command()
def status(store: StoreOption = DEFAULT_STORE, debug: Debug = False) -> None:
    """Show what runs in a store and what was interrupted.

    Runs and sweeps of all processes and machines are shown, whoever started them.
    """
    with told(debug):
        from bacl_platform.console import Console
        from bacl_platform.store.status import print_status
        from bacl_platform.store.store import Store

        print_status(Store(store), Console())


@app.command()
def stop(
    pid: Annotated[
        int | None,
        typer.Argument(metavar="PID", help="A process that `bacl status` shows; without it, all."),
    ] = None,
    store: StoreOption = DEFAULT_STORE,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for their end.")
    ] = 60,
    debug: Debug = False,
) -> None:
    """Stop runs and sweeps of a store on this machine.

    They write a checkpoint first. What they have trained stays, and their commands go on from it.
    """
    with told(debug):
        from bacl_platform.console import Console
        from bacl_platform.store.drivers import stop as stop_drivers
        from bacl_platform.store.store import Store

        stop_drivers(Store(store), pid, patience, Console())


@app.command()
def logs(
    job: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY|NAME",
            help="An unfinished job, by the key or name that `bacl status` shows; without it, the "
            "job that failed last or, if none has, that logged last.",
        ),
    ] = None,
    lines: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many of the last lines to show.")
    ] = 40,
    store: StoreOption = DEFAULT_STORE,
    debug: Debug = False,
) -> None:
    """Show the last log lines of an unfinished job.

    A job is unfinished while it runs, and when it was interrupted or has failed.
    """
    with told(debug):
        from bacl_platform.console import Console
        from bacl_platform.store.failures import print_logs
        from bacl_platform.store.store import Store

        print_logs(Store(store), job, lines, Console())


@app.command()
def ui(
    store: StoreOption = DEFAULT_STORE,
    port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port on this machine.")
    ] = 5000,
    debug: Debug = False,
) -> None:
    """Open MLflow on the runs of a store, for this machine only.

    Select runs there and press Compare. Ctrl-C stops it.
    """
    with told(debug):
        from bacl_platform.store.store import Store
        from bacl_platform.tracking.tracking import serve

        serve(Store(store), port)


@app.command()
def report(
    context: typer.Context,
    file: Either,
    store: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    seeds: Seeds = None,
    out: Out = None,
    json_: Json = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="Also write the paper's table beside ours.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Only tables and plots of metrics: analyse no errors, draw no images."
        ),
    ] = False,
    images: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="How many images to draw: those on which variants differ most."
        ),
    ] = 6,
    draw: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="Variants to draw.",
            show_default="the baseline and the two best others",
        ),
    ] = None,
    score_threshold: Annotated[
        float,
        typer.Option(min=0, max=1, metavar="SCORE", help="Draw no detections with a lower score."),
    ] = 0.3,
    debug: Debug = False,
) -> None:
    """Compare an experiment's variants or a sweep's trials.

    Prints a table, and writes a page with tables, plots, an analysis of errors and images.

    \b
    Examples:
      bacl report experiments/embedded/demo.yaml
      bacl report experiments/sweeps/embedded/table3.yaml --paper
    """
    with told(debug):
        from bacl_platform.analysis import results
        from bacl_platform.console import Console
        from bacl_platform.report import experiment_report, sweep_report
        from bacl_platform.spec.sweep import is_sweep

        looks = {"--images": "images", "--draw": "draw", "--score-threshold": "score_threshold"}
        chosen = [option for option, name in looks.items() if _is_given(context, name)]
        if quick and chosen:
            raise UsageError(f"--quick draws nothing: leave out {', '.join(chosen)}")
        if is_sweep(file):
            if chosen or quick:
                given = ", ".join([*chosen, *(["--quick"] if quick else [])])
                raise UsageError(f"{given}: expected an experiment, got the sweep {file}")
            _report_sweep(file, store, set_, seeds, out, json_, paper)
            return
        what, where = planned(file, store, set_, seeds)
        command = again(file, store, set_, seeds)
        found = results.collect(what, where, command)
        folder = out or where.root / "reports" / what.experiment.name
        beside = sweep_report.beside_paper(found, file) if paper else None
        sections = []
        if not quick:
            from bacl_platform.analysis import profiles
            from bacl_platform.report import findings

            looked_at = profiles.analyse(found, Console(stderr=True))
            sections = findings.sections(
                found,
                looked_at,
                draw.split(",") if draw else None,
                score_threshold,
                images,
            )
        experiment_report.write(found, folder, command, sections)
        if beside is not None:
            sweep_report.write(beside, folder)
        if json_:
            theirs = {} if beside is None else {"paper": sweep_report.rows_as_json(beside)}
            print(json.dumps({**experiment_report.as_json(found), **theirs}, indent=1))
            return
        experiment_report.print_report(found, folder, where, command, Console())
        if beside is not None:
            print(f"\n{sweep_report.markdown(beside)}")
            sweep_report.print_written(folder, Console())


@app.command()
def compare(
    file: File,
    first: Annotated[str, typer.Argument(metavar="A", help="A variant.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The variant to compare with it.")],
    resamples: Annotated[
        int,
        typer.Option(min=20, metavar="N", help="Resamples of the validation images (bootstrap)."),
    ] = 1000,
    store: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    seeds: Seeds = None,
    out: Out = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Say what variant B gains over A, and how sure that is.

    Gives 95 % intervals by a paired bootstrap over validation images, for all categories, each
    frequency group and each category.

    \b
    Example:
      bacl compare experiments/embedded/demo.yaml softmax bacl
    """
    with told(debug):
        from bacl_platform.analysis import compare, results
        from bacl_platform.console import Console
        from bacl_platform.report import comparison_report as comparing

        what, where = planned(file, store, set_, seeds)
        found = results.collect(what, where, again(file, store, set_, seeds))
        made = compare.compare(found, first, second, resamples, Console(stderr=True))
        page = comparing.write(made, out or where.root / "reports" / what.experiment.name)
        if json_:
            print(json.dumps(comparing.as_json(made), indent=1))
        else:
            comparing.print_comparison(made, page, Console())


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files.")],
    run: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Experiment that has trained --variant.")
    ] = None,
    variant: Annotated[str | None, typer.Option(metavar="NAME", help="A variant of --run.")] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="A seed of --run.", show_default="the first"),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Exported checkpoint, instead of --run and --variant."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Configuration of --checkpoint. It is Python and is executed: use one that you "
            "trust.",
            show_default="config.py beside it",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write to.")] = Path(
        "predictions"
    ),
    score_threshold: Annotated[
        float,
        typer.Option(
            min=0, max=1, metavar="SCORE", help="Leave out detections with a lower score."
        ),
    ] = 0.3,
    device: Device = None,
    store: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Detect objects in images with a trained variant.

    Writes each image with its boxes and masks drawn, and predictions.json.

    \b
    Example:
      bacl predict photo.jpg --run experiments/embedded/demo.yaml --variant bacl
    """
    with told(debug):
        from bacl_platform.console import Console
        from bacl_platform.tools import predict as prediction

        if (run is None) == (checkpoint is None):
            raise UsageError("expected either --run FILE with --variant NAME or --checkpoint FILE")
        if run is not None:
            if config is not None:
                raise UsageError("--config: expected with --checkpoint only, got --run")
            seeds = None if seed is None else str(seed)
            what, where = planned(run, store, set_, seeds)
            checkpoint = prediction.exported(what, where, variant, again(run, store, set_, seeds))
        elif variant is not None or seed is not None or set_:
            raise UsageError("--variant, --seed, --set: expected with --run, got --checkpoint")
        assert checkpoint is not None
        prediction.predict(
            images,
            checkpoint,
            config or checkpoint.with_name("config.py"),
            out,
            score_threshold,
            device,
            Console(),
        )


@app.command()
def trees(
    file: File,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Finished representation stage whose features the visual tree is made of.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")] = Path("trees.json"),
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
            show_default="108 with --wordnet, else 0",
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
    store: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Make the trees of categories that method forest needs.

    Groups categories by looks (a finished stage's features), shape (box sizes) and meaning
    (WordNet).

    \b
    Example:
      bacl trees mine.yaml --stage representation --out trees.json
    """
    with told(debug):
        from bacl_platform.console import Console
        from bacl_platform.tools import trees as making

        what, where = planned(file, store, set_, None)
        wanted = making.Wanted(visual, geometric, lexical, stage, boxes, wordnet, device)
        making.make(what, where, wanted, out, again(file, store, set_, None), Console())


@app.command()
def doctor(store: StoreOption = DEFAULT_STORE, debug: Debug = False) -> None:
    """Try everything that a run needs on this machine."""
    with told(debug):
        from bacl_platform.tools import doctor as checks

        raise typer.Exit(checks.run(store))


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
    store: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    debug: Debug = False,
) -> None:
    """Count a detector's FLOPs and parameters at test.

    By part of the detector, beside the paper's Table XI.

    \b
    Example:
      bacl complexity experiments/lvis/v1.0_r50.yaml --categories 1203
    """
    with told(debug):
        from bacl.datasets.annotations import Prepared
        from bacl_platform.console import Console
        from bacl_platform.spec.load import load
        from bacl_platform.tools import complexity as counting
        from bacl_platform.tools.stand_in import stand_in

        if categories is None:
            what, where = planned(file, store, set_, None)
            experiment, digest = what.experiment, what.jobs[0].dataset_digest
            prepared = Prepared.load(where.datasets / digest / "dataset.json")
        else:  # the dataset's files need not be there
            experiment = load(file, [*(set_ or []), "dataset={format: embedded}"])
            prepared = stand_in(categories)
        config = counting.config_of(experiment, prepared, variant)
        counting.print_complexity(config, scale, Console())


@app.command()
def bench(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="BENCH",
            help="Any of loss, hallucination, bank, step, throughput, postprocess, inference, "
            "evaluate, index, loader, sweep, checkpoint, tracking, zoo.",
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
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Device to run on.")] = "cpu",
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="CPU threads of torch.")] = 1,
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="small|full",
            help="Images of 400x672 or 800x1333 in bank and step; 250 or 5,000 images in evaluate.",
            show_default="small on a CPU, full on a GPU",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Time parts of BACL beside others' code, on this machine.

    Each is run in turns with MMDetection's, lvis-api's or a plain loop, and the ratio is compared
    with its limit.
    """
    with told(debug):
        from bacl_platform import bench as benches
        from bacl_platform.console import Console

        unknown = [name for name in what if name not in benches.BENCHES]
        if unknown:
            raise UsageError(
                f"BENCH: expected some of {', '.join(benches.BENCHES)}, got {unknown[0]!r}"
            )
        setting = benches.setting_of(device, scale, repeat, threads)
        rows = [row for name in what for row in benches.run(name, setting)]
        if json_:
            print(json.dumps([row.as_json() for row in rows], indent=1))
        else:
            benches.print_rows(rows, setting, Console())


def planned(
    file: Path, store: str, overrides: list[str] | None, seeds: str | None
) -> tuple["Plan", "Store"]:
    """The plan of an experiment file and the store it is for; prepares the dataset if need be."""
    from bacl_platform.plan.planner import make_plan
    from bacl_platform.plan.sweep_plan import Preparation
    from bacl_platform.spec.load import load
    from bacl_platform.store.store import Store

    experiment, where = load(file, _chosen(overrides, seeds)), Store(store)
    prepare = Preparation(where)
    prepared = prepare(experiment.dataset)
    for warning in prepare.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    try:
        return make_plan(experiment, prepared, where), where
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _chosen(overrides: list[str] | None, seeds: str | None) -> list[str]:
    """The overrides of a file's fields, those of --seeds among them."""
    if seeds is None:
        return overrides or []
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", seeds):
        raise UsageError(
            f"--seeds: expected whole numbers with commas between, such as 0,1, got {seeds!r}"
        )
    return [*(overrides or []), f"seeds=[{seeds}]"]


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether the user has given an option, and not its default holds."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _report_sweep(
    file: Path,
    store: str,
    overrides: list[str] | None,
    seeds: str | None,
    out: Path | None,
    as_json: bool,
    paper: bool,
) -> None:
    from bacl_platform.console import Console
    from bacl_platform.report import sweep_report

    (sweep,), where, _ = swept([file], store, overrides, seeds)
    table = sweep_report.collect(sweep, where, paper)
    folder = out or where.root / "reports" / table.name
    sweep_report.write(table, folder)
    if as_json:
        print(json.dumps(sweep_report.as_json(table), indent=1))
    else:
        sweep_report.print_table(table, folder, Console())


def swept(
    files: Sequence[Path],
    store: str,
    overrides: list[str] | None,
    seeds: str | None,
    max_trials: int | None = None,
) -> tuple[list["SweepPlan"], "Store", "Preparation"]:
    """Plans of sweep files, the store they are for, and what prepares datasets for more trials.

    Asks on a terminal before planning more trials than `max_trials`; raises UsageError elsewhere.
    """
    from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
    from bacl_platform.plan.trials import SweepFile
    from bacl_platform.store.store import Store

    where = Store(store)
    chosen = _chosen(overrides, seeds)
    read = [SweepFile(file, chosen) for file in files]
    for file in read:
        count = file.sweep.count()
        if max_trials is not None and count > max_trials:
            question = f"{file.path}: {count} trials, more than --max-trials {max_trials}"
            if not sys.stdin.isatty():
                raise UsageError(f"{question}: say --max-trials {count} to run them all")
            typer.confirm(f"{question}: run them all?", abort=True)
    prepare = Preparation(where)
    plans = plan_sweeps(read, [file.trials(where) for file in read], prepare, where)
    for warning in prepare.warnings:
        print(f"warning: {one_line(warning)}", file=sys.stderr)
    return plans, where, prepare


def again(file: Path, store: str, overrides: list[str] | None, seeds: str | None) -> str:
    """The `bacl run` that makes what another command with these options looks for."""
    words = ["bacl", "run", str(file)]
    words += ["--store", store] if store != DEFAULT_STORE else []
    words += [word for override in overrides or [] for word in ("--set", override)]
    words += ["--seeds", seeds] if seeds else []
    return shlex.join(words)


@contextlib.contextmanager
def told(debug: bool) -> Iterator[None]:
    """Turn an error into sentences on stderr and an exit code; with `debug`, let it through."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped: the same command goes on from the last checkpoints", file=sys.stderr)
        raise typer.Exit(130) from None
    except (BaclError, OSError) as error:
        if debug:
            raise
        for line in (_of_disk(error) or str(error)).splitlines():
            print(f"error: {redacted(line)}", file=sys.stderr)
        raise typer.Exit(getattr(error, "exit_code", 1)) from None


def _of_disk(error: Exception) -> str | None:
    """What to tell of an error that is about the disk, wherever it was met."""
    from bacl_platform.store.disk import disk_sentence

    if not isinstance(error, OSError):
        return None
    return disk_sentence(error, Path(error.filename or "the store"))


def main() -> None:
    """The `bacl` command."""
    _in_utf8()
    app()


def _in_utf8() -> None:
    """Start again in Python's UTF-8 mode where file names would be ASCII; show letters that the
    terminal lacks as escapes.

    Python does the former by itself in the C locale unless its environment forbids it, and then no
    file whose name has another letter can be opened, in this process or in those of its jobs.
    """
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
