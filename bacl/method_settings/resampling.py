"""Settings and cards of methods that give rare categories more samples or features."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from bacl.errors import UsageError
from bacl.method_settings.base import Context, Method


class FASA(Method):
    """Feature augmentation and sampling adaptation: each category gets made features with a
    probability that is raised when its loss on held-out images falls and lowered when it rises.

    Softmax.
    """

    method: Literal["fasa"]
    counted: ClassVar[bool] = True
    rate: float = Field(0.1, gt=0, le=1)
    """Share of a step's values in the moving means and variances."""
    weight: float = Field(0.1, ge=0)
    """Weight of the loss of made features."""
    up: float = Field(1.1, ge=1)
    """Factor of a group's probabilities when its loss fell."""
    down: float = Field(0.9, gt=0, le=1)
    """Factor of a group's probabilities when its loss rose."""
    held_out: float = Field(0.05, gt=0, lt=1)
    """Share of training images that this variant does not train on, but computes held-out losses
    on."""
    source: ClassVar[str] = "Zang et al., FASA, 2021"
    equations: ClassVar[str] = (
        "CE + weight CE(made features), made = mean + sqrt(variance) eps; chances start at "
        "(1/n_j) / sum(1/n_k); categories are grouped by affinity propagation of their means"
    )
    cost: ClassVar[str] = "per-category moments of foreground features; a clustering an epoch"
    open_points: ClassVar[tuple[str, ...]] = (
        "the release computes these losses on the validation split, BACL on held-out training "
        "images, whose background and categories with fewer than three images still train",
        "an epoch's losses are computed on held-out images during training, not in a separate pass",
        "means and variances are of all ranks, and move after the step; the release has them on "
        "each GPU and moves them before it makes features",
        "categories are drawn for each pair of images, which is a GPU's batch in the release",
    )

    def options(self, context: Context) -> dict[str, Any]:
        steps = -(-context.images // context.batch)
        return {**super().options(context), "epoch": steps * context.batch}


class SimCal(Method):
    """SimCal: a copy of the whole box head is trained on class-balanced images and class-balanced
    RoIs, and its scores replace the first head's for categories with few instances."""

    method: Literal["simcal"]
    counted: ClassVar[bool] = True
    follows: ClassVar[tuple[str, ...]] = ("softmax",)
    reads: ClassVar[tuple[str, ...]] = ("pooled", "fc2")
    sampler: ClassVar[str | None] = "class_aware"
    threshold: int = Field(100, gt=0)
    """Least number of training instances at which a category keeps the first head's score: 100 on
    LVIS, 400 on COCO-LT."""
    source: ClassVar[str] = "Wang et al., The Devil is in Classification (SimCal), 2020"
    equations: ClassVar[str] = (
        "CE of the copy on samples of the category that an image was drawn for, and as many of "
        "background; score softmax(z_copy)_j where n_j < threshold, else softmax(z)_j"
    )
    cost: ClassVar[str] = "a second box head, in training and at test"
    open_points: ClassVar[tuple[str, ...]] = (
        "its recipe, SGD at 0.01 without momentum or decay, has to be set in the stage",
        "each category is drawn once a round, not 16 with replacement a step",
        "a category's images are taken in turn, not drawn each time",
    )

    def options(self, context: Context) -> dict[str, Any]:
        if not context.two_fcs:
            raise UsageError(
                f"{context.place}: method simcal trains a copy of the box head: expected a "
                "detector whose box head is two shared FCs, got another"
            )
        pooled = context.channels * context.pooled
        return {**super().options(context), "pooled": pooled}


class LOCE(Method):
    """Equilibrium loss: softmax weighted by each category's recent mean probability, and replay of
    features from a memory, mostly of categories whose mean probability is low."""

    method: Literal["loce"]
    momentum: float = Field(0.9, ge=0, lt=1)
    """Share of the old score in the moving average, for each new entry."""
    drawn: int = Field(8, gt=0)
    """Categories that are drawn for replay in a pair of images, with a probability that falls with
    their score."""
    samples: int = Field(4, gt=0)
    """Features that are replayed of each drawn category, and the most that an image adds to the
    memory."""
    slots: int = Field(80, gt=0)
    """Features that the memory holds of each category."""
    source: ClassVar[str] = "Feng et al., Exploring Classification Equilibrium, 2021"
    equations: ClassVar[str] = "p_i = s_i exp(z_i) / sum_k s_k exp(z_k), cross-entropy; s_b = 0.01"
    cost: ClassVar[str] = "a memory of categories x slots features: 0.4 GB for LVIS v1.0"
    open_points: ClassVar[tuple[str, ...]] = (
        "the memory holds features of sampled foreground after both FCs, in the release those of "
        "jittered ground truth before them: in stage 2 both FCs are frozen",
        "replayed features train only the classifier: box regression is part of the shared trunk",
        "the memory fills while training, without the release's pass over all images before",
        "a score's entry is the mean of a category's samples in an image, not of one box's",
        "scores are updated after the step, over all ranks; in the release before the loss",
        "the release trains 24 + 6 epochs, BACL's row 12 + 12, which has to be set in the stages",
    )

    def options(self, context: Context) -> dict[str, Any]:
        lacking = [c.name for c in context.categories if not c.instance_count]
        if lacking:
            named = ", ".join(lacking[:5]) + (" and others" if len(lacking) > 5 else "")
            raise UsageError(
                f"{context.place}: method loce replays every category: expected training instances "
                f"of all, {named} have none"
            )
        return {**super().options(context), "batch": context.batch}


class RIO(Method):
    """Repeat sampling of images and objects: features of a rare category are replayed whenever an
    image shows it; the classifier is a cosine one with learnable magnitudes.

    It is meant for the sampler repeat_factor.
    """

    method: Literal["rio"]
    counted: ClassVar[bool] = True
    most_images: int = Field(30, gt=0)
    """Largest number of training images of a category whose features are kept in the memory."""
    slots: int = Field(60, gt=0)
    """Features that the memory holds of each category."""
    samples: int = Field(20, gt=0)
    """Features that are replayed of each rare category in an image, and the most that an image
    adds."""
    scale: float = Field(48.0, gt=0)
    """Factor of the cosines."""
    source: ClassVar[str] = "Chang et al., Image-Level or Object-Level? (RIO), 2021"
    equations: ClassVar[str] = "z_j = scale g_j cos(h, w_j), without bias; cross-entropy"
    cost: ClassVar[str] = "a memory of categories x slots features: 0.3 GB for LVIS v1.0"
    open_points: ClassVar[tuple[str, ...]] = (
        "replayed features train only the classifier: box regression is part of the shared trunk",
        "each image's own samples decide what is replayed, not all those of a GPU's batch",
        "all ranks share one memory; the release has one on each GPU",
        "sampler repeat_factor rounds an image's factor up or down at random; MMDetection rounds "
        "up, and whether that made the epochs of BACL's row longer is unknown",
    )

    def options(self, context: Context) -> dict[str, Any]:
        return {**super().options(context), "batch": context.batch}
