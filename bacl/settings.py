"""Everything an experiment file can say about data, detector, recipe and variants.

Plain pydantic models without torch, so that reading and planning stay quick. Each field has one
reader, in `bacl.config` or the part it configures; defaults are the paper's (section IV-B).
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import core_schema

from bacl.backbones import BACKBONES
from bacl.errors import UsageError

if TYPE_CHECKING:
    from bacl.datasets.annotations import Category

FROZEN_TRUNK = ("backbone", "neck", "roi_head.bbox_head*.shared_fcs")
"""What the classifier stage freezes, section III-A: the RoI feature extractor."""


_MODELS: list[type[BaseModel]] = []
"""All settings, each after those that it is made of."""


class Settings(BaseModel):
    """Base: unknown fields are errors, numbers are finite, values do not change once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        _MODELS.append(cls)


def rebuild() -> None:
    """Have all settings take what has been registered since they were defined."""
    for model in _MODELS:
        model.model_rebuild(force=True)


def meaning(words: str) -> Any:
    """What a field that takes text expects, for the sentence about one that is wrong."""
    return Field(min_length=1, json_schema_extra={"meaning": words})


FilePath = Annotated[str, meaning("the path of a file")]
FolderPath = Annotated[str, meaning("the path of a folder")]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What numpy and torch both take."""

GroupName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]


class Groups(Settings):
    """How categories are grouped by how often the training split shows them; LVIS's by default.

    COCO-LT's are `{by: instances, bounds: [19, 399, 7999], names: ["1", "2", "3", "4"]}`.
    """

    by: Literal["images", "instances"] = "images"
    """What is counted: training images that show a category, or its instances in them."""
    bounds: list[Annotated[int, Field(ge=0)]] = [10, 100]
    """The largest count of each group but the last, rising."""
    names: list[GroupName] = ["r", "c", "f"]
    """One for each group, fewest first: metrics are called AP_<name>."""

    @model_validator(mode="after")
    def _names_fit_the_bounds(self) -> "Groups":
        if any(low >= high for low, high in pairwise(self.bounds)):
            raise ValueError(f"bounds {self.bounds} do not rise")
        if len(self.names) != len(self.bounds) + 1:
            raise ValueError(
                f"{len(self.bounds)} bounds make {len(self.bounds) + 1} groups: expected as many "
                f"names, got {len(self.names)}"
            )
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"names {self.names} repeat")
        return self

    @property
    def ranges(self) -> list[str]:
        """What each group's categories have, such as `11-100 images`."""
        lowest = [0, *(bound + 1 for bound in self.bounds)]
        spans = [f"{low}-{high}" for low, high in zip(lowest, self.bounds)]
        return [f"{span} {self.by}" for span in (*spans, f"{lowest[-1]}+")]

    def name(self, images: int, instances: int) -> str:
        """The group of a category with that many training images and instances."""
        return self.names[bisect_left(self.bounds, images if self.by == "images" else instances)]


class Dataset(Settings):
    """Where images and annotations are, or how to make the embedded set."""

    format: Literal["embedded", "lvis", "coco", "lvis_v0.5", "lvis_v1", "coco_lt"]
    """`lvis` and `coco` name their files here; the last three are found under `root`."""
    root: FolderPath | None = None
    """Folder that `bacl data prepare <format> --root <folder>` has filled."""
    train: FilePath | None = None
    """Annotation file of the training split (LVIS or COCO JSON)."""
    val: FilePath | None = None
    images: FolderPath | None = None
    """Folder that the annotations' file names start from."""
    val_images: FolderPath | None = None
    """Folder of the validation split's images, where it is another."""
    sizes: Literal["annotated", "from_images"] = "annotated"
    """Whose width and height hold: `annotated` ones, which images must have, or those of the images
    as they are read, whatever the annotations say."""
    seed: Seed = 0
    """Embedded set only: the seed it is drawn from."""
    size: Literal["small", "standard"] = "standard"
    """Embedded set only: `small` is for tests."""
    groups: Groups | None = None
    """Frequency groups; null means LVIS's, and then a file's own `frequency` holds."""

    @model_validator(mode="after")
    def _files_belong_to_the_format(self) -> "Dataset":
        files = ("train", "val", "images")
        needed, optional, why = {
            "embedded": ((), (), "makes its own files"),
            "lvis": (files, ("val_images",), "names its files itself"),
            "coco": (files, ("val_images",), "names its files itself"),
        }.get(self.format, (("root",), (), "finds its files under root"))
        given = [n for n in ("root", *files, "val_images") if getattr(self, n) is not None]
        if missing := [name for name in needed if name not in given]:
            raise ValueError(f"format {self.format} needs {', '.join(missing)}")
        if spare := [name for name in given if name not in (*needed, *optional)]:
            raise ValueError(f"format {self.format} {why}: remove {', '.join(spare)}")
        return self


class _Names:
    """Pydantic's schema of text that is one of the names in a table, whatever is there by then."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.table = table

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.literal_schema(list(self.table))


class Detector(Settings):
    """A two-stage detector with FPN; the defaults are the paper's."""

    type: Literal["faster_rcnn", "cascade_rcnn", "mask_rcnn"] = "faster_rcnn"
    backbone: Annotated[str, _Names(BACKBONES)] = "resnet50"
    weights: Annotated[str, meaning("torchvision or the path of a checkpoint file")] | None = None
    """Backbone weights: `torchvision` (ImageNet), a local checkpoint file, or null."""
    neck_channels: int = Field(256, gt=0)
    fc_channels: int = Field(1024, gt=0)
    """Width D of the RoI feature h that the classifier sees."""
    anchor_scale: float = Field(8, gt=0)
    """Anchor side on a pyramid level, in strides of that level."""
    rpn_samples: int = Field(256, gt=0)
    roi_samples: int = Field(512, gt=0)
    """RoIs per image that the box head trains on, a quarter of them foreground."""
    match_low_quality: bool | None = None
    """Whether the proposal that overlaps an object most is assigned to it even where it overlaps
    another more. Null follows the release: true, but for a Cascade R-CNN, where MMDetection's
    configurations, which the release has none of, say false."""
    test_proposals: int = Field(1000, gt=0)
    """Proposals at test: of each pyramid level before the RPN's suppression, and of an image kept
    after it. Both are 1000 in the release."""
    score_threshold: float = Field(1e-4, ge=0, lt=1)
    nms_iou: float = Field(0.5, gt=0, le=1)
    max_detections: int = Field(300, gt=0)

    @model_validator(mode="after")
    def _weights_fit(self) -> "Detector":
        backbone = BACKBONES[self.backbone]
        if self.weights == "torchvision" and not backbone.torchvision:
            having = [name for name, other in BACKBONES.items() if other.torchvision]
            raise ValueError(
                f"weights torchvision are for {' and '.join(having)}; for {self.backbone} "
                f"{backbone.other_weights}"
            )
        return self


Size = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]


class Schedule(Settings):
    """Length and learning rate of a stage, in epochs or in iterations.

    An epoch is as many images as the training split has to show, `Recipe.smallest_image` and
    `images_without_boxes`, whichever of them the sampler shows.
    """

    epochs: int | None = Field(None, gt=0)
    iterations: int | None = Field(None, gt=0)
    milestones: list[Annotated[int, Field(gt=0)]] = []
    """When the learning rate falls to a tenth; in the unit that the length is given in."""
    batch: int = Field(16, gt=0)
    """Images per step over all workers."""
    lr: float = Field(0.02, gt=0)
    """Learning rate at `lr_batch` images per step; scaled linearly to `batch`."""
    lr_batch: int = Field(16, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(1e-4, ge=0)
    warmup: int = Field(500, ge=0)
    """Iterations of linear warm-up from a thousandth of the learning rate."""

    @model_validator(mode="after")
    def _one_length(self) -> "Schedule":
        if (self.epochs is None) == (self.iterations is None):
            got = "neither" if self.epochs is None else "both"
            raise ValueError(f"expected either epochs or iterations, got {got}")
        length, _ = self._length_and_unit()
        late = [m for m in self.milestones if m >= length]
        if late:
            raise ValueError(f"milestones: expected numbers below the length, {length}, got {late}")
        if self.batch % 2:
            raise ValueError(
                "batch: expected an even number, because hallucination draws per image pair, got "
                f"{self.batch}"
            )
        return self

    @property
    def scaled_lr(self) -> float:
        return self.lr * self.batch / self.lr_batch

    def total_iterations(self, images: int) -> int:
        """Optimizer steps in all, for a training split of `images` images."""
        length, unit = self._length_and_unit(images)
        return length * unit

    def milestone_iterations(self, images: int) -> list[int]:
        """Milestones in optimizer steps."""
        _, unit = self._length_and_unit(images)
        return [milestone * unit for milestone in self.milestones]

    def _length_and_unit(self, images: int = 0) -> tuple[int, int]:
        """The length as given, and how many optimizer steps one of its units has."""
        if self.epochs is not None:
            return self.epochs, -(-images // self.batch)
        assert self.iterations is not None  # by _one_length
        return self.iterations, 1


class Recipe(Settings):
    """How a stage trains, whatever it trains."""

    schedule: Schedule
    sampler: Literal["random", "repeat_factor", "class_aware"] = "random"
    """Which images a step sees: each equally often, those of rare categories more often (LVIS), or
    each category equally often."""
    repeat_threshold: float = Field(1e-3, gt=0, lt=1)
    """t of `repeat_factor`: the share of images below which a category is repeated."""
    group_aspect_ratio: bool = True
    """Whether the two images of a pair are both wider than high or both not, as the release's are:
    a batch of two then has little padding. The order otherwise stays as random."""
    images_without_boxes: bool = False
    """Whether images without annotations train; the release leaves them out."""
    smallest_image: int = Field(32, ge=0)
    """Pixels that the shorter side of a training image has at least; the release's."""
    smallest_box: float = Field(1, ge=0)
    """Pixels of the original image that each side of a training box has at least; the release's.
    Smaller ones are left out; an image that has no others trains without boxes."""
    augmentation: Literal["multi_scale", "copy_paste"] = "multi_scale"
    """`copy_paste` is simple Copy-Paste on large-scale jitter, section III-B; it needs masks. An
    image whose crop has no box left is replaced by another."""
    copy_paste_size: Annotated[int, Field(gt=0)] = 1280
    """Side of the square image that Copy-Paste works on, in pixels."""
    scales: list[Size] = [(1333, side) for side in (640, 672, 704, 736, 768, 800)]
    """(longest, shortest) side limits, one drawn per image; of `multi_scale`."""
    test_scale: Size = (1333, 800)
    flip: float = Field(0.5, ge=0, le=1)
    proposals: int = Field(2000, gt=0)
    """Proposals of an image kept after the RPN's suppression while training: 2000 in both of
    BACL's stages, 1000 for the baselines."""
    proposals_before_nms: int = Field(2000, gt=0)
    """Best proposals of each pyramid level that the RPN's suppression sees while training: 2000 in
    every released configuration, however many are kept."""
    proposal_nms: list[Annotated[float, Field(gt=0, le=1)]] | None = None
    """IoU at which proposals of each frequency group, rarest first, suppress each other while
    training; null means 0.7 for all. Forest R-CNN's is [0.9, 0.8, 0.7],
    `bacl.detector.resampling`."""
    evaluate_every: int | None = Field(None, gt=0)
    """Iterations between evaluations; null evaluates at the end only."""
    checkpoint_every: int = Field(1000, gt=0)
    """Iterations between checkpoints: the most that a crash can cost."""
    keep_last: int = Field(2, gt=0)
    """Checkpoints that an unfinished job keeps to go on from; older ones stand in for damaged."""
    keep_every: int | None = Field(None, gt=0)
    """Keep each checkpoint at a multiple of so many iterations, in the finished job too."""
    keep_best: bool = False
    """Keep the checkpoint with the best AP, the mean over variants, in the finished job too."""
    loader_workers: int = Field(2, ge=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of training's forward pass; float16, with loss scaling, needs GPUs."""
    channels_last: bool = False
    """Memory layout of images and backbone features; faster on many devices."""

    @model_validator(mode="after")
    def _there_are_checkpoints_to_keep(self) -> "Recipe":
        every = self.checkpoint_every
        if self.keep_every is not None and self.keep_every % every:
            raise ValueError(
                f"keep_every: expected a multiple of checkpoint_every ({every}), "
                f"got {self.keep_every}"
            )
        if self.keep_best and (self.evaluate_every is None or self.evaluate_every % every):
            raise ValueError(
                f"keep_best needs evaluations of checkpoints: expected evaluate_every to be a "
                f"multiple of checkpoint_every ({every}), got {self.evaluate_every or 'nothing'}"
            )
        return self


@dataclass(frozen=True)
class Context:
    """What a method's parts can be told of the stage that they train in."""

    place: str
    """The variant's place in its stage, `variants.NAME`, for errors."""
    categories: "Sequence[Category]"
    """Categories of the dataset, in the order of labels."""
    groups: Sequence[str]
    """Names of the frequency groups, rarest first."""
    detector: Detector
    pooled: int
    """Places of a RoI's pooled features, 7 x 7."""
    images: int
    """Training images that an epoch shows."""
    iterations: int
    """Iterations of the whole stage."""
    batch: int
    """Images of an iteration, over all ranks; iterations times this are positions, `bacl.draws`."""


class Method(Settings):
    """Base of a method's settings. Its docstring is the card's first lines, and those of its fields
    are the card's options."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    method: str
    source: ClassVar[str] = ""
    """Where the method is from."""
    equations: ClassVar[str] = ""
    """What it computes, z being logits, y one-hot targets and sigma the sigmoid."""
    cost: ClassVar[str] = ""
    """What it takes beyond a linear classifier, in training or at test."""
    open_points: ClassVar[tuple[str, ...]] = ()
    """What sources leave open or contradict each other in, and what is done here."""
    counted: ClassVar[bool] = False
    """Whether its parts are given how often the training split shows each category."""
    follows: ClassVar[tuple[str, ...]] = ()
    """Methods whose classifiers it can correct, where that is all it does."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Its fields that are paths; relative ones are from the folder of the file that has them."""

    sampler: ClassVar[str | None] = None
    """The only sampler whose images it can learn from; None where all will do."""

    @property
    def bases(self) -> tuple[str, ...]:
        """Those of `follows` that the options allow."""
        return self.follows

    @property
    def end_to_end(self) -> bool:
        """Whether it changes what the box head sees, and so trains with the whole detector only."""
        return False

    def options(self, context: Context) -> dict[str, Any]:
        """What the method's parts are built with: these settings in plain values, and what the
        parts need to know of the stage.

        Raises:
            UsageError: where the method cannot train in such a stage.
        """
        options = self.model_dump()
        if self.counted:
            options["counts"] = self.counts(context)
        return options

    def counts(self, context: Context) -> dict[str, Any]:
        """What `bacl.methods.counts.Counts` holds.

        Raises:
            UsageError: where the method cannot train on such counts.
        """
        categories = context.categories
        instances = [category.instance_count for category in categories]
        if not any(instances):
            raise UsageError(
                f"{context.place}: method {self.method} needs how many training instances each "
                "category has: expected some, the dataset has none"
            )
        return {
            "images": [category.image_count for category in categories],
            "instances": instances,
            "groups": [context.groups.index(category.frequency) for category in categories],
            "total": context.images,
        }


class Hallucination(Settings):
    """Feature hallucination module, section III-E."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    categories: int = Field(8, gt=0)
    """c: categories drawn per image pair; where none are given, no more than the dataset has."""
    samples: int = Field(12, gt=0)
    """m: features made per drawn category."""
    beta: float = Field(0.9, ge=0, lt=1)
    """Share of the old statistics in Eq. (11)."""

    def drawn(self, there: int) -> int:
        """c for a dataset of `there` categories: fewer than the default where those are all."""
        given = "categories" in self.model_fields_set
        return self.categories if given else min(self.categories, there)


class Softmax(Method):
    """Cross-entropy over the categories and a background column of its own."""

    method: Literal["softmax"]
    source: ClassVar[str] = "SCE of Table XIII"
    equations: ClassVar[str] = "-log softmax(z)_i"


class Sigmoid(Method):
    """Sigmoid classifier without a background column: second row of Table I."""

    method: Literal["sigmoid"]
    source: ClassVar[str] = "BCE of Table XIII"
    equations: ClassVar[str] = "sum_j bce(z_j, y_j)"
    open_points: ClassVar[tuple[str, ...]] = (
        "BACL's release has no such classifier: biases start at -log(999), and the loss is divided "
        "by the number of samples, as in EQL's sigmoid baseline",
    )


_SAMPLES = (
    "the paper does not say what the sum is divided by: the number of all samples, background "
    "included, as in the release; over all ranks, where the release divides on each GPU"
)
_PRIOR = (
    "the paper does not say how biases start: at -log(999), background's too, as in the release"
)


class BCE(Method):
    """Sigmoid classifier with objectness, Eqs. (2)-(5), nothing balanced."""

    method: Literal["bce"]
    source: ClassVar[str] = "BCE* of Table XIII; section III-C"
    equations: ClassVar[str] = (
        "sum_j bce(z_j, y_j), background a column; score sigma(z_j) (1 - sigma(z_b))"
    )
    open_points: ClassVar[tuple[str, ...]] = (_SAMPLES, _PRIOR)


INDICATORS = dict.fromkeys(
    [
        "image_frequency",
        "instance_frequency",
        "instance_number",
        "mean_score",
        "true_positive_rate",
        "confusion_matrix",
        "hard_confusion_matrix",
    ],
    "bacl.indicators",
)
"""Modules of long-term indicators, Table II and Eq. (14), by their names."""


Indicator = Annotated[str, _Names(INDICATORS)]
"""One of INDICATORS."""


def register_indicator(name: str, module: str) -> None:
    """Let experiments name an indicator that is not BACL's own, given the module of its parts,
    `__name__`. These are registered by the same name in `bacl.indicators.INDICATORS`.

    Raises:
        UsageError: where there is one of that name.
    """
    if name in INDICATORS:
        raise UsageError(
            f"indicator {name} of {module} is registered already by {INDICATORS[name]}: expected "
            "another name"
        )
    INDICATORS[name] = module
    rebuild()


class FCBL(Method):
    """Foreground classification balance loss, section III-D."""

    method: Literal["fcbl"]
    source: ClassVar[str] = "the paper, section III-D"
    equations: ClassVar[str] = "sum_j w_j bce(z_j + alpha log(l_j / l_i), y_j), Eqs. (6)-(9)"
    open_points: ClassVar[tuple[str, ...]] = (
        "Algorithm 1 moves the indicator before the loss; it moves after it, as in the release",
        "both indicators are kept above 0.001 before Eq. (7) takes their ratio, as in the release: "
        "a margin is at most alpha log(1000), and 0 before anything is known",
        "the confusion matrix is a mean over all foreground samples of the stage so far, made ones "
        "included, as in the release; nothing of it fades, and stage 1 leaves nothing to it",
        "where Table II and Eq. (14) take the best score, it is the best of foreground",
        "indicators that count are divided by the largest, as 1 - l_i of Eq. (12) needs; the "
        "release has the confusion matrix only",
        "a sample's own category always counts: Eq. (6) does not weight it",
        f"{_SAMPLES}; made samples are samples",
        _PRIOR,
        "the classifier goes on from stage 1's and does not start anew, as in the release; the "
        "paper speaks of fine-tuning",
        "the RPN and the box regressor train in stage 2 as well, as in the release; the paper "
        "names only what is frozen",
        "stage 1 keeps a scale jitter of 0.8 to 1.25 under Copy-Paste, as in the release; the "
        "paper says that Copy-Paste replaces it",
    )
    alpha: float = Field(0.85, ge=0)
    """Range of the margin, Eq. (7); 0 means no margin."""
    threshold: float = Field(0.7, ge=0, le=1)
    """p_t of the weight term, Eq. (9)."""
    weight_term: Literal["both", "misclassified", "overconfident", "none"] = "both"
    """Which conditions of Eq. (9) keep a category's loss, Table IX; `none` weights nothing."""
    indicator: Indicator = "confusion_matrix"
    """Long-term indicator that guides margin and sampling, Table II and Eq. (14)."""
    gamma: float = Field(0.9, ge=0, lt=1)
    """Share of the old score in the moving average of indicator `mean_score`."""

    def options(self, context: Context) -> dict[str, Any]:
        options = super().options(context)
        counting = ("image_frequency", "instance_frequency")
        if self.indicator in counting or INDICATORS[self.indicator] != "bacl.indicators":
            options["category_counts"] = {
                "image_counts": [category.image_count for category in context.categories],
                "instance_counts": [category.instance_count for category in context.categories],
            }
        return options


class BACL(FCBL):
    """FCBL with feature hallucination: the paper's method.

    `hallucination: null` switches hallucination off.
    """

    method: Literal["bacl"]  # type: ignore[assignment]
    source: ClassVar[str] = "the paper"
    equations: ClassVar[str] = (
        "FCBL on real features and on prototype + sqrt(variance) eps, Eq. (13)"
    )
    cost: ClassVar[str] = "16 jittered boxes a ground-truth box through both FCs, without gradient"
    open_points: ClassVar[tuple[str, ...]] = (
        *FCBL.open_points,
        "the paper multiplies noise by the variance; its root is taken, as in the release",
        "the 16 boxes of Eq. (10) have the 16 patterns of signs, and one draw of magnitudes an "
        "image, as in the release; the paper draws each eta by itself",
        "jittered boxes end at the image's last edge, in the release a pixel before it",
        "a category's first sight sets its prototype and variance, as in the release; in Eq. (11) "
        "they would grow from 0",
        "variances are unbiased, as in the release, and those of a single feature 0",
        "categories are drawn with replacement, as in the release; of one never seen nothing is "
        "made",
        "prototypes and variances are of all ranks, and move after the step's features are drawn; "
        "the release keeps them on each GPU and moves them before, as Algorithm 1 does",
        "c categories are drawn for each pair of images, which is a GPU's batch in the release and "
        "does not depend on how many there are",
        "made features may be negative, as in the release, though real ones come out of a ReLU",
    )
    hallucination: Hallucination | None = Hallucination()

    def options(self, context: Context) -> dict[str, Any]:
        options = super().options(context)
        if self.hallucination is not None:
            there = len(context.categories)
            drawn = self.hallucination.drawn(there)
            if drawn > there:
                raise UsageError(
                    f"{context.place}.hallucination.categories: expected at most the dataset's "
                    f"{there} categories, got {drawn}"
                )
            options["hallucination"]["categories"] = drawn
        return options


CHANGEABLE = (
    "alpha",
    "threshold",
    "weight_term",
    "gamma",
    "hallucination.categories",
    "hallucination.samples",
)
"""Fields of a variant that may change while it trains."""
