"""`bacl report`, `evaluate` and `compare`: what finished jobs, detections and detectors say.

Commands import what they need when they run.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bacl.errors import UsageError
from bacl_platform.api.files import DEFAULT_STORE
from bacl_platform.cli import completion
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    DEFAULT_ROOT,
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
    Quiet,
    Root,
    Seeds,
    Set,
    StoreOption,
    Train,
    Val,
    ValImages,
    Verbose,
    seeds_of,
)

if TYPE_CHECKING:
    from bacl_platform.api.shown import Shown

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
        bool,
        typer.Option(
            "--paper",
            help="Set the paper's table beside ours: gains over its first row, or differences "
            "where the data set is the paper's.",
        ),
    ] = False,
    mixed: Mixed = False,
    cross_fit: Annotated[
        bool,
        typer.Option(
            "--cross-fit",
            help="Of a sweep: also choose the best trial on one half of the validation images and "
            "judge it on the other, both ways.",
        ),
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
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare an experiment's variants or a sweep's trials.

    Prints a table, and writes a page with tables and plots and, of an experiment, an analysis of
    errors and images.

    \b
    Examples:
      bacl report experiments/embedded/demo.yaml
      bacl report experiments/sweeps/embedded/table3.yaml --paper
    """
    with report_errors(debug):
        from bacl_platform.api.experiment import Experiment
        from bacl_platform.api.sweep import Sweep
        from bacl_platform.console import Console
        from bacl_platform.spec.sweep import is_sweep

        looks = {"--images": "images", "--draw": "draw", "--score-threshold": "score_threshold"}
        chosen = [option for option, name in looks.items() if _is_given(context, name)]
        if quick and chosen:
            raise UsageError(f"--quick draws nothing: leave out {', '.join(chosen)}")
        if is_sweep(file):
            if chosen or quick:
                given = ", ".join([*chosen, *(["--quick"] if quick else [])])
                raise UsageError(f"{given}: expected an experiment, got the sweep {file}")
            sweep = Sweep.load(file, set_, store_url, seeds_of(seeds))
            shown: Shown = sweep.report(out, paper, mixed, cross_fit)
        else:
            if cross_fit:
                raise UsageError(f"--cross-fit: expected a sweep, got the experiment {file}")
            experiment = Experiment.load(file, set_, store_url, seeds_of(seeds))
            drawn = draw.split(",") if draw else None
            shown = experiment.report(out, quick, paper, mixed, drawn, score_threshold, images)
        if json_:
            print(json.dumps(shown.as_json(), indent=1))
        else:
            shown.show(Console())


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
            autocompletion=completion.one_of("mmdet", "torchvision", "detectron2", "bacl_release"),
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name in tables.", show_default="that of WHAT"),
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
            "--out",
            "-o",
            metavar="FOLDER",
            help="Folder to write to.",
            show_default="STORE/reports/NAME",
        ),
    ] = None,
    json_: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
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
        from bacl_platform.api.files import dataset_of
        from bacl_platform.api.judging import evaluate as judged
        from bacl_platform.console import Console

        found = judged(
            what,
            data
            if data and Path(data).is_file()
            else dataset_of(data, root, [train, val, images, val_images], format_),
            config,
            source,
            name,
            device,
            quick,
            store_url,
            set_,
            out,
        )
        if json_:
            print(json.dumps(found.as_json(), indent=1))
        else:
            found.show(Console())


@app.command()
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="WHAT",
            help="Two or more of FILE.yaml:VARIANT (of a sweep its trial, such as "
            "sweep.yaml:alpha=0.5), results files (.json or .parquet) and folders of `bacl "
            "evaluate`; after a leading FILE.yaml also plain names of its variants. The first is "
            "compared with each of the others; with --all every pair, and then FILE.yaml alone "
            "stands for all its variants.",
            autocompletion=completion.variants,
        ),
    ],
    all_: Annotated[
        bool,
        typer.Option(
            "--all",
            help="Compare every pair: a matrix of who is better than whom, by metric and frequency "
            "group, corrected for the number of pairs (Holm).",
        ),
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME,...",
            help="Metrics to compare by, each with its frequency groups: AP, APFixed, APPool, AR, "
            "ECE, and of masks mask_AP, mask_APFixed, mask_APPool, mask_AR, boundary_AP.",
            show_default="AP and APFixed, of boxes and masks, as far as the results have them",
        ),
    ] = None,
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
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say what B gains over A, and how sure that is.

    Gives 95 % intervals over validation images (drawn anew, the same for all) and seeds, for all
    categories, each frequency group and each category; of boxes and, where both have them, of
    masks. Says which of the two the uncertainty is from, and how many seeds would settle an open
    question.

    \b
    Examples:
      bacl compare experiments/embedded/demo.yaml softmax bacl
      bacl compare A.yaml:bacl B.yaml:bacl results.json
      bacl compare experiments/embedded/demo.yaml --all --metrics AP,APFixed
    """
    with report_errors(debug):
        from bacl_platform.api.files import dataset_of
        from bacl_platform.api.judging import compare as compare_words
        from bacl_platform.api.judging import compare_all
        from bacl_platform.console import Console, say

        dataset = None if data is None else dataset_of(data, root, overrides=set_)
        options: dict[str, Any] = {
            "data": dataset,
            "resamples": resamples,
            "store": store_url,
            "overrides": set_,
            "seeds": seeds_of(seeds),
            "out": out,
            "mixed": mixed,
            "metrics": None if metrics is None else [name.strip() for name in metrics.split(",")],
        }
        if all_:
            matrix = compare_all(*what, **options)
            if json_:
                print(json.dumps(matrix.as_json(), indent=1))
            else:
                matrix.show(Console())
            return
        found = compare_words(*what, **options)
        if json_:
            made = [one.as_json() for one in found]
            print(json.dumps(made if len(made) > 1 else made[0], indent=1))
            return
        for one in found:
            one.show(Console())
        if len(found) > 1:
            say(
                Console(),
                f"Each of the {len(found)} comparisons stands alone; --all corrects for their "
                "number.",
            )


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether the user gave an option, rather than leaving it at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"
