"""Checks of what no single field of an experiment can know, one sentence for each problem."""

from collections.abc import Iterator
from typing import Any

from bacl.settings import FROZEN_TRUNK
from bacl_platform.spec.experiment import (
    STORED_WITH,
    ClassifierStage,
    CorrectionsStage,
    Experiment,
    FeaturesStage,
    First,
    ImportedStage,
    RepresentationStage,
    Training,
    image_recipe,
    variants_of,
)
from bacl_platform.spec.problems import one_of, show

KINDS = ("representation", "imported", "classifier", "features", "corrections")
"""Of stages."""


TrunkStage = Training | ImportedStage | FeaturesStage
"""Stages whose recipe says how images are shown."""


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
        else:
            yield from _wrong_parent(name, stages)


def _wrong_parent(name: str, stages: dict[str, Any]) -> Iterator[str]:
    """A stage that cannot be after the one that it names, whose kind is another's."""
    stage, parent = stages[name], stages[stages[name]["after"]]
    if not isinstance(parent, dict):
        return
    recipe = stage.get("recipe")
    replayed = isinstance(recipe, dict) and recipe.get("features") == "replay"
    wanted = {
        "classifier": ("features",) if replayed else ("representation", "imported"),
        "features": ("representation", "imported", "classifier"),
        "corrections": ("representation", "imported", "classifier"),
    }.get(stage.get("kind", ""), ())
    kind = parent.get("kind")
    if not wanted or kind not in KINDS or kind in wanted:
        return
    why = ""
    if kind == "corrections":
        why = ": it trains nothing that a stage could start from"
    elif kind == "features" and stage.get("kind") == "corrections":
        why = ": it has no variants to correct"
    elif kind == "features":
        why = ": recipe.features: replay trains on what it stores"
    elif replayed:
        why = ": recipe.features: replay trains on what such a stage stores"
    yield (
        f"stages.{name}.after: expected a stage of kind {' or '.join(wanted)}, got the {kind} "
        f"stage {stage['after']!r}{why}"
    )


def disagreements(experiment: Experiment) -> Iterator[str]:
    """What no single field can know: names used twice, batches that do not divide, the baseline."""
    if len(set(experiment.seeds)) < len(experiment.seeds):
        yield f"seeds: expected each seed once, got {experiment.seeds}"
    owner: dict[str, str] = {}
    for name, stage in experiment.stages.items():
        if isinstance(stage, CorrectionsStage):
            yield from _corrected(name, stage, experiment)
        else:
            yield from _replays(name, experiment)
            yield from _reads_a_trunk(name, stage)
            yield from _without_gpus(name, stage)
        if isinstance(stage, FeaturesStage):
            continue
        if isinstance(stage, Training):
            yield from _of_training(name, stage)
        for variant in variants_of(name, stage):
            if variant in owner:
                yield (
                    f"stages.{name}: expected a variant name of its own, "
                    f"got {variant!r}, which stage {owner[variant]!r} has"
                )
            owner.setdefault(variant, name)
        if isinstance(stage, CorrectionsStage):
            continue
        yield from _unserved(name, stage)
        yield from _followers(name, stage, experiment)
    if experiment.baseline is not None and experiment.baseline not in owner:
        yield f"baseline: expected {one_of(owner)}, got {experiment.baseline!r}"


def _corrected(name: str, stage: CorrectionsStage, experiment: Experiment) -> Iterator[str]:
    """Problems of corrections that name no variant of the stage before, or are not defined for
    it."""
    before = experiment.stages.get(stage.after)
    if before is None or isinstance(before, FeaturesStage | CorrectionsStage):
        return  # `broken_edges` says so
    known = variants_of(stage.after, before)
    for variant, settings in stage.variants.items():
        place = f"stages.{name}.variants.{variant}"
        if settings.of not in known:
            yield f"{place}.of: expected {one_of(known)}, got {settings.of!r}"
        elif problem := settings.misfit(known[settings.of]):
            yield f"{place}.of: correction {settings.method}: {problem}"


def _of_training(name: str, stage: Training) -> Iterator[str]:
    """Problems of a stage's batch, precision and resources."""
    yield from _undivided(name, stage)
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


def _undivided(name: str, stage: Training) -> Iterator[str]:
    """Problems of a batch that workers cannot share in whole pairs of images."""
    batch, parts, asked = stage.recipe.schedule.batch, stage.recipe.accumulate, stage.resources
    in_parts = f" in each of {parts} parts" if parts > 1 else ""
    pairs = stage.recipe.pairs
    workers = 1 if asked.elastic else asked.least
    if batch % (2 * workers * parts):
        yield (
            f"stages.{name}.recipe.schedule.batch: expected a multiple of "
            f"{2 * workers * parts} (whole image pairs on each of {workers} workers"
            f"{in_parts}), got {batch}"
        )
    elif pairs % asked.least or pairs % asked.most:
        which = [str(count) for count in range(1, pairs + 1) if pairs % count == 0]
        yield (
            f"stages.{name}.resources.workers: expected bounds that a batch of {batch} can be "
            f"divided by into whole image pairs{in_parts}, which are {', '.join(which)}, got "
            f"[{asked.least}, {asked.most}]"
        )


def _replays(name: str, experiment: Experiment) -> Iterator[str]:
    """Problems of a stage that stores features, or trains on stored ones."""
    stage = experiment.stages[name]
    if isinstance(stage, ImportedStage | CorrectionsStage):
        return
    if isinstance(stage, RepresentationStage):
        if stage.recipe.features != "exact":
            yield (
                f"stages.{name}.recipe.features: expected exact, because a representation stage "
                "trains the trunk, got 'replay'"
            )
        return
    if isinstance(stage, FeaturesStage):
        return
    before = experiment.stages.get(stage.after)
    rooted = _first(name, experiment) is not None  # else `broken_edges` says so
    if stage.recipe.features == "exact" or not isinstance(before, FeaturesStage) or not rooted:
        return
    if stage.recipe.accumulate > 1:
        yield (
            f"stages.{name}.recipe.accumulate: expected 1 with features: replay, whose steps load "
            f"no images, got {stage.recipe.accumulate}"
        )
    if stage.recipe.tta and before.val:
        yield (
            f"stages.{name}.recipe.tta: expected nothing with features: replay, because stage "
            f"{stage.after!r} stores one view of each validation image; with its val: false, "
            "images are evaluated on exactly"
        )
    shown = image_recipe(experiment, stage.after)
    for field in sorted(stage.recipe.model_fields_set & set(STORED_WITH)):
        if getattr(stage.recipe, field) != getattr(shown, field):
            yield (
                f"stages.{name}.recipe.{field}: expected {show(getattr(shown, field))}, with which "
                f"stage {stage.after!r} stores features, got {show(getattr(stage.recipe, field))}"
            )
    if missing := [part for part in FROZEN_TRUNK if part not in stage.freeze]:
        yield (
            f"stages.{name}.freeze: expected {', '.join(missing)} among what is frozen, because "
            f"stored features do not change with the trunk, got {show(stage.freeze)}"
        )
    for variant, settings in stage.variants.items():
        lacking = [layer for layer in settings.reads if layer not in ("fc2", *before.layers)]
        if lacking:
            yield (
                f"stages.{name}.variants.{variant}: method {settings.method} reads "
                f"{', '.join(lacking)} of a region, which stage {stage.after!r} does not store: "
                f"expected stages.{stage.after}.layers: [{', '.join(lacking)}]"
            )


def _reads_a_trunk(name: str, stage: TrunkStage) -> Iterator[str]:
    """Problems of a stage whose recipe says how a frozen trunk is read."""
    if stage.recipe is None or stage.recipe.trunk is None or isinstance(stage, FeaturesStage):
        return
    why = ""
    if isinstance(stage, RepresentationStage):
        why = "a representation stage trains the trunk"
    elif isinstance(stage, ImportedStage):
        why = "an imported stage does not train"
    elif stage.recipe.features == "replay":
        why = "the steps of a replay pass no trunk, but those of the stage that stores features do"
    elif missing := [part for part in FROZEN_TRUNK if part not in stage.freeze]:
        why = f"the stage trains {', '.join(missing)}"
    if why:
        yield (
            f"stages.{name}.recipe.trunk: expected a stage whose steps pass a frozen trunk, but "
            f"{why}: remove it"
        )


def _without_gpus(name: str, stage: TrunkStage) -> Iterator[str]:
    """Problems of a stage that has no GPUs and decodes images on one."""
    trains = not isinstance(stage, ImportedStage)  # which only tells the stages after it
    if trains and not stage.resources.gpus and stage.recipe and stage.recipe.decoder == "nvjpeg":
        yield (
            f"stages.{name}.recipe.decoder: expected cpu without GPUs (resources.gpus is 0), got "
            "'nvjpeg'"
        )


def _unserved(name: str, stage: Training | ImportedStage) -> Iterator[str]:
    """Problems of methods that the stage's recipe or kind cannot serve."""
    for variant, settings in variants_of(name, stage).items():
        method = f"method {settings.method}"
        if isinstance(stage, Training) and settings.sampler not in (None, stage.recipe.sampler):
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


def _first(name: str, experiment: Experiment) -> First | None:
    """The stage that a stage starts from at last; None where there is none."""
    stage, passed = experiment.stages.get(name), set[str]()
    while isinstance(stage, ClassifierStage | FeaturesStage) and stage.after not in passed:
        passed.add(stage.after)
        stage = experiment.stages.get(stage.after)
    return stage if isinstance(stage, First) else None


def _followers(name: str, stage: Training | ImportedStage, experiment: Experiment) -> Iterator[str]:
    """Problems of variants that only correct the classifier of the stage before."""
    for variant, settings in variants_of(name, stage).items():
        if not settings.follows:
            continue
        wanted = f"method {settings.method} corrects a classifier that a stage before has trained"
        if isinstance(stage, First):
            yield f"stages.{name}.classifier: {wanted}: expected it in a stage of kind classifier"
            continue
        first = _first(name, experiment)
        found = first.classifier.method if first else None
        if found is not None and found not in settings.bases:
            yield (
                f"stages.{name}.variants.{variant}: {wanted}: expected stages.{stage.after}."
                f"classifier.method to be {one_of(settings.bases)}, got {found!r}"
            )
