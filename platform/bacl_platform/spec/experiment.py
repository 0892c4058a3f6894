"""One experiment file as validated settings: a dataset, a detector, a DAG of stages.

What a file may say below stage level is in `bacl.settings`. `spec.load` reads files into these.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag, model_validator

from bacl.method_settings.base import Method
from bacl.method_settings.corrections import Corrected
from bacl.method_settings.paper import BCE, Softmax
from bacl.method_settings.registry import Variant
from bacl.schema import Settings, meaning
from bacl.settings import (
    FROZEN_TRUNK,
    Dataset,
    Detector,
    EvaluationRecipe,
    Features,
    FilePath,
    ImageRecipe,
    Recipe,
    Schedule,
    Seed,
)

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
"""Name of a stage or a variant."""

Title = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""Name of an experiment, which names a folder, too."""


Count = Annotated[int, Field(gt=0)]

Workers = Annotated[
    Annotated[Count, Tag("integer")] | Annotated[tuple[Count, Count], Tag("array")],
    Discriminator(lambda given: "array" if isinstance(given, list | tuple) else "integer"),
]
"""A number of workers, or the bounds of a range."""


class Resources(Settings):
    """What a job of the stage asks of the cluster."""

    workers: Workers = Field(1, examples=[2, [2, 8]])
    """Training processes; the batch is divided among them. `[2, 8]` is for a cluster whose nodes
    come and go: the job trains with as many as there is room for, at least the first and at most
    the second, of the numbers that the batch can be divided by, of which both bounds are. The batch
    and the learning rate stay as they are, and so do the images and draws of every step."""
    cpus: int = Field(1, gt=0)
    """CPU cores, and torch threads, of each worker."""
    gpus: float = Field(0, ge=0)
    """GPUs of each worker."""
    memory: float = Field(0, ge=0)
    """GiB of main memory that Ray sets aside for each worker."""
    accelerator: Annotated[str, meaning("a kind of GPU such as H100")] | None = Field(
        None, examples=["H100"]
    )
    """Kind of the GPUs as Ray calls it, such as `H100`; null takes any."""
    labels: dict[str, str] = Field({}, examples=[{"zone": "in(a,b)"}])
    """Labels of the nodes that workers may be on; a value may be `!a`, `in(a,b)` or `!in(a,b)`."""
    custom: dict[str, Annotated[float, Field(gt=0)]] = Field({}, examples=[{"licence": 1}])
    """What each worker asks for of resources that the cluster has named itself."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = "PACK"
    """Whether workers are on few nodes or many; the strict ones are on one, or on one each."""
    backend: Literal["auto", "nccl", "gloo"] = "auto"
    """What gradients are summed with; auto is nccl with GPUs and gloo without."""
    patience: int = Field(30, ge=10)
    """Seconds that a worker may be silent before the job goes on without it, from its last
    checkpoint. Ray asks it every second, also while it trains or evaluates."""
    retries: int = Field(2, ge=0)
    """How many deaths of a worker a job survives before it counts as failed."""
    grow_after: int = Field(300, ge=10)
    """Seconds, at least, that a job whose workers are a range trains before it starts again with
    more of them, from a checkpoint that it writes then; it does so where it gains twice the time
    that starting takes."""

    @model_validator(mode="after")
    def _fewest_first(self) -> "Resources":
        if self.least > self.most:
            raise ValueError(
                f"workers: expected the smaller number first, got [{self.least}, {self.most}]"
            )
        return self

    @property
    def elastic(self) -> bool:
        """Whether the number of workers may change while a job trains."""
        return isinstance(self.workers, tuple)

    @property
    def least(self) -> int:
        """The fewest workers that a job trains with."""
        return self.workers[0] if isinstance(self.workers, tuple) else self.workers

    @property
    def most(self) -> int:
        """The most workers that a job trains with."""
        return self.workers[1] if isinstance(self.workers, tuple) else self.workers

    @property
    def span(self) -> str:
        """How many workers, such as `2` or `2-8`."""
        return f"{self.least}-{self.most}" if self.elastic else str(self.workers)

    @property
    def each(self) -> str:
        """What one worker asks for, in words, such as `1 CPU, 2 GPU (H100)`."""
        parts = [f"{self.cpus} CPU"]
        if self.gpus:
            kind = f" ({self.accelerator})" if self.accelerator else ""
            parts.append(f"{self.gpus:g} GPU{kind}")
        if self.memory:
            parts.append(f"{self.memory:g} GiB")
        parts += [f"{amount:g} {name}" for name, amount in self.custom.items()]
        parts += [f"label {name}={value}" for name, value in self.labels.items()]
        return ", ".join(parts)


class RepresentationStage(Settings):
    """Stage 1: trains the whole detector with one classifier."""

    kind: Literal["representation"]
    classifier: Variant = BCE(method="bce")
    """The method of the classifier that the detector trains with."""
    recipe: Recipe
    """Schedule, images, augmentation and checkpoints of training."""
    resources: Resources = Resources()
    """Workers of the stage's jobs, and what each asks of the cluster."""


class ClassifierStage(Settings):
    """Stage 2: trains variants of the classifier over one trunk, whose features are frozen."""

    kind: Literal["classifier"]
    after: Annotated[str, meaning("the name of a stage")]
    """The representation or imported stage that the trunk comes from; or the stage of kind
    `features` whose features are replayed."""
    freeze: list[Annotated[str, meaning("the name of a part of the detector")]] = list(FROZEN_TRUNK)
    """Parts of the detector that do not train; `*` stands for anything in their names."""
    variants: dict[Name, Variant] = Field(
        min_length=1, examples=[{"bacl": {"method": "bacl"}, "softmax": {"method": "softmax"}}]
    )
    """Classifiers that train side by side, by names of one's own; each says its `method` and that
    method's options."""
    variants_per_job: int | None = Field(None, gt=0)
    """Variants that share one trunk; null puts all into one job."""
    recipe: Recipe
    """Schedule, images, augmentation and checkpoints of training."""
    resources: Resources = Resources()
    """Workers of the stage's jobs, and what each asks of the cluster."""


class FeaturesStage(Features):
    """Passes all images through the trunk of a stage once, and stores what its classifiers see."""

    kind: Literal["features"]
    after: Annotated[str, meaning("the name of a representation, imported or classifier stage")]
    """The stage whose trunk, proposals and box regressor features are of."""
    recipe: ImageRecipe | None = None
    """What of the recipe of the stage that it is after is different here."""
    resources: Resources = Resources()
    """Workers of the stage's jobs, and what each asks of the cluster."""


class ImportedStage(Settings):
    """Stage 1 that is there already: a trained detector's checkpoint, evaluated once."""

    kind: Literal["imported"]
    checkpoint: FilePath = Field(examples=["${WEIGHTS}/detector.pth"])
    """A file of tensors: of MMDetection, torchvision, detectron2 or BACL's release."""
    source: Literal["mmdet", "torchvision", "detectron2", "bacl_release"] | None = None
    """Where the checkpoint is from; null recognises it by its names."""
    categories: Annotated[list[str], Field(min_length=1)] | None = None
    """The checkpoint's own categories in the order of its columns, where it does not name them or
    names them otherwise than the dataset; the dataset's are found among them by name. Null takes
    what the checkpoint says, and else the dataset's order."""
    new_categories: bool = False
    """Whether the dataset has categories that the checkpoint lacks: then the classifier, and box
    regressor and masks where they are made for each category, begin anew."""
    norm_eps: float | None = Field(None, ge=0)
    """Eps of a torchvision checkpoint's frozen batch norms; null for 0, that of the published
    weights. Detectors that were trained from a backbone of ImageNet have 1e-5."""
    classifier: Variant = Softmax(method="softmax")
    """The method whose scores the checkpoint's classifier gives."""
    recipe: EvaluationRecipe = EvaluationRecipe()
    """How images are shown in its evaluation, and to stages of kind `features` after it."""
    resources: Resources = Resources()
    """Workers of the stage's job, and what each asks of the cluster."""

    @model_validator(mode="after")
    def _categories_are_matched_or_new(self) -> "ImportedStage":
        if self.new_categories and self.categories is not None:
            raise ValueError(
                "expected either categories, which the dataset's are found among, or "
                "new_categories: true, got both"
            )
        return self


class CorrectionsStage(Settings):
    """Corrects the scores of variants that a stage has trained, and evaluates what comes of it;
    nothing trains."""

    kind: Literal["corrections"]
    after: Annotated[str, meaning("the name of a representation, imported or classifier stage")]
    """The stage whose variants are corrected; images are shown and evaluated as there."""
    variants: dict[Name, Corrected] = Field(
        min_length=1, examples=[{"softmax-norcal": {"method": "norcal", "of": "softmax"}}]
    )
    """Corrections by names of one's own, each of a variant of the stage before; all of them are
    found in one pass of the trunk."""
    resources: Resources = Resources()
    """Workers of the stage's jobs, and what each asks of the cluster."""


First = RepresentationStage | ImportedStage
"""Stages that start from no other."""

Training = RepresentationStage | ClassifierStage
"""Stages that train variants."""

AnyStage = RepresentationStage | ClassifierStage | FeaturesStage | ImportedStage | CorrectionsStage

Stage = Annotated[AnyStage, Field(discriminator="kind")]


class Paper(Settings):
    """Where the paper's numbers are that a file repeats, for `bacl report --paper`."""

    file: FilePath
    """YAML file of the printed numbers, relative to the folder of the file that names it."""
    table: Annotated[str, meaning("the name of a table, such as III")]
    """Name of the table in that file, such as `III`."""
    column: Annotated[str, meaning("the name of a column of the table")] | None = None
    """Column of a table that has several, such as `v0.5 R50`."""


class Experiment(Settings):
    """One experiment file: a dataset, a detector, a DAG of stages."""

    name: Title = Field(examples=["own-data"])
    """Name of the experiment, under which its jobs and its report are found."""
    imports: list[Annotated[str, meaning("the name of a module")]] = Field(
        [], examples=[["my_methods"]]
    )
    """Modules with methods and indicators of one's own, `bacl.extensions`; Python finds them in the
    file's folder or installed."""
    seeds: list[Seed] = Field([0], min_length=1, examples=[[0, 1, 2]])
    """Seeds of what is drawn at random in training; all stages run once for each."""
    dataset: Dataset = Field(examples=[{"format": "lvis_v1", "root": "${BACL_DATA}"}])
    """The data that detectors train on and are measured with."""
    detector: Detector = Field(
        Detector(), examples=[{"backbone": "resnet50", "weights": "torchvision"}]
    )
    """The detector that all stages share, but for its classifier."""
    stages: dict[Name, Stage] = Field(min_length=1)
    """What is trained or evaluated, by names of one's own; a stage says its `kind`, and `after`
    names the stage that it starts from."""
    baseline: Annotated[str, meaning("the name of a variant")] | None = None
    """The variant that the report compares the others with."""
    paper: Paper | None = Field(None, examples=[{"file": "paper.yaml", "table": "XIII"}])
    """The published table whose rows are the variants, by name."""


def variants_of(name: str, stage: AnyStage) -> Mapping[str, Method]:
    """The stage's variants by name; a representation or imported stage has one, called like the
    stage."""
    if isinstance(stage, FeaturesStage):
        return {}
    return {name: stage.classifier} if isinstance(stage, First) else stage.variants


def trained(experiment: Experiment) -> dict[str, Training]:
    """The stages that train variants, by name."""
    return {n: s for n, s in experiment.stages.items() if isinstance(s, Training)}


def image_recipe(experiment: Experiment, name: str) -> Recipe:
    """The recipe of a stage, with what a stage of features shows of images, which its replays see
    as well."""
    stage = experiment.stages[name]
    if isinstance(stage, RepresentationStage):
        return stage.recipe
    if isinstance(stage, ImportedStage):  # nothing of the schedule is used
        return Recipe(schedule=Schedule(iterations=1), **stage.recipe.model_dump())
    if isinstance(stage, CorrectionsStage):
        return image_recipe(experiment, stage.after)
    before = experiment.stages[stage.after]
    if isinstance(stage, ClassifierStage):
        if not isinstance(before, FeaturesStage):
            return stage.recipe
        shown = image_recipe(experiment, stage.after)
        return stage.recipe.model_copy(update={n: getattr(shown, n) for n in STORED_WITH})
    recipe = image_recipe(experiment, stage.after)
    given = stage.recipe.model_fields_set if stage.recipe else ()
    return recipe.model_copy(update={name: getattr(stage.recipe, name) for name in given})


STORED_WITH = tuple(
    ImageRecipe.model_fields.keys()
    - {"group_aspect_ratio", "loader_workers", "precision", "channels_last", "trunk"}
)
"""Fields of a recipe that stored features are made with."""
