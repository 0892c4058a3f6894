"""Settings and cards of classifiers that are not one linear layer under one loss."""

from itertools import pairwise, zip_longest
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from bacl.errors import UsageError
from bacl.method_settings.base import Context, Method
from bacl.schema import meaning


class BAGS(Method):
    """Balanced group softmax: categories of similar counts compete in a softmax of their own, each
    with a column for all others; one of two columns tells foreground from background."""

    method: Literal["bags"]
    counted: ClassVar[bool] = True
    bounds: list[Annotated[int, Field(gt=0)]] = [10, 100, 1000]
    """Least numbers of training instances of the second and each further group, rising."""
    others: int = Field(8, gt=0)
    """Number of samples of other groups for each sample of a group's own, in every image."""
    source: ClassVar[str] = "Li et al., Balanced Group Softmax, 2020"
    equations: ClassVar[str] = (
        "sum over groups of the mean cross-entropy of kept samples; score softmax_group(z)_j "
        "P(foreground)"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "others are drawn in each image, not in each GPU's batch, so that ranks do not matter",
        "the classifier starts anew, as in the release, because its columns differ",
        "the release starts from a detector trained on COCO and clips gradients at 35; this starts "
        "from ImageNet's backbone, as BACL's row does, and clips nothing",
    )

    @model_validator(mode="after")
    def _rises(self) -> "BAGS":
        if any(low >= high for low, high in pairwise(self.bounds)):
            raise ValueError(f"bounds {self.bounds} do not rise")
        return self

    def counts(self, context: Context) -> dict[str, Any]:
        counts = super().counts(context)
        edges = [0, *self.bounds]
        for low, high in zip_longest(edges, edges[1:]):
            if not any(low <= n and (high is None or n < high) for n in counts["instances"]):
                span = f"{low} or more" if high is None else f"{low} to {high - 1}"
                raise UsageError(
                    f"{context.place}: method bags: bounds {self.bounds}: expected categories in "
                    f"every group, none has {span} training instances"
                )
        return counts


class DisAlign(Method):
    """Distribution alignment: the classifier of the stage before stays as it is, and a scale and an
    offset for each category, mixed in by a confidence for each sample, correct its logits."""

    method: Literal["disalign"]
    counted: ClassVar[bool] = True
    follows: ClassVar[tuple[str, ...]] = ("softmax", "cosine")
    rho: float = Field(0.8, ge=0)
    """Power of a category's inverse share in its weight."""
    shares: Literal["instances", "images"] = "instances"
    """Counts from which the share r_j of a category is computed."""
    classifier: Literal["linear", "cosine"] = "linear"
    """Method of the classifier that the stage before has trained: `softmax` or `cosine`."""
    source: ClassVar[str] = "Zhang et al., Distribution Alignment, 2021"
    equations: ClassVar[str] = (
        "z'_j = c (a_j z_j + b_j) + (1 - c) z_j, c = sigma(w h + v); cross-entropy weighted by "
        "(1 / r_j)^rho, of mean 1 over categories, and 1 for background, over the sum of weights"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "the file of counts is not public: images or instances, an option",
        "the strong version corrects a cosine classifier: train method `cosine` a stage before",
        "whether BACL's rows are plain or strong is unknown: on LVIS v1.0, ResNet-50's looks "
        "plain, ResNet-101's strong",
        "the release trains 4,500 iterations on LVIS v0.5; BACL's protocol, 12 epochs, is longer",
    )

    @property
    def bases(self) -> tuple[str, ...]:
        return ("cosine",) if self.classifier == "cosine" else ("softmax",)


class Cosine(Method):
    """Softmax over the cosines of features and weights, times a learnable scale."""

    method: Literal["cosine"]
    scale: float = Field(20.0, gt=0)
    """Initial value of the scale."""
    source: ClassVar[str] = "Qi et al., 2018; Zhang et al., 2021 (the base of DisAlign)"
    equations: ClassVar[str] = "z_j = s cos(h, w_j), without bias; cross-entropy"
    open_points: ClassVar[tuple[str, ...]] = (
        "not a row of BACL's tables: it is the base that DisAlign's strong version corrects",
    )


class TDE(Method):
    """De-confounded training: a normalised classifier of several heads; at test, the effect of the
    features' mean direction alone is subtracted from the foreground's logits."""

    method: Literal["tde"]
    heads: int = Field(2, gt=0)
    """K: number of parts of the features, each normalised separately."""
    scale: float = Field(16.0, gt=0)
    """Factor of the sum of the heads' logits."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """mu of the running direction; the later release has 0.9998."""
    alpha: float = Field(1.5, ge=0)
    """Share of the direction's effect that is subtracted at test."""
    source: ClassVar[str] = "Tang et al., Long-Tailed Classification by Keeping the Good, 2020"
    equations: ClassVar[str] = (
        "z = scale / K sum_k w_k / (|w_k| + 1/32) . h_k / |h_k|; e <- mu e + mean foreground h; "
        "test: z - alpha cos(h, e) scale / K (e / |e|) . w, background's softmax kept"
    )
    cost: ClassVar[str] = "twice the logits at test"
    open_points: ClassVar[tuple[str, ...]] = (
        "mu is 0.9 in the first release and 0.9998 in the later one, an option",
        "the later release takes label > 0 for foreground, which misses a category, and sends its "
        "probabilities through a second softmax; neither is done here",
        "the direction is of all ranks' foreground, and stays where a step has none; the release "
        "has one on each GPU",
    )

    def options(self, context: Context) -> dict[str, Any]:
        if (width := context.width) % self.heads:
            raise UsageError(
                f"{context.place}.heads: expected a divisor of detector.fc_channels ({width}), got "
                f"{self.heads}"
            )
        return super().options(context)


class Forest(Method):
    """Forest R-CNN: trees that group categories by looks, shape and meaning; a category's score is
    corrected by the probabilities of its parents.

    Softmax.
    """

    method: Literal["forest"]
    reads: ClassVar[tuple[str, ...]] = ("fc1",)
    trees: Annotated[str, meaning("the path of a file that `bacl trees` has made")]
    """File with each category's parents, as `bacl trees` makes it; relative to the experiment's."""
    paths: ClassVar[tuple[str, ...]] = ("trees",)
    source: ClassVar[str] = "Wu et al., Forest R-CNN, 2020"
    equations: ClassVar[str] = (
        "CE(z) + sum_k CE(parents of tree k), these over features that take no gradient; score "
        "mean_k P_k(parent_k(j)) exp(z_j), normalised"
    )
    cost: ClassVar[str] = "a hidden layer and a classifier for each tree, and a hidden layer"
    open_points: ClassVar[tuple[str, ...]] = (
        "the authors' scripts for trees are not public: `bacl trees` makes its own",
        "NMS re-sampling is the recipe's `proposal_nms: [0.9, 0.8, 0.7]`",
        "hidden layers stand on the first shared FC; the second is the box regressor's alone where "
        "the whole detector trains",
    )

    def options(self, context: Context) -> dict[str, Any]:
        from bacl.forest.trees import read_trees

        names = [category.name for category in context.categories]
        return {**super().options(context), "trees": read_trees(self.trees, names)}
