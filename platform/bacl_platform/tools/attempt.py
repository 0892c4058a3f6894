"""Trains variants on stored features, at once and in this process: `bacl try`."""

import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.errors import RunError, UsageError
from bacl_platform.plan.job import Job, Plan
from bacl_platform.plan.planner import make_plan
from bacl_platform.run.progress import Progress
from bacl_platform.spec.experiment import ClassifierStage, Experiment, Resources
from bacl_platform.spec.load import load
from bacl_platform.spec.problems import one_of
from bacl_platform.store.store import Store
from bacl_platform.train.messages import Checkpointed, Logged, Message, Started
from bacl_platform.volume import Volume, volume

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared


def read_attempt(
    file: Path, names: Sequence[str], overrides: Sequence[str], stage: str | None, seed: int | None
) -> tuple[Experiment, str]:
    """An experiment with the variants `names` alone in its stage that replays features, and the
    stage's name.

    A name that is no variant of the file's is a method's, with its defaults. Without names, all
    variants of the stage. stage: which one, where there are several. seed: the file's first
    without it.

    Raises:
        UsageError: no such stage or method, or what is wrong with the file.
    """
    plain = load(file)
    stage = _stage(plain, file, stage)
    content = plain.stages[stage]
    assert isinstance(content, ClassifierStage)
    new = [
        f"stages.{stage}.variants.{name}={{method: {name}}}"
        for name in names
        if name not in content.variants
    ]
    experiment = load(file, [*new, *overrides])
    content = experiment.stages[stage]
    assert isinstance(content, ClassifierStage)
    chosen = {name: content.variants[name] for name in names or content.variants}
    stages = {**experiment.stages, stage: content.model_copy(update={"variants": chosen})}
    seeds = [experiment.seeds[0] if seed is None else seed]
    return experiment.model_copy(update={"stages": stages, "seeds": seeds}), stage


def _stage(experiment: Experiment, file: Path, wanted: str | None) -> str:
    replays = [
        name
        for name, stage in experiment.stages.items()
        if isinstance(stage, ClassifierStage) and stage.recipe.features == "replay"
    ]
    if not replays:
        raise UsageError(
            f"{file}: expected a stage with `recipe: {{features: replay}}` after one of kind "
            "features, such as in experiments/embedded/replay.yaml, found none"
        )
    if wanted is None and len(replays) > 1:
        raise UsageError(f"{file}: --stage: expected {one_of(replays)}, got nothing")
    if wanted is not None and wanted not in replays:
        raise UsageError(f"{file}: --stage: expected {one_of(replays)}, got {wanted!r}")
    return wanted or replays[0]


def attempt(
    experiment: Experiment,
    stage: str,
    prepared: "Prepared",
    store: Store,
    progress: Progress,
    run_command: str,
) -> Plan:
    """Train what the store lacks of a stage that replays features, in this process; returns the
    plan, all of whose jobs up to that stage are then in the store.

    progress: on a console that has a file of its own, for standard output is not shown meanwhile.
    run_command: what the user runs for the features.

    Raises:
        UsageError: the features are not in the store.
        RunError: training failed.
    """
    content = experiment.stages[stage]
    assert isinstance(content, ClassifierStage)
    needed = _ancestors(experiment, stage)
    alone = Resources(cpus=content.resources.cpus, gpus=_gpus(content.resources))
    stages = {name: experiment.stages[name] for name in needed}
    stages[stage] = content.model_copy(update={"resources": alone})
    baseline = experiment.baseline if experiment.baseline in content.variants else None
    plan = make_plan(
        experiment.model_copy(update={"stages": stages, "baseline": baseline}), prepared, store
    )
    lacking = [job.name for job in plan.missing(store) if job.stage != stage]
    if lacking:
        raise UsageError(
            f"{', '.join(lacking)}: expected stored features in {store.url}, found none: run "
            f"`{run_command}` first, which makes them"
        )
    log = sys.stderr if volume() is Volume.VERBOSE else StringIO()
    with redirect_stdout(log), redirect_stderr(log):  # MMEngine logs to both
        for job in plan.missing(store):
            _train(job, store, progress)
    return plan


def _ancestors(experiment: Experiment, name: str) -> list[str]:
    """Names of the stages that a stage starts from, itself last."""
    after = getattr(experiment.stages[name], "after", None)
    return [*(_ancestors(experiment, after) if after else []), name]


def _gpus(asked: Resources) -> float:
    import torch

    return float(asked.gpus > 0 and torch.cuda.is_available())


def _train(job: Job, store: Store, progress: Progress) -> None:
    from bacl_platform.train import worker

    def hear(message: Message) -> None:
        if isinstance(message, Started):
            progress.begin(job, message.step)
        elif isinstance(message, Logged):
            progress.move(job, message.rows)
        elif isinstance(message, Checkpointed):
            progress.checkpoint(job, message.step)

    began = time.perf_counter()
    failure = worker.train(job, store, hear, lambda _: None)
    if failure is not None:
        progress.end(job, "failed")
        raise RunError(failure)
    progress.end(job, f"done in {time.perf_counter() - began:.1f} s")
