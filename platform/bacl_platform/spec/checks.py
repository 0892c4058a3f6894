"""Checks of what no single field of an experiment can know, one sentence for each problem."""

from collections.abc import Iterator
from typing import Any

from bacl_platform.spec.experiment import (
    ClassifierStage,
    Experiment,
    RepresentationStage,
    variants_of,
)
from bacl_platform.spec.problems import one_of, show


def broken_edges(stages: Any) -> Iterator[str]:
    """Dangling and cyclic `after`, read from the raw file to be reported with the rest."""
    if not isinstance(stages, dict):
        return
    after = {name: s["after"] for name, s in stages.items() if isinstance(s, dict) and "after" in s}
    in_cycles: set[str] = set()
    for name, parent in after.items():
        if not isinstance(parent, str):
            continue
        if parent not in stages:
            yield f"stages.{name}.after: expected {one_of(stages)}, got {show(parent)}"
            continue
        walk = [name]
        while isinstance(parent, str) and parent in stages and parent not in walk:
            walk.append(parent)
            parent = after.get(parent)
        if isinstance(parent, str) and parent in walk:
            cycle = walk[walk.index(parent) :]
            if not in_cycles & set(cycle):
                circle = " -> ".join([*cycle, cycle[0]])
                yield f"stages.{name}.after: expected stages without a cycle, got {circle}"
            in_cycles |= set(cycle)
        elif (
            isinstance(stages[after[name]], dict)
            and stages[after[name]].get("kind") == "classifier"
        ):
            yield (
                f"stages.{name}.after: expected a representation stage, "
                f"got the classifier stage {after[name]!r}"
            )


def disagreements(experiment: Experiment) -> Iterator[str]:
    """What no single field can know: names used twice, batches that do not divide, the baseline."""
    if len(set(experiment.seeds)) < len(experiment.seeds):
        yield f"seeds: expected each seed once, got {experiment.seeds}"
    owner: dict[str, str] = {}
    for name, stage in experiment.stages.items():
        batch, workers = stage.recipe.schedule.batch, stage.resources.workers
        if batch % (2 * workers):
            yield (
                f"stages.{name}.recipe.schedule.batch: expected a multiple of {2 * workers} "
                f"(whole image pairs on each of {workers} workers), got {batch}"
            )
        if stage.recipe.precision == "float16" and not stage.resources.gpus:
            yield (
                f"stages.{name}.recipe.precision: expected bfloat16 or float32 without GPUs "
                "(resources.gpus is 0), got 'float16'"
            )
        if not stage.resources.gpus and stage.resources.backend == "nccl":
            yield (
                f"stages.{name}.resources.backend: expected auto or gloo without GPUs "
                "(resources.gpus is 0), got 'nccl'"
            )
        if not stage.resources.gpus and stage.resources.accelerator:
            yield (
                f"stages.{name}.resources.accelerator: expected nothing without GPUs "
                f"(resources.gpus is 0), got {stage.resources.accelerator!r}"
            )
        for variant in variants_of(name, stage):
            if variant in owner:
                yield (
                    f"stages.{name}: expected a variant name of its own, "
                    f"got {variant!r}, which stage {owner[variant]!r} has"
                )
            owner.setdefault(variant, name)
        yield from _unserved(name, stage)
        yield from _followers(name, stage, experiment)
    if experiment.baseline is not None and experiment.baseline not in owner:
        yield f"baseline: expected {one_of(owner)}, got {experiment.baseline!r}"


def _unserved(name: str, stage: RepresentationStage | ClassifierStage) -> Iterator[str]:
    """Problems of methods that the stage's recipe or kind cannot serve."""
    for variant, settings in variants_of(name, stage).items():
        method = f"method {settings.method}"
        if settings.sampler not in (None, stage.recipe.sampler):
            yield (
                f"stages.{name}.recipe.sampler: expected {settings.sampler}, whose images {method} "
                f"of variant {variant} learns from, got {stage.recipe.sampler!r}"
            )
        if settings.end_to_end and isinstance(stage, ClassifierStage):
            yield (
                f"stages.{name}.variants.{variant}: {method} with these options changes what the "
                "box head sees, which other variants share: expected it as the classifier of a "
                "stage of kind representation"
            )


def _followers(
    name: str, stage: RepresentationStage | ClassifierStage, experiment: Experiment
) -> Iterator[str]:
    """Problems of variants that only correct the classifier of the stage before."""
    for variant, settings in variants_of(name, stage).items():
        if not settings.follows:
            continue
        wanted = f"method {settings.method} corrects a classifier that a stage before has trained"
        if isinstance(stage, RepresentationStage):
            yield f"stages.{name}.classifier: {wanted}: expected it in a stage of kind classifier"
            continue
        before = experiment.stages.get(stage.after)
        found = before.classifier.method if isinstance(before, RepresentationStage) else None
        if found is not None and found not in settings.bases:
            yield (
                f"stages.{name}.variants.{variant}: {wanted}: expected stages.{stage.after}."
                f"classifier.method to be {one_of(settings.bases)}, got {found!r}"
            )
