"""A plan as it is shown: states of jobs, what shares a trunk, what was made by other code."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from bacl_platform.console import say
from bacl_platform.plan.cost import cost_lines
from bacl_platform.plan.job import Job, Plan, grouped
from bacl_platform.plan.stored import images_that_train
from bacl_platform.spec.experiment import (
    ClassifierStage,
    CorrectionsStage,
    Experiment,
    First,
    Resources,
)
from bacl_platform.spec.problems import as_yaml
from bacl_platform.store.store import Store
from bacl_platform.store.unfinished import newest_step

if TYPE_CHECKING:
    from rich.console import Console


def print_plan(plan: Plan, store: Store, console: "Console") -> None:
    """Show jobs, what is in the store, what they ask for, what shares a trunk and what it costs."""
    from rich.table import Table

    from bacl_platform.plan.judged import notes, prepared_of

    say(console, f"{plan.experiment.name}, store {store.url}")
    table = Table(box=None, pad_edge=False)
    for column in ("job", "key", "state", "steps", "resources"):
        table.add_column(column, overflow="fold", justify="right" if column == "steps" else "left")
    for job in plan.jobs:
        table.add_row(
            job.name, job.key, state(job, store), str(job.iterations), _asked(job.resources)
        )
    console.print(table)
    _print_variants(plan.jobs, console)
    recipes: dict[str, list[str]] = {}
    training = ("representation", "classifier")
    stages_of = {job.stage: job for job in plan.jobs if job.kind in training}
    for job in stages_of.values():
        recipe = (
            f"{job.recipe.schedule.batch} images a step, learning rate {_learning_rate(job)}, "
            f"sampler {job.recipe.sampler}{_left_out(job)}"
        )
        recipes.setdefault(recipe, []).append(job.stage)
    for recipe, stages in recipes.items():
        say(console, f"{', '.join(stages)}: {recipe}")
    prepared = prepared_of(plan.jobs[0].dataset_digest, store)
    judged = notes([(plan.experiment, prepared)])
    for line in (
        *_of_other_code(plan, store),
        *sharing(plan.experiment),
        *cost_lines(plan, store),
        *judged,
    ):
        say(console, line)


def _print_variants(jobs: Sequence[Job], console: "Console") -> None:
    """Show the variants of jobs, once for the jobs that have the same.

    A job that trains a whole detector is its only variant, and has its name.
    """
    from rich.columns import Columns
    from rich.padding import Padding
    from rich.text import Text

    jobs_of: dict[tuple[str, ...], list[str]] = {}
    for job in jobs:
        if list(job.variants) != [job.stage]:
            jobs_of.setdefault(tuple(job.variants), []).append(job.name)
    for variants, names in jobs_of.items():
        count = f"{len(variants)} variant{'s' * (len(variants) != 1)}"
        say(console, f"{', '.join(names)}: {count}")
        # in columns, as many as fit: a name is never cut in two where it has a line's room
        shown = Columns([Text(name) for name in variants], padding=(0, 3), column_first=True)
        console.print(Padding(shown, (0, 0, 0, 2), expand=False))


def state(job: Job, store: Store) -> str:
    """In words: in the store, unfinished at a step, or to run."""
    if store.complete(job.key):
        return "in store"
    step = newest_step(store, job.key)
    return "to run" if step is None else f"unfinished at {job.unit} {step}"


def _of_other_code(plan: Plan, store: Store) -> Iterator[str]:
    """Which finished jobs were made by sources other than these, in a sentence, if any."""
    known = store.descriptions()
    others = [
        job.name
        for job in plan.jobs
        if store.complete(job.key) and known.get(job.key, {}).get("code") != job.code
    ]
    if others:
        made = "was" if len(others) == 1 else "were"
        yield (
            f"{_listed(others)}: {made} made by other code than this, with the same result versions"
        )


def _left_out(job: Job) -> str:
    """How many training images the recipe leaves out, in words, if any."""
    trained, images = images_that_train(job)
    if trained == images:
        return ""
    return f", {trained:,} of {images:,} images train: the others have no annotations or are small"


def sharing(experiment: Experiment) -> Iterator[str]:
    """Which variants train over one trunk, and why others do not, in sentences."""
    stages = {n: s for n, s in experiment.stages.items() if isinstance(s, ClassifierStage)}
    for name, stage in stages.items():
        groups = [
            _together(list(group)) for group in grouped(stage.variants, stage.variants_per_job)
        ]
        if len(groups) == 1:
            alone = len(stage.variants) == 1
            yield f"{name}: {groups[0]} {'alone' if alone else 'over one trunk'}"
        else:
            yield (
                f"{name}: {len(groups)} trunks because variants_per_job is "
                f"{stage.variants_per_job}: {'; '.join(groups)}"
            )
    for (first, one), (second, other) in combinations(stages.items(), 2):
        if one.after == other.after:
            different = ", ".join(
                f"{field} is {value} in {first} and {its} in {second}"
                for field, value, its in _differences(one.model_dump(), other.model_dump())
            )
            reason = different or "they are separate stages"
            yield f"{first} and {second} do not share a trunk: {reason}"
    for name, corrected in experiment.stages.items():
        if isinstance(corrected, CorrectionsStage):
            yield (
                f"{name}: {_together(list(corrected.variants))} from one pass of the trunk of "
                f"{corrected.after}; nothing trains"
            )
    yield from _whole_detectors(experiment)


def _whole_detectors(experiment: Experiment) -> Iterator[str]:
    """What representation stages train for; none shares a trunk, as each makes its own."""
    after: dict[str, list[str]] = {}
    for name, stage in experiment.stages.items():
        if not isinstance(stage, First):
            after.setdefault(stage.after, []).append(name)
    for name, stages in after.items():
        start = "starts" if len(stages) == 1 else "start"
        made = {"features": "made once for each seed", "imported": "evaluated once"}.get(
            experiment.stages[name].kind, "trained once for each seed"
        )
        yield f"{name}: {made}; {_listed(stages)} {start} from it"
    ends = [
        n for n, s in experiment.stages.items() if s.kind == "representation" and n not in after
    ]
    if len(ends) == 1:
        yield f"{ends[0]} trains the whole detector: a job of its own"
    elif ends:
        yield f"{_listed(ends)} each train the whole detector: a job each"


def _together(names: list[str]) -> str:
    """Variants of one trunk in a sentence; of many, the first and the last."""
    if len(names) <= 8:
        return " + ".join(names)
    return f"{len(names)} variants ({names[0]} to {names[-1]})"


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _differences(
    one: dict[str, Any], other: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """(field, value, value) of what two stages' trunks differ in, as their file has it."""
    for name, value in one.items():
        if name in ("variants", "variants_per_job", "resources"):
            continue
        if isinstance(value, dict):
            yield from _differences(value, other[name], f"{prefix}{name}.")
        elif value != other[name]:
            yield f"{prefix}{name}", as_yaml(value), as_yaml(other[name])


def _learning_rate(job: Job) -> str:
    schedule = job.recipe.schedule
    if schedule.batch == schedule.lr_batch:
        return f"{schedule.lr:g}"
    return f"{schedule.scaled_lr:g} = {schedule.lr:g} x {schedule.batch}/{schedule.lr_batch}"


def _asked(resources: Resources) -> str:
    where = f" {resources.placement}" if resources.placement != "PACK" else ""
    return f"{resources.span} x ({resources.each}){where}"
