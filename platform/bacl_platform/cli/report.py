"""`bacl report`, `evaluate` and `compare`: what finished jobs, detections and detectors say.

Commands import what they need when they run.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bacl.errors import UsageError
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    DEFAULT_ROOT,
    DEFAULT_STORE,
    App,
    Data,
    Debug,
    Device,
    Either,
    Format,
    Images,
    Json,
    Mixed,
    Out,
    Root,
    Seeds,
    Set,
    StoreOption,
    Train,
    Val,
    ValImages,
)
from bacl_platform.cli.plans import (
    dataset_of,
    planned,
    prepare_dataset,
    prepared_dataset,
    rerun_command,
    swept,
)

app = App()


@app.command()
def report(
    context: typer.Context,
    file: Either,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    seeds: Seeds = None,
    out: Out = None,
    json_: Json = False,
    paper: Annotated[
        bool, typer.Option("--paper", help="Also write the paper's table beside ours.")
    ] = False,
    mixed: Mixed = False,
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
    with report_errors(debug):
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
            _report_sweep(file, store_url, set_, seeds, out, json_, paper, mixed)
            return
        plan, store = planned(file, store_url, set_, seeds)
        command = rerun_command(file, store_url, set_, seeds)
        found = results.collect(plan, store, command)
        folder = out or store.root / "reports" / plan.experiment.name
        beside = sweep_report.beside_paper(found, file, mixed) if paper else None
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
        experiment_report.print_report(found, folder, store, command, Console())
        if beside is not None:
            print(f"\n{sweep_report.markdown(beside)}")
            sweep_report.print_written(folder, Console())


@app.command()
def evaluate(
    what: Annotated[
        Path,
        typer.Argument(
            metavar="WHAT",
            help="A results file (COCO's or LVIS's JSON list of detections, or a store's "
            "detections.parquet), a checkpoint of MMDetection, torchvision, detectron2 or BACL's "
            "release, or the folder of an exported variant.",
        ),
    ],
    data: Data = None,
    root: Root = DEFAULT_ROOT,
    train: Train = None,
    val: Val = None,
    images: Images = None,
    val_images: ValImages = None,
    format_: Format = "coco",
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Configuration of a checkpoint. It is Python and is executed: use one that you "
            "trust.",
            show_default="config.py beside it; without one, the detector of --data",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="TOOL",
            help="Where a checkpoint without a configuration is from: mmdet, torchvision, "
            "detectron2 or bacl_release.",
            show_default="recognised by its names",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name in tables.", show_default="of WHAT")
    ] = None,
    device: Device = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only AP and its tables: analyse no errors.")
    ] = False,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Folder to write to.", show_default="STORE/reports/NAME"
        ),
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Judge detections or a detector on a validation split.

    Prints AP, and writes a report: categories, errors by kind, confusions. `bacl compare` sets
    results files, and the folders that this writes of checkpoints, beside variants of a store.

    \b
    Examples:
      bacl evaluate results.json --data mine.yaml
      bacl evaluate model.pth --config model.py --data lvis_v1
      bacl evaluate fasterrcnn_resnet50_fpn.pth --data mine.yaml
    """
    with report_errors(debug):
        from bacl.results_files import is_results
        from bacl_platform.console import Console
        from bacl_platform.report import evaluation_report, experiment_report
        from bacl_platform.store.store import Store

        if is_results(what) and (config is not None or device is not None):
            raise UsageError(f"--config, --device: expected with a checkpoint, got {what}")
        if not what.exists():
            raise UsageError(f"{what}: there is no such file or folder")
        dataset = dataset_of(data, root, [train, val, images, val_images], format_, set_)
        prepared = prepare_dataset(dataset, store_url)
        title = name or (what.resolve().name if what.is_dir() else what.stem)
        out = out or Store(store_url).root / "reports" / title
        progress = Console(stderr=True)
        if is_results(what):
            from bacl_platform.analysis.files import report_of_file

            report = report_of_file(what, title, prepared)
        else:
            from bacl_platform.inference.detector import files_of
            from bacl_platform.spec.load import load
            from bacl_platform.tools.evaluate import evaluate_checkpoint, take_in

            found = files_of(what, config)
            with tempfile.TemporaryDirectory() as folder:
                if not found[1].exists() and config is None:
                    if data is None or not Path(data).is_file():
                        raise UsageError(
                            f"{what}: expected config.py beside it, --config FILE, or --data with "
                            "an experiment file whose `detector` the checkpoint is of"
                        )
                    experiment = load(data, set_)
                    found = take_in(found[0], source, experiment, prepared, Path(folder), progress)
                report = evaluate_checkpoint(*found, title, prepared, out, device, progress)
        analysis, sections = None, []
        if not quick:
            from bacl_platform.analysis import profiles
            from bacl_platform.report import findings

            analysis = profiles.analyse(report, progress)
            sections = findings.sections(report, analysis, None, 0, 0)
        sections[:0] = evaluation_report.sections(report, analysis)
        experiment_report.write(report, out, "", sections)
        if json_:
            print(json.dumps(evaluation_report.as_json(report, analysis), indent=1))
        else:
            evaluation_report.print_evaluation(report, out, Console())


@app.command()
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT...",
            help="Two or more of FILE.yaml:VARIANT (of a sweep its trial, such as "
            "sweep.yaml:alpha=0.5), results files (.json or .parquet) and folders of `bacl "
            "evaluate`; after a leading FILE.yaml also plain names of its variants. The first is "
            "compared with each of the others.",
        ),
    ],
    data: Data = None,
    root: Root = DEFAULT_ROOT,
    resamples: Annotated[
        int,
        typer.Option(min=20, metavar="N", help="Resamples of the validation images (bootstrap)."),
    ] = 1000,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    seeds: Seeds = None,
    out: Out = None,
    json_: Json = False,
    mixed: Mixed = False,
    debug: Debug = False,
) -> None:
    """Say what B gains over A, and how sure that is.

    Gives 95 % intervals by a paired bootstrap over validation images, for all categories, each
    frequency group and each category; of boxes and, where both have them, of masks.

    \b
    Examples:
      bacl compare experiments/embedded/demo.yaml softmax bacl
      bacl compare A.yaml:bacl B.yaml:bacl results.json
    """
    with report_errors(debug):
        from bacl_platform.analysis import compare
        from bacl_platform.cli.contenders import contenders, read_words
        from bacl_platform.console import Console
        from bacl_platform.report import comparison_report as comparing
        from bacl_platform.store.store import Store

        words = read_words(what)
        dataset = None if data is None else prepared_dataset(data, root, store_url, set_)
        first, *others = contenders(words, dataset, store_url, set_, seeds)
        console, shown = Console(stderr=True), []
        for other in others:
            made = compare.compare(first, other, resamples, console, mixed=mixed)
            named = next((c.place for c in (first, other) if c.experiment), "files")
            page = comparing.write(made, out or Store(store_url).root / "reports" / named)
            shown.append(comparing.as_json(made))
            if not json_:
                comparing.print_comparison(made, page, Console())
        if json_:
            print(json.dumps(shown if len(shown) > 1 else shown[0], indent=1))


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option, rather than leaving it at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _report_sweep(
    file: Path,
    store_url: str,
    overrides: list[str] | None,
    seeds: str | None,
    out: Path | None,
    as_json: bool,
    paper: bool,
    mixed: bool,
) -> None:
    from bacl_platform.console import Console
    from bacl_platform.plan.screening import confirmations
    from bacl_platform.report import sweep_report

    (sweep,), store, prepare = swept([file], store_url, overrides, seeds)
    confirmed = next(iter(confirmations([sweep], prepare, store)), None)
    table = sweep_report.collect(sweep, store, paper, confirmed, mixed)
    folder = out or store.root / "reports" / table.name
    sweep_report.write(table, folder)
    if as_json:
        print(json.dumps(sweep_report.as_json(table), indent=1))
    else:
        sweep_report.print_table(table, folder, Console())
