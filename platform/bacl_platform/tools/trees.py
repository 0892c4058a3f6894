"""`bacl trees`: makes the trees of categories that Forest R-CNN's classifiers need.

How each tree is made is in `bacl.forest.trees`; this gathers what it is made of.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.datasets.examine import synsets
from bacl.datasets.prepared import Prepared
from bacl.digests import sha256
from bacl.errors import RunError, UsageError
from bacl_platform.console import say, shows_bars
from bacl_platform.plan.job import Job, Plan
from bacl_platform.store.disk import disk_errors
from bacl_platform.store.names import CHECKPOINT
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console

LEXICAL = 108
"""Parents of the lexical tree where the command does not say: Forest R-CNN's on LVIS v0.5."""
SEED = 0
"""Seed of the draw which boxes are looked at."""


@dataclass(frozen=True)
class Wanted:
    """Numbers of parents, 0 for no tree, and what the trees are made of.

    lexical: None makes the tree of `LEXICAL` parents where it can be made. stage: the
    representation stage whose features the visual tree is of; boxes: at most so many of each
    category are looked at. wordnet: a folder with WordNet's files.
    """

    visual: int
    geometric: int
    lexical: int | None
    stage: str | None
    boxes: int
    wordnet: Path | None
    device: str | None


def make(
    plan: Plan, store: Store, wanted: Wanted, out: Path, command: str, console: "Console"
) -> None:
    """Write the wanted trees of the plan's dataset to a file; shows progress.

    command: what the user runs where the stage is not finished. Raises UsageError for trees that
    cannot be made of this dataset, RunError for a stage that is not in the store.
    """
    from bacl.datasets.index import Index
    from bacl.forest.trees import geometric, lexical, shapes_of, visual, write_trees

    prepared = Prepared.load(store.datasets / plan.jobs[0].dataset_digest / "dataset.json")
    names = [category.name for category in prepared.categories]
    made: dict[str, Any] = {"by": "bacl trees", "dataset": prepared.digest}
    job = _trained(plan, store, wanted.stage, command) if wanted.visual else None
    paths, why_not = _kinds(plan, store, wanted, names)
    if not (job or wanted.geometric or paths):
        raise UsageError(f"expected a tree to make, got none{f': {why_not}' if why_not else ''}")
    trees, asked = {}, {}
    index = Index(prepared.train.index)
    if job is not None:
        means = _features(job, store, index, wanted, console)
        trees["visual"], asked["visual"] = visual(means, wanted.visual), wanted.visual
        made |= {"job": job.key, "stage": job.stage, "seed": job.seed, "boxes": wanted.boxes}
    if wanted.geometric:
        shapes = shapes_of(index, len(names))
        trees["geometric"] = geometric(shapes, wanted.geometric)
        asked["geometric"] = wanted.geometric
    if paths is not None:
        assert wanted.wordnet is not None  # by _kinds
        asked["lexical"] = LEXICAL if wanted.lexical is None else wanted.lexical
        trees["lexical"] = lexical(paths, asked["lexical"])
        made["wordnet"] = sha256(wanted.wordnet / "data.noun")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_trees(out, names, trees, {**made, "parents": asked})

    if why_not:
        say(console, f"no lexical tree: {why_not}")
    for kind, tree in trees.items():
        found = len(set(tree))
        fewer = f" instead of {asked[kind]}, as the categories allow" if found < asked[kind] else ""
        say(console, f"{kind}: {len(names)} categories under {found} parents{fewer}")
    say(console, f"trees: {out}")


def _trained(plan: Plan, store: Store, stage: str | None, command: str) -> Job:
    """The finished job of a representation or imported stage, of the plan's first seed."""
    seed = plan.jobs[0].seed
    jobs = {
        job.stage: job
        for job in plan.jobs
        if job.seed == seed and job.kind in ("representation", "imported")
    }
    if stage not in jobs:
        got = "no --stage" if stage is None else f"--stage {stage}"
        raise UsageError(
            f"{plan.experiment.name}: expected a representation or imported stage for the visual "
            f"tree ({', '.join(jobs)}), got {got}"
        )
    job = jobs[stage]
    if not store.complete(job.key):
        raise RunError(
            f"{stage} (job {job.name}, {job.key}) is not in the store {store.url}: "
            f"run `{command}` first"
        )
    return job


def _kinds(
    plan: Plan, store: Store, wanted: Wanted, names: list[str]
) -> tuple[list[list[str] | None] | None, str | None]:
    """What each category is, by WordNet, or None; and why there is no lexical tree, if so.

    Raises UsageError where the tree was asked for.
    """
    from bacl.forest.wordnet import Nouns

    if wanted.lexical == 0:
        return None, None
    found: list[list[str] | None] = []
    if wanted.wordnet is None:
        reason = "it needs WordNet: expected --wordnet FOLDER, got none"
    else:
        nouns = Nouns(wanted.wordnet)
        own = synsets(plan.experiment.dataset, store.datasets)
        found = [nouns.path(own[name]) if name in own else None for name in names]
        reason = (
            "expected categories with a `synset`, as LVIS has them, got none that is in WordNet"
        )
    if any(found):
        return found, None
    if wanted.lexical is not None:
        raise UsageError(f"--lexical {wanted.lexical}: {reason}")
    return None, reason


def _features(job: Job, store: Store, index: Any, wanted: Wanted, console: "Console") -> Any:
    """The mean feature of each category, by the detector of a finished job."""
    from rich.progress import track

    from bacl_platform.inference.detector import quiet, usable_device

    device = usable_device(wanted.device)
    with quiet():
        import bacl.register  # noqa: F401  # backs the operators before anything asks for them

        # isort: split
        from bacl.forest.box_features import choose, mean_features

    chosen = choose(index, wanted.boxes, SEED)
    return mean_features(
        job.config,
        store.entry(job.key) / CHECKPOINT,
        chosen,
        device,
        lambda images, total: track(
            images,
            f"looking at {sum(map(len, chosen.values()))} boxes",
            total=total,
            console=console,
            transient=True,
            disable=not shows_bars(console),
        ),
    )
