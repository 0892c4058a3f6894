"""`bacl plan`, `rehearse`, `run`, `try`, `sweep`, `submit`, `status`, `stop` and `logs`: running
jobs and following them.

Commands import what they need when they run.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from bacl.errors import UsageError
from bacl_platform.api.experiment import REHEARSED_IMAGES, REHEARSED_STEPS
from bacl_platform.api.files import DEFAULT_STORE
from bacl_platform.cli import completion
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    Address,
    App,
    Debug,
    Either,
    File,
    Json,
    Quiet,
    Seeds,
    Set,
    StoreOption,
    Verbose,
    seeds_of,
)

app = App()


@app.command()
def plan(
    file: Either,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    seeds: Seeds = None,
    json_: Annotated[
        bool,
        typer.Option(
            "--json",
            help="Print JSON and nothing else: of an experiment its jobs, of a sweep its trials.",
        ),
    ] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Show what a run or sweep would do; start nothing.

    Checks the file and its data, and shows the jobs: which of them the store has, which variants
    share a trunk, how many images all of it processes.

    \b
    Example:
      bacl plan experiments/embedded/demo.yaml
    """
    with report_errors(debug):
        from bacl_platform.api.experiment import Experiment
        from bacl_platform.api.sweep import Sweep
        from bacl_platform.console import Console
        from bacl_platform.spec.sweep import is_sweep

        kind = Sweep if is_sweep(file) else Experiment
        planned = kind.load(file, set_, store_url, seeds_of(seeds)).plan()
        if json_:
            print(json.dumps(planned.as_json(), indent=1))
        else:
            planned.show(Console())


@app.command()
def rehearse(
    file: File,
    store_url: StoreOption = DEFAULT_STORE,
    address: Address = None,
    set_: Set = None,
    seeds: Seeds = None,
    steps: Annotated[
        int, typer.Option(min=20, metavar="N", help="Steps of each stage.")
    ] = REHEARSED_STEPS,
    images: Annotated[
        int, typer.Option(min=2, metavar="N", help="Validation images to evaluate on.")
    ] = REHEARSED_IMAGES,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Try every stage for some steps, and forecast the whole run.

    On the cluster and the data of the run, at full size, in minutes: every stage that the store
    lacks something of trains, beginning with the images that take most memory, is evaluated on some
    images, and writes a checkpoint, an entry and a report. Shows memory beside what there is, the
    time and room that the whole run will take, and what will break; exits with 1 if something will.
    Only figures stay in the store, which `bacl plan` then uses.

    \b
    Examples:
      bacl rehearse experiments/embedded/demo.yaml
      bacl rehearse mine.yaml --address auto --store s3://bacl/store
    """
    with report_errors(debug):
        from bacl_platform.api.experiment import Experiment
        from bacl_platform.console import Console, say

        console = Console(file=sys.stderr if json_ else sys.stdout)
        experiment = Experiment.load(file, set_, store_url, seeds_of(seeds))
        rehearsal = experiment.rehearse(steps, images, address, console)
        if json_:
            print(json.dumps(rehearsal.as_json(), indent=1))
        else:
            rehearsal.show(console)
            if not rehearsal.breaks:
                say(console, f"to run it: {experiment.command}")
        raise typer.Exit(1 if rehearsal.breaks else 0)


@app.command()
def run(
    file: File,
    store_url: StoreOption = DEFAULT_STORE,
    address: Address = None,
    set_: Set = None,
    seeds: Seeds = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Run what the store lacks of an experiment.

    After any interruption the same command goes on from the last checkpoints.

    \b
    Examples:
      bacl run experiments/embedded/demo.yaml
      bacl run mine.yaml --seeds 0,1 --set stages.classifier.recipe.flip=0
    """
    with report_errors(debug):
        from bacl_platform.api.experiment import Experiment
        from bacl_platform.console import Console, remark

        console = Console()
        experiment = Experiment.load(file, set_, store_url, seeds_of(seeds))
        experiment.run(address, console)
        place = experiment.store.url
        remark(console, f"results: bacl report {file}; runs: bacl ui {file}; checkpoints: {place}")


@app.command(name="try")
def try_(
    file: File,
    store_url: StoreOption = DEFAULT_STORE,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            "--variant",
            metavar="NAME",
            help="Variant of the stage, or a method with its defaults; repeatable.",
            show_default="all of the stage",
            autocompletion=completion.variants,
        ),
    ] = None,
    set_: Set = None,
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Stage that replays features, where there are several.",
            autocompletion=completion.stages,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Seed to train.", show_default="the file's first"),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train variants on stored features at once, in this process.

    Evaluates them, too. Takes seconds once `bacl run` has made the features. What was tried is in
    the store like any other job, and is not trained again. Methods of your own come with the
    file's `imports`.

    \b
    Examples:
      bacl try experiments/embedded/replay.yaml --variant bacl --variant softmax
      bacl try mine.yaml --variant fcbl --set stages.heads.variants.fcbl.alpha=1
    """
    with report_errors(debug):
        from bacl_platform.api.experiment import Experiment
        from bacl_platform.console import Console, say

        console = Console(file=sys.stderr if json_ else sys.stdout)
        experiment = Experiment.load(file, store=store_url)
        report = experiment.attempt(variant or [], set_, stage, seed, console)
        if json_:
            print(json.dumps(report.as_json(), indent=1))
            return
        report.show(console)
        say(console, "AP in points, of classifiers trained on stored features. * best.")


@app.command()
def sweep(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Sweep files (YAML); several run as one."),
    ],
    store_url: StoreOption = DEFAULT_STORE,
    address: Address = None,
    set_: Set = None,
    seeds: Seeds = None,
    max_trials: Annotated[
        int, typer.Option(min=1, metavar="N", help="Ask before running more trials than this.")
    ] = 200,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run trials that have failed before again.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Run the trials of sweeps that the store lacks.

    After any interruption the same command goes on from the last checkpoints.

    \b
    Example:
      bacl sweep experiments/sweeps/embedded/table3.yaml
    """
    with report_errors(debug):
        from bacl_platform.api.sweep import Sweep
        from bacl_platform.console import Console, remark

        console = Console()
        sweeps = Sweep.load(files, set_, store_url, seeds_of(seeds))
        for file, count in sweeps.counts.items():
            if count > max_trials:
                question = f"{file}: {count} trials, more than --max-trials {max_trials}"
                if not sys.stdin.isatty():
                    raise UsageError(f"{question}: give --max-trials {count} to run them all")
                typer.confirm(f"{question}: run them all?", abort=True)
        sweeps.run(address, console, retry_failed)
        for file in files:
            remark(console, f"results: bacl report {file}")


@app.command()
def submit(
    file: Either,
    store_url: Annotated[
        str,
        typer.Option(
            "--store",
            metavar="STORE",
            envvar="BACL_STORE",
            help="Store that all nodes of the cluster see: a folder or s3://BUCKET/PREFIX.",
        ),
    ],
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="The cluster's dashboard, such as http://127.0.0.1:8265.",
            show_default="that of RAY_ADDRESS, or a cluster on this machine",
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
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Run an experiment or sweep on a Ray cluster, from outside it.

    Sends the YAML files that FILE is made of, starts a Ray job and follows its log. Ctrl-C leaves
    the job running.

    \b
    Example:
      bacl submit mine.yaml --address http://HEAD:8265 --store s3://bacl/store
    """
    with report_errors(debug):
        from bacl_platform.console import Console
        from bacl_platform.run.submit import submit as submit_file
        from bacl_platform.spec.sweep import is_sweep

        if max_trials is not None and not is_sweep(file):
            raise UsageError(f"--max-trials: expected a sweep, got the experiment {file}")
        options = ["--seeds", seeds] if seeds else []
        options += ["--max-trials", str(max_trials)] if max_trials else []
        exit_code = submit_file(
            file, store_url, Console(), address, set_ or [], options, env or [], code, not no_wait
        )
        raise typer.Exit(exit_code)


@app.command()
def status(store_url: StoreOption = DEFAULT_STORE, debug: Debug = False) -> None:
    """Show what runs in a store and what was interrupted.

    Runs and sweeps of all processes and machines are shown, whoever started them.

    \b
    Examples:
      bacl status
      bacl status --store s3://bacl/store
    """
    with report_errors(debug):
        from bacl_platform.console import Console
        from bacl_platform.store.status import print_status
        from bacl_platform.store.store import Store

        print_status(Store(store_url), Console())


@app.command()
def stop(
    pid: Annotated[
        int | None,
        typer.Argument(metavar="PID", help="A process that `bacl status` shows; without it, all."),
    ] = None,
    store_url: StoreOption = DEFAULT_STORE,
    patience: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for their end.")
    ] = 60,
    debug: Debug = False,
) -> None:
    """Stop runs and sweeps of a store on this machine.

    They write a checkpoint first. What they have trained stays, and their commands go on from it.

    \b
    Examples:
      bacl stop
      bacl stop 4711 --patience 300
    """
    with report_errors(debug):
        from bacl_platform.console import Console
        from bacl_platform.store.drivers import stop as stop_drivers
        from bacl_platform.store.store import Store

        stop_drivers(Store(store_url), pid, patience, Console())


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
        int,
        typer.Option(
            "--lines", "-n", min=1, metavar="N", help="How many of the last lines to show."
        ),
    ] = 40,
    store_url: StoreOption = DEFAULT_STORE,
    debug: Debug = False,
) -> None:
    """Show the last log lines of an unfinished job.

    A job is unfinished while it runs, and when it was interrupted or has failed.

    \b
    Examples:
      bacl logs
      bacl logs classifier-seed0 --lines 200
    """
    with report_errors(debug):
        from bacl_platform.console import Console
        from bacl_platform.store.failures import print_logs
        from bacl_platform.store.store import Store

        print_logs(Store(store_url), job, lines, Console())
