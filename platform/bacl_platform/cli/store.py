"""`bacl store ls|verify|tag|untag|gc`: what a store has, whether it is intact, what can be removed.

Commands import what they need when they run.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bacl_platform.api.files import DEFAULT_STORE
from bacl_platform.cli.errors import report_errors
from bacl_platform.cli.options import (
    App,
    Debug,
    StoreOption,
)

if TYPE_CHECKING:
    from bacl_platform.store.inventory import StoredEntry

app = App(
    help="""List, verify, tag and tidy up what a store holds.

    \b
    Example:
      bacl store ls --store s3://bacl/store
    """,
    no_args_is_help=True,
    rich_markup_mode=None,
)

Key = Annotated[
    str, typer.Argument(metavar="KEY", help="Key of an entry, as `bacl store ls` shows it.")
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the tag.")]


@app.command()
def ls(store_url: StoreOption = DEFAULT_STORE, debug: Debug = False) -> None:
    """List finished and unfinished jobs of a store.

    Of a finished job's entry: size, age, tags, whether all of its files have their sizes, and
    whether plans of this version still ask for it.

    \b
    Examples:
      bacl store ls
      bacl store ls --store s3://bacl/store
    """
    with report_errors(debug):
        from rich.filesize import decimal
        from rich.table import Table

        from bacl_platform.console import Console, say
        from bacl_platform.store.inventory import inventory
        from bacl_platform.store.status import unfinished_jobs
        from bacl_platform.store.store import Store

        console, store = Console(), Store(store_url)
        table = Table("key", "stage", "seed", "variants", "size", "created", "tags", "state")
        entries = list(inventory(store))
        for entry in entries:
            table.add_row(
                entry.key,
                str(entry.job.get("stage", "?")),
                str(entry.job.get("seed", "?")),
                ", ".join(entry.job.get("variants", {})),
                decimal(entry.bytes),
                entry.created,
                ", ".join(entry.tags),
                _state(entry),
            )
        if entries:
            console.print(table)
        total = decimal(sum(entry.bytes for entry in entries))
        say(console, f"{len(entries)} entries, {total} in {store.url}")
        for job in unfinished_jobs(store):
            step = "no checkpoint yet" if job.checkpoint is None else f"{job.unit} {job.checkpoint}"
            state = "running" if job.running else "interrupted"
            say(console, f"unfinished: {job.name} {job.key}, {state}, {step} of {job.steps}")


def _state(entry: "StoredEntry") -> str:
    if entry.problem is not None:
        return f"broken: {entry.problem}"
    return "whole" if entry.outdated is None else f"whole, not used any more: {entry.outdated}"


@app.command()
def verify(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY", help="Keys of entries; without any, all.")
    ] = None,
    store_url: StoreOption = DEFAULT_STORE,
    debug: Debug = False,
) -> None:
    """Read entries and compare their digests.

    The exit code is 1 if one is broken.

    \b
    Examples:
      bacl store verify
      bacl store verify 5b186d58e85be498
    """
    with report_errors(debug):
        from bacl_platform.console import Console, say
        from bacl_platform.store.inventory import verify as verified
        from bacl_platform.store.store import Store

        console, store = Console(), Store(store_url)
        count = bad = 0
        for key, problem in verified(store, keys or ()):
            count, bad = count + 1, bad + (problem is not None)
            say(console, f"{key}: {problem or 'whole'}")
        say(console, f"{count - bad} of {count} entries in {store.url} are whole")
        if bad:
            raise typer.Exit(1)


@app.command()
def tag(key: Key, name: Name, store_url: StoreOption = DEFAULT_STORE, debug: Debug = False) -> None:
    """Tag an entry, which keeps it from `bacl store gc`.

    What it was trained from is kept, too.

    \b
    Example:
      bacl store tag 5b186d58e85be498 paper-run
    """
    with report_errors(debug):
        from bacl_platform.store import inventory
        from bacl_platform.store.store import Store

        inventory.tag(Store(store_url), key, name)


@app.command()
def untag(
    key: Key, name: Name, store_url: StoreOption = DEFAULT_STORE, debug: Debug = False
) -> None:
    """Take a tag away from an entry.

    \b
    Example:
      bacl store untag 5b186d58e85be498 paper-run
    """
    with report_errors(debug):
        from bacl_platform.store import inventory
        from bacl_platform.store.store import Store

        inventory.untag(Store(store_url), key, name)


@app.command()
def gc(
    keep: Annotated[
        list[Path] | None,
        typer.Option(
            "--keep",
            metavar="FILE",
            help="Experiment or sweep file; repeatable. Entries that none of them needs go, too.",
        ),
    ] = None,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Remove; without it, what would be removed is only shown."
        ),
    ] = False,
    store_url: StoreOption = DEFAULT_STORE,
    debug: Debug = False,
) -> None:
    """Remove leftovers, broken entries and what is not needed.

    Not needed are entries that no plan of this version asks for and, with --keep, those that none
    of the files asks for. Tagged entries, what they were trained from, and what unfinished jobs
    need stay in any case.

    \b
    Example:
      bacl store gc --keep mine.yaml --yes
    """
    with report_errors(debug):
        from rich.filesize import decimal
        from rich.table import Table

        from bacl_platform.console import Console, say
        from bacl_platform.store import garbage
        from bacl_platform.store.store import Store

        console, store = Console(), Store(store_url)
        pieces = garbage.find(store, _needed(keep, store_url) if keep else None)
        if not pieces:
            say(console, f"nothing to remove in {store.url}")
            return
        table = Table("what", "name", "size", "why")
        for piece in pieces:
            table.add_row(piece.kind, piece.name, decimal(piece.bytes), piece.why)
        console.print(table)
        total = decimal(sum(piece.bytes for piece in pieces))
        if yes:
            garbage.remove(store, pieces)
            say(console, f"removed {total} from {store.url}")
        else:
            say(console, f"would remove {total} from {store.url}: give --yes to do so")


def _needed(files: list[Path], store_url: str) -> set[str]:
    """The keys of all jobs of experiments and sweeps."""
    from bacl_platform.api.experiment import Experiment
    from bacl_platform.api.sweep import Sweep
    from bacl_platform.plan.screening import confirmations
    from bacl_platform.spec.sweep import is_sweep

    jobs = []
    for file in files:
        if is_sweep(file):
            sweep = Sweep.load(file, store=store_url)
            plans = sweep.plans()
            then = confirmations(plans, sweep.prepare, sweep.store)
            jobs += [job for plan in (*plans, *then) for job in plan.jobs]
        else:
            jobs += Experiment.load(file, store=store_url).jobs().jobs
    return {key for job in jobs for key in (job.key, job.parent) if key is not None}
