"""`bacl register`, `promote` and `serve`: a trained variant in use.

Commands import what they need when they run.
"""

from typing import Annotated

import typer

from bacl_platform.api.files import DEFAULT_STORE
from bacl_platform.cli import completion
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    Address,
    App,
    Debug,
    File,
    Mixed,
    Optimize,
    Quiet,
    Set,
    StoreOption,
    Verbose,
)

app = App()

VariantOption = Annotated[
    str | None,
    typer.Option(
        "--variant",
        metavar="NAME",
        help="A variant of the experiment file.",
        autocompletion=completion.variants,
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        "--seed",
        min=0,
        metavar="N",
        help="A seed of the experiment file.",
        show_default="the first",
    ),
]


@app.command()
def register(
    file: File,
    variant: VariantOption = None,
    seed: SeedOption = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Name of the registered model.", show_default="the experiment's"
        ),
    ] = None,
    alias: Annotated[
        str | None,
        typer.Option(
            metavar="ALIAS",
            help="Alias for the version, such as champion, if no other version has it.",
        ),
    ] = None,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Register a finished variant as a model in MLflow.

    The version has weights, configuration, categories, code and pinned requirements, answers images
    under `mlflow models serve`, and is linked to its run. It is tried before anything is sent.

    \b
    Example:
      bacl register mine.yaml --variant bacl --name birds --alias champion
    """
    with report_errors(debug):
        from bacl_platform.api.experiment import Experiment
        from bacl_platform.console import Console, say

        made = Experiment.load(file, set_, store_url).register(variant, seed, name, alias)
        aliases = f" ({', '.join(made.aliases)})" if made.aliases else ""
        was = "" if made.is_new else ", which it was already"
        say(Console(), f"{variant} is version {made.version}{aliases} of {made.name}{was}")
        say(Console(), f"serve it: bacl serve {made.uri}")


@app.command()
def promote(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A registered model.")],
    alias: Annotated[str, typer.Option(metavar="ALIAS", help="The alias that moves.")] = "champion",
    version: Annotated[
        str | None,
        typer.Option(
            metavar="N|ALIAS", help="The version that gets it.", show_default="the newest"
        ),
    ] = None,
    metric: Annotated[
        str, typer.Option(metavar="METRIC", help="Metric that must be better, such as AP_r.")
    ] = "AP",
    resamples: Annotated[
        int,
        typer.Option(min=20, metavar="N", help="Resamples of the validation images (bootstrap)."),
    ] = 1000,
    anyway: Annotated[
        bool,
        typer.Option("--anyway", help="Move the alias also where no improvement is shown."),
    ] = False,
    mixed: Mixed = False,
    store_url: StoreOption = DEFAULT_STORE,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Give an alias to a version that is shown to be better.

    Compares the detections of the alias's present holder and of that version, which the store has,
    as `bacl compare` does: the alias moves where the whole 95 % interval of the difference is above
    zero.

    \b
    Example:
      bacl promote shapes --alias champion --metric AP_r
    """
    with report_errors(debug):
        from bacl_platform.api.ship import promote as promoting

        promoting(name, alias, version, metric, store_url, anyway, mixed, resamples)


@app.command()
def serve(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT",
            help="An experiment file whose --variant is finished, models:/NAME@ALIAS or "
            "models:/NAME/VERSION of the registry, or a folder with checkpoint.pth and config.py. "
            "config.py is Python and is executed: serve what you trust.",
        ),
    ],
    variant: VariantOption = None,
    seed: SeedOption = None,
    replicas: Annotated[
        int, typer.Option(min=1, metavar="N", help="Processes that have the detector.")
    ] = 1,
    gpus: Annotated[
        float,
        typer.Option(
            min=0, metavar="N", help="GPUs of each, such as 0.5 where two share one; 0: the CPU."
        ),
    ] = 0,
    cpus: Annotated[
        float, typer.Option(min=0.1, metavar="N", help="CPU cores of each, and its threads.")
    ] = 1,
    batch: Annotated[
        int,
        typer.Option(
            min=1,
            metavar="N",
            help="Images that are taken together at most; on a GPU they pass the detector at once.",
        ),
    ] = 8,
    batch_wait: Annotated[
        float,
        typer.Option(min=0, metavar="SECONDS", help="How long the first of them waits for others."),
    ] = 0.01,
    queue: Annotated[
        int,
        typer.Option(
            min=0,
            metavar="N",
            help="Requests that wait at most while all replicas are busy; more get the status 503.",
        ),
    ] = 64,
    timeout: Annotated[
        float,
        typer.Option(min=0.1, metavar="SECONDS", help="Time for a request; later ones get 408."),
    ] = 60,
    max_pixels: Annotated[
        int, typer.Option(min=1, metavar="N", help="Pixels of an image, width times height.")
    ] = 25_000_000,
    max_bytes: Annotated[
        int, typer.Option(min=1, metavar="N", help="Bytes of an image's file.")
    ] = 20 << 20,
    score_threshold: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="SCORE",
            help="Lowest score of what is answered, where a request does not say it.",
        ),
    ] = 0.3,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Address to listen at; any but 127.0.0.1 lets others in, without a password.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", "-p", min=1, max=65535, metavar="PORT", help="Its port.")
    ] = 8000,
    metrics_port: Annotated[
        int,
        typer.Option(
            min=1,
            max=65535,
            metavar="PORT",
            help="Port of this machine where Prometheus finds the metrics; of a Ray that is "
            "started here, a cluster has its own.",
        ),
    ] = 8001,
    optimize: Optimize = False,
    address: Address = None,
    store_url: StoreOption = DEFAULT_STORE,
    set_: Set = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Detect in images that come over HTTP, until Ctrl-C.

    POST an image to /detect: the answer is JSON, or a drawn picture with ?format=png. Runs on Ray
    Serve; see docs/guides/serving.md.

    \b
    Examples:
      bacl serve experiments/embedded/demo.yaml --variant bacl
      bacl serve models:/birds@champion --replicas 2 --gpus 0.5
      curl --data-binary @photo.jpg http://127.0.0.1:8000/detect
    """
    with report_errors(debug):
        from bacl_platform.api import ship
        from bacl_platform.api.experiment import Experiment
        from bacl_platform.inference.received import Bounds
        from bacl_platform.serving.application import Settings
        from bacl_platform.serving.server import Place

        bounds = Bounds(max_bytes, max_pixels)
        settings = Settings(
            replicas, cpus, gpus, batch, batch_wait, queue, bounds, optimize, score_threshold
        )
        place = Place(host, port, metrics_port, timeout)
        ship.serve(
            Experiment.load(what, set_, store_url) if set_ else what,
            variant,
            seed,
            store_url,
            settings,
            place,
            address,
        )
