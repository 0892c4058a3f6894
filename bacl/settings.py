"""Settings of data, detector and recipe in experiment files; those of variants are in
`bacl.method_settings`.

Plain pydantic models without torch, so that reading and planning stay quick. Each field has one
reader, in `bacl.config` or the part it configures; defaults are the paper's (section IV-B).
"""

from bisect import bisect_left
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from bacl.augmentation_settings import Augmentation
from bacl.backbones import BACKBONES
from bacl.datasets.formats import EMBEDDED, FORMATS, NAMED
from bacl.optimizer_settings import AnyOptimizer
from bacl.schema import Names, Settings, meaning
from bacl.weights import TORCHVISION, address_of

FROZEN_TRUNK = ("backbone", "neck", "roi_head.bbox_head*.shared_fcs")
"""Modules that the classifier stage freezes, section III-A: the RoI feature extractor."""

FilePath = Annotated[str, meaning("the path of a file")]
FolderPath = Annotated[str, meaning("the path of a folder")]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Seed in the range that numpy and torch both accept."""

GroupName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]


class Groups(Settings):
    """Frequency groups of categories, by their counts in the training split; LVIS's by default.

    COCO-LT's are `{by: instances, bounds: [19, 399, 7999], names: ["1", "2", "3", "4"]}`.
    """

    by: Literal["images", "instances"] = "images"
    """Counts to group by: training images that show a category, or its instances in them."""
    bounds: list[Annotated[int, Field(ge=0)]] = Field([10, 100], examples=[[19, 399, 7999]])
    """The largest count of each group but the last, rising."""
    names: list[GroupName] = Field(["r", "c", "f"], examples=[["1", "2", "3", "4"]])
    """Names of the groups, rarest first; metrics are called AP_<name>."""

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
        """Range of counts of each group, such as `11-100 images`."""
        lowest = [0, *(bound + 1 for bound in self.bounds)]
        spans = [f"{low}-{high}" for low, high in zip(lowest, self.bounds)]
        return [f"{span} {self.by}" for span in (*spans, f"{lowest[-1]}+")]

    def name(self, images: int, instances: int) -> str:
        """The group of a category with that many training images and instances."""
        return self.names[bisect_left(self.bounds, images if self.by == "images" else instances)]


class Dataset(Settings):
    """Location of images and annotations, or the parameters of the embedded set."""

    format: Annotated[str, Names([EMBEDDED], FORMATS, NAMED)]
    """Format of the annotation files: `lvis`, `coco` or a registered one, whose files are named
    below; a named data set, found under `root`; or `embedded`."""
    root: FolderPath | None = Field(None, examples=["${BACL_DATA}"])
    """Folder that `bacl data prepare <format> --root <folder>` has filled."""
    train: FilePath | None = Field(None, examples=["${DATA}/train.json"])
    """Annotation file of the training split."""
    val: FilePath | None = Field(None, examples=["${DATA}/val.json"])
    """Annotation file of the validation split, on which results are measured."""
    images: FolderPath | None = Field(None, examples=["${DATA}/images"])
    """Folder that the annotations' file names start from."""
    val_images: FolderPath | None = Field(None, examples=["${DATA}/val_images"])
    """Folder of the validation split's images, if it differs from `images`."""
    sizes: Literal["annotated", "from_images"] = "annotated"
    """Source of image sizes: `annotated`, and images must have those sizes, or `from_images`, and
    annotated sizes are ignored."""
    seed: Seed = 0
    """Embedded set only: the seed it is drawn from."""
    size: Literal["small", "standard"] = "standard"
    """Embedded set only: `small` is for tests."""
    groups: Groups | None = None
    """Frequency groups; null means LVIS's, or each category's `frequency` in the file where
    given."""

    @model_validator(mode="after")
    def _files_belong_to_the_format(self) -> "Dataset":
        files = ("train", "val", "images")
        needed, optional, why = {
            EMBEDDED: ((), (), "makes its own files"),
            **dict.fromkeys(NAMED, (("root",), (), "finds its files under root")),
        }.get(self.format, (files, ("val_images",), "names its files itself"))
        given = [n for n in ("root", *files, "val_images") if getattr(self, n) is not None]
        if missing := [name for name in needed if name not in given]:
            raise ValueError(f"format {self.format} needs {', '.join(missing)}")
        if spare := [name for name in given if name not in (*needed, *optional)]:
            raise ValueError(f"format {self.format} {why}: remove {', '.join(spare)}")
        return self


class Detector(Settings):
    """A two-stage detector, by a short form with FPN, whose defaults are the paper's, or by a
    configuration of MMDetection's.

    Of a configuration, all parts are taken as they are but the classifier. Its regions are sampled
    as it says unless fields say otherwise; proposals and detections are those of the fields.
    """

    config: (
        Annotated[str, meaning("the name of a configuration or the path of a .py file")] | None
    ) = Field(None, examples=["cascade-rcnn_r50_fpn_1x_coco", "my_detector.py"])
    """Configuration of MMDetection's: a name that `bacl detectors` lists, or a file. Null for the
    short form of the fields below."""
    type: Literal["faster_rcnn", "cascade_rcnn", "mask_rcnn"] = "faster_rcnn"
    """Kind of detector: one box head, a cascade of three that refine boxes, or one box head and
    masks, which need annotated masks."""
    backbone: Annotated[str, Names(BACKBONES, prefix="timm/")] = "resnet50"
    """A name of `bacl.backbones`, or `timm/NAME` for a network of timm's."""
    weights: Annotated[str, meaning("torchvision, a checkpoint file or its address")] | None = (
        Field(None, examples=["torchvision", "${WEIGHTS}/backbone.pth"])
    )
    """Backbone weights: `torchvision` (ImageNet), a local checkpoint file, an address on the web
    (`https://...#sha256=...`) or in a hub (`hf://`, `torchvision://`, `open-mmlab://`), or null."""
    neck_channels: int = Field(256, gt=0)
    """Channels of each level of the feature pyramid."""
    fc_channels: int = Field(1024, gt=0)
    """Width D of the RoI feature h that the classifier sees."""
    anchor_scale: float = Field(8, gt=0)
    """Anchor side on a pyramid level, in strides of that level."""
    rpn_samples: int = Field(256, gt=0)
    """Anchors per image that the RPN trains on, up to a half of them foreground."""
    roi_samples: int = Field(512, gt=0)
    """RoIs per image that the box head trains on, a quarter of them foreground."""
    match_low_quality: bool | None = None
    """Whether the proposal that overlaps an object most is assigned to it even if it overlaps
    another more. Null follows the release: true, but for a Cascade R-CNN, which the release has no
    configuration of and for which MMDetection's say false."""
    test_proposals: int = Field(1000, gt=0)
    """Proposals at test: of each pyramid level before the RPN's suppression, and of an image kept
    after it. Both are 1000 in the release."""
    score_threshold: float = Field(1e-4, ge=0, lt=1)
    """Score that a detection must exceed to be kept at test."""
    nms_iou: float = Field(0.5, gt=0, le=1)
    """IoU above which the better of two detections of a category suppresses the other at test."""
    max_detections: int = Field(300, gt=0)
    """Detections per image that are kept at test, those with the best scores of all categories."""

    @model_validator(mode="after")
    def _config_or_short_form(self) -> "Detector":
        short = ("type", "backbone", "neck_channels", "fc_channels", "anchor_scale")
        if self.config and (spare := [n for n in short if n in self.model_fields_set]):
            raise ValueError(
                f"config {self.config} has its own {', '.join(spare)}: expected either a config or "
                "these, got both"
            )
        return self

    @model_validator(mode="after")
    def _weights_fit(self) -> "Detector":
        if self.weights is not None:
            address_of(self.weights)
        if self.config:
            return self  # it depends on a file, see bacl.detector.two_stage
        backbone = BACKBONES.get(self.backbone)
        if backbone is None:
            if self.weights == TORCHVISION:
                raise ValueError(
                    f"weights torchvision are not for {self.backbone}: expected a file or address "
                    "with timm's names, got 'torchvision'"
                )
            return self
        if self.weights == TORCHVISION and not backbone.torchvision:
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

    epochs: int | None = Field(None, gt=0, examples=[12, 24])
    """Length in epochs; either this or `iterations` is given."""
    iterations: int | None = Field(None, gt=0, examples=[5000])
    """Length in iterations, each a step of the optimizer; either this or `epochs` is given."""
    milestones: list[Annotated[int, Field(gt=0)]] = Field([], examples=[[8, 11]])
    """Times at which the learning rate falls to a tenth, in the unit of the length."""
    batch: int = Field(16, gt=0)
    """Images per step over all workers."""
    lr: float = Field(0.02, gt=0)
    """Learning rate at `lr_batch` images per step; scaled linearly to `batch`."""
    lr_batch: int = Field(16, gt=0)
    """Images per step that `lr` is meant for."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of SGD; where the recipe has an `optimizer`, that says it."""
    weight_decay: float = Field(1e-4, ge=0)
    """Weight decay of SGD; where the recipe has an `optimizer`, that says it."""
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


class Trunk(Settings):
    """How the steps of a stage pass a frozen trunk, which they only read: backbone, neck, and what
    the box head's features come from."""

    precision: Literal["float32", "bfloat16"] | None = None
    """Precision in which it computes; what it hands on is then float32 again. Null is the recipe's
    own `precision`. Evaluation is in float32, whatever trains."""
    compile: bool = False
    """Whether `torch.compile` compiles the backbone, in the first step."""


class ImageRecipe(Settings):
    """What a stage shows a detector of images, and what of them the box head sees."""

    group_aspect_ratio: bool = True
    """Whether the two images of a pair are both wider than high or both not, as the release's are:
    a batch of two then has little padding. The order is otherwise as random as without it."""
    images_without_boxes: bool = False
    """Whether images without annotations train; the release leaves them out."""
    smallest_image: int = Field(32, ge=0)
    """Least length in pixels of the shorter side of a training image; the release's."""
    smallest_box: float = Field(1, ge=0)
    """Least length, in pixels of the original image, of each side of a training box; the release's.
    Smaller ones are left out; an image that has no others trains without boxes."""
    augmentation: Literal["multi_scale", "copy_paste"] = "multi_scale"
    """`copy_paste` is simple Copy-Paste on large-scale jitter, section III-B; it needs masks. An
    image whose crop has no box left is replaced by another."""
    copy_paste_size: Annotated[int, Field(gt=0)] = 1280
    """Side of the square image that Copy-Paste works on, in pixels."""
    augmentations: list[Augmentation] = Field([], examples=[[{"type": "PhotoMetricDistortion"}]])
    """MMDetection's own transforms, such as `{type: PhotoMetricDistortion}` with its options, of
    images as their files have them, before `scales` or Copy-Paste's jitter."""
    scales: list[Size] = Field(
        [(1333, side) for side in (640, 672, 704, 736, 768, 800)], examples=[[[1333, 800]]]
    )
    """(longest, shortest) side limits in pixels, one pair drawn per training image; of
    `multi_scale`."""
    test_scale: Size = (1333, 800)
    """(longest, shortest) side limits in pixels of images at test."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability with which a training image is mirrored."""
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
    loader_workers: int = Field(2, ge=0)
    """Processes that load images for each worker; with 0, the worker loads them itself."""
    decoder: Literal["cpu", "nvjpeg"] = "cpu"
    """What decodes JPEG files of training images: `nvjpeg` is on the GPU, whose pixels differ from
    the CPU's a little. Evaluation decodes on the CPU."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of training's forward pass; float16, with loss scaling, needs GPUs."""
    channels_last: bool = False
    """Memory layout of images and backbone features; faster on many devices."""
    trunk: Trunk | None = Field(None, examples=[{"precision": "bfloat16", "compile": True}])
    """`{precision: bfloat16, compile: true}`: how a frozen trunk is read; of stages of kind
    `classifier` and `features`."""


class Features(Settings):
    """What is kept of the images that pass a frozen trunk, for classifiers to be trained on it."""

    views: int = Field(2, gt=0)
    """Augmented views of each training image."""
    negatives: int = Field(64, gt=0)
    """Background regions of each view that are kept, drawn from the sampled ones, whose number they
    stand for; sampled regions of objects are all kept."""
    dtype: Literal["float16", "float32"] = "float16"
    """Precision in which features are kept."""
    layers: list[Literal["pooled", "fc1"]] = []
    """Layers of the box head that are kept beside h, for methods that read them."""
    val: bool = True
    """Whether proposals of validation images and their features are kept, so that evaluation needs
    no trunk."""


class Clipping(Settings):
    """Norm that gradients are scaled down to where theirs is larger."""

    max_norm: float = Field(gt=0)
    """Largest norm that gradients keep."""
    norm_type: float = Field(2, gt=0)
    """p of the norm; 2 is the Euclidean one."""


class Averaging(Settings):
    """Exponential moving average of the weights that train."""

    momentum: float = Field(0.0002, gt=0, lt=1)
    """Share of each step's weights in the average."""


class SoftNMS(Settings):
    """Detections that overlap better ones keep a part of their scores, instead of being dropped."""

    method: Literal["linear", "gaussian"] = "linear"
    """A detection's score is multiplied, for each better one of its category that it overlaps, by 1
    less their IoU where that is at least `detector.nms_iou`, or by exp(-IoU^2 / sigma)."""
    sigma: float = Field(0.5, gt=0)
    """Width of method `gaussian`: the larger, the less a detection loses by overlapping."""
    min_score: float = Field(1e-3, ge=0, lt=1)
    """Detections whose score falls below are dropped."""


class SeveralViews(Settings):
    """Several views of each image when evaluating, whose regions are detected in together."""

    flip: bool = True
    """Whether each view is also seen in a mirror."""
    scales: list[Size] = []
    """(longest, shortest) side limits of the views in pixels; none means the recipe's
    `test_scale`."""

    @model_validator(mode="after")
    def _there_are_several_views(self) -> "SeveralViews":
        if not self.flip and len(self.scales) < 2:
            raise ValueError("expected flip: true or several scales, got a single view")
        return self


class EvaluationRecipe(ImageRecipe):
    """What a stage shows a detector of images, and how that is evaluated."""

    soft_nms: SoftNMS | None = Field(None, examples=[{"method": "gaussian"}])
    """`{method: linear | gaussian, ...}` instead of suppression when evaluating, also of exported
    detectors."""
    tta: SeveralViews | None = Field(None, examples=[{"flip": True}])
    """`{flip: true, scales: [...]}`: evaluate on several views of each image, all variants from the
    same passes; exported detectors see one."""

    @property
    def test_views(self) -> int:
        """Views of each image that an evaluation passes through the detector."""
        if self.tta is None:
            return 1
        return max(1, len(self.tta.scales)) * (2 if self.tta.flip else 1)

    @property
    def evaluated_with(self) -> list[str]:
        """What tells its results from others', in words."""
        return [*(["TTA"] if self.tta else []), *(["soft-NMS"] if self.soft_nms else [])]


class Recipe(EvaluationRecipe):
    """Recipe of a stage's training: schedule, sampling of images, augmentation, checkpoints."""

    schedule: Schedule = Field(examples=[{"epochs": 12, "milestones": [8, 11], "batch": 8}])
    """Length, batch and learning rate of training."""
    optimizer: AnyOptimizer | None = Field(
        None, examples=[{"type": "adamw", "weight_decay": 0.05, "layer_decay": 0.7}]
    )
    """`{type: sgd, ...}` or `{type: adamw, ...}`, with parameter-wise and layer-wise learning rates
    and weight decays; null is SGD with the schedule's momentum and weight decay."""
    lr_schedule: Literal["step", "cosine", "one_cycle"] = "step"
    """How the learning rate goes after the warm-up: it falls to a tenth at the schedule's
    milestones, or to 0 along a cosine; `one_cycle` rises from a 25th along a cosine for the first
    three tenths and falls to nearly nothing along another."""
    clip_grad: Clipping | None = Field(None, examples=[{"max_norm": 35}])
    """`{max_norm: ...}` of gradients: of each variant's by themselves and of the other parts'
    together, or, in a representation stage, of all."""
    ema: Averaging | None = Field(None, examples=[{"momentum": 0.0002}])
    """`{momentum: ...}`: average the weights of each variant and of the other parts that train;
    evaluation, exports, the entry and the stages after it have the averages."""
    accumulate: int = Field(1, gt=0)
    """Parts in which the images of a step pass the detector, so that fewer are in memory."""
    features: Literal["exact", "replay"] = "exact"
    """Whether the trunk computes the features of every step, or they are those that a stage of kind
    `features` has stored."""
    sampler: Literal["random", "repeat_factor", "class_aware"] = "random"
    """Order of training images: each image equally often, images of rare categories more often
    (LVIS), or each category equally often."""
    repeat_threshold: float = Field(1e-3, gt=0, lt=1)
    """t of `repeat_factor`: the share of images below which a category is repeated."""
    evaluate_every: int | None = Field(None, gt=0)
    """Iterations between evaluations; null evaluates at the end only."""
    checkpoint_every: int = Field(1000, gt=0)
    """Iterations between checkpoints: the most that a crash can cost."""
    keep_last: int = Field(2, gt=0)
    """Checkpoints that an unfinished job keeps to go on from; older ones stand in for damaged."""
    keep_every: int | None = Field(None, gt=0)
    """Iterations between checkpoints that are kept, in the finished job too; a multiple of
    `checkpoint_every`."""
    keep_best: bool = False
    """Keep the checkpoint with the best AP, the mean over variants, in the finished job too."""

    @property
    def pairs(self) -> int:
        """Pairs of images in each part of a step, each of which is whole on one worker."""
        return self.schedule.batch // (2 * self.accumulate)

    @property
    def evaluated_with(self) -> list[str]:
        return [*(["EMA"] if self.ema else []), *super().evaluated_with]

    @model_validator(mode="after")
    def _optimizer_says_its_own(self) -> "Recipe":
        given = self.schedule.model_fields_set
        if self.optimizer is None:
            return self
        if twice := sorted(given & {"momentum", "weight_decay"}):
            raise ValueError(
                f"schedule.{twice[0]}: expected it among the fields of optimizer, which is given, "
                "instead"
            )
        if self.optimizer.type == "adamw" and "lr" not in given:
            raise ValueError(
                "schedule.lr: is missing, expected a learning rate for optimizer adamw, such as "
                "1e-4, because the default is SGD's"
            )
        return self

    @model_validator(mode="after")
    def _schedule_fits_how_the_learning_rate_goes(self) -> "Recipe":
        kind, schedule = self.lr_schedule, self.schedule
        if kind != "step" and schedule.milestones:
            raise ValueError(
                f"schedule.milestones: expected none with lr_schedule {kind}, which falls at every "
                f"step, got {schedule.milestones}"
            )
        if kind == "one_cycle" and "warmup" in schedule.model_fields_set and schedule.warmup:
            raise ValueError(
                "schedule.warmup: expected 0 with lr_schedule one_cycle, which rises by itself, "
                f"got {schedule.warmup}"
            )
        return self

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
