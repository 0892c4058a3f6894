"""Settings and cards of other authors' methods."""

from itertools import pairwise, zip_longest
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from bacl.errors import UsageError
from bacl.method_settings.base import Context, Method
from bacl.schema import meaning


class Tailed(Method):
    """Base of methods that tell tail categories from the others."""

    counted: ClassVar[bool] = True
    tail: float | None = Field(None, gt=0, lt=1)
    """Categories that a smaller share of the training images shows are tail (EQL: 1.77e-3); null:
    all groups but the most frequent one are tail, which on LVIS v0.5 are the same categories."""


class EQL(Tailed):
    """Equalization loss: tail categories take no discouraging gradient from other foreground.

    Sigmoid classifier without a background column; background discourages all categories."""

    method: Literal["eql"]
    source: ClassVar[str] = "Tan et al., Equalization Loss for Long-Tailed Object Recognition, 2020"
    equations: ClassVar[str] = "w_j = 1 - [foreground] [j tail] (1 - y_j); sum_j w_j bce(z_j, y_j)"
    open_points: ClassVar[tuple[str, ...]] = (
        "the released LVIS v1.0 configuration has 1.1e-3, which makes 17 frequent categories tail",
        "which lambda BACL's row on LVIS v1.0 used is unknown",
    )


class DropLoss(Tailed):
    """EQL in which background samples, too, discourage tail categories only at random, with a
    probability equal to the tail's share of the foreground."""

    method: Literal["droploss"]
    source: ClassVar[str] = "Hsieh et al., DropLoss for Long-Tail Instance Segmentation, 2021"
    equations: ClassVar[str] = (
        "as EQL; on background w_j = [u < rho] for tail j, u uniform for each sample and category, "
        "rho the tail's share of foreground samples"
    )
    cost: ClassVar[str] = "a random number for each sample and tail category"
    open_points: ClassVar[tuple[str, ...]] = (
        "rho is computed from all ranks' samples of the step before, in the release from one GPU's "
        "of the step itself; without foreground nothing is dropped, as in the release",
        "the release takes 1.77e-3 for LVIS v1.0 as well, where 78 frequent categories fall below",
    )


class BALMS(Method):
    """Balanced (meta-softmax) sigmoid: foreground samples train on logits that are shifted down the
    more the rarer a category is, so that the unshifted logits at test favour rare categories."""

    method: Literal["balms"]
    counted: ClassVar[bool] = True
    source: ClassVar[str] = "Ren et al., Balanced Meta-Softmax for Long-Tailed Recognition, 2020"
    equations: ClassVar[str] = (
        "z_j - log((1 - f_j) / f_j) on foreground, z_j on background; sum_j bce, f_j = share of "
        "training images that show j"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "the meta sampler is left out: BACL lists BALMS as trained end to end, which it cannot be",
        "the released detector uses sigmoids, not the paper's softmax; so does this",
        "f is kept between 1 image and all but 1",
    )


class EQLv2(Method):
    """Equalization loss v2: each category's encouraging and discouraging gradients are balanced by
    weights that depend on their accumulated ratio.

    Sigmoid classifier with objectness.
    """

    method: Literal["eqlv2"]
    mu: float = Field(0.8, ge=0)
    """Ratio of gradients at which discouraging ones get half their weight; the release's."""
    gamma: float = Field(12.0, gt=0)
    """Steepness of the weight's rise with the ratio; the release's."""
    alpha: float = Field(4.0, ge=0)
    """Factor by which encouraging gradients gain weight when discouraging ones lose it; the
    release's."""
    source: ClassVar[str] = "Tan et al., Equalization Loss v2, 2021"
    equations: ClassVar[str] = (
        "g_j = G+_j / G-_j; negative weight n_j = sigma(gamma (g_j - mu)), positive weight "
        "1 + alpha (1 - n_j); G sums |sigma(z_j) - y_j| times weight over all samples before"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "g is 100 before a category's first gradient, and background's column has weight 1 and no "
        "part in G, as in the release",
    )


class Seesaw(Method):
    """Seesaw loss: softmax in which samples of a category discourage rarer categories less, and
    those that they are mistaken for more.

    A second softmax of two columns tells objects from background.
    """

    method: Literal["seesaw"]
    p: float = Field(0.8, ge=0)
    """Power of the ratio of counts (mitigation)."""
    q: float = Field(2.0, ge=0)
    """Power of the ratio of scores (compensation)."""
    classifier: Literal["linear", "cosine"] = "linear"
    """`cosine` is the official configurations' normalised classifier with temperature 20."""
    source: ClassVar[str] = "Wang et al., Seesaw Loss for Long-Tailed Instance Segmentation, 2021"
    equations: ClassVar[str] = (
        "z_j + log min(1, n_j / n_i)^p + log max(1, p_j / p_i)^q, cross-entropy on foreground; "
        "score softmax(z)_j P(object)"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "which classifier BACL's row used is unknown",
        "counts are of all ranks and of the steps before; the release counts on each GPU, the "
        "step's own samples included",
    )


class ACSL(Method):
    """Adaptive class suppression loss: foreground samples discourage another category only where
    its score is confident.

    Only few background samples discourage rare categories. The classifier is sigmoids, with one for
    background.
    """

    method: Literal["acsl"]
    counted: ClassVar[bool] = True
    threshold: float = Field(0.7, ge=0, le=1)
    """Least probability at which another category counts as confident."""
    background_shares: list[Annotated[float, Field(ge=0, le=1)]] = [0.01, 0.1, 1.0]
    """Share of background samples that discourage each frequency group, rarest first."""
    source: ClassVar[str] = "Wang et al., Adaptive Class Suppression Loss, 2021"
    equations: ClassVar[str] = (
        "foreground: w_j = 1 for the own category and where sigma(z_j) >= threshold; background: "
        "w_j = [sample drawn for j's group]; sum_j w_j bce(z_j, y_j); score sigma(z_j)"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "the release's comments give other shares than its code, which is followed here",
        "each background sample is drawn by itself, the share its chance; the release draws "
        "exactly that share of a GPU's",
        "the release starts from a detector trained on COCO and clips gradients at 35; this starts "
        "from ImageNet's backbone, as BACL's row does, and clips nothing",
    )

    def counts(self, context: Context) -> dict[str, Any]:
        counts = super().counts(context)
        if len(self.background_shares) != len(context.groups):
            raise UsageError(
                f"{context.place}: method acsl: background_shares: expected {len(context.groups)}, "
                f"one for each frequency group ({', '.join(context.groups)}), got "
                f"{len(self.background_shares)}"
            )
        return counts


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


class PCB(Method):
    """Pairwise class balance: towards the end of training, a sample's target is mixed with the
    frequencies at which other categories are predicted as its category.

    With several passes, RoI features go through the box head several times, refined each time by
    its outputs.
    """

    method: Literal["pcb"]
    counted: ClassVar[bool] = True
    mixing: float = Field(0.4, ge=0, le=1)
    """a: share of the mixed target; the release's for its last pass."""
    momentum: float = Field(0.99, ge=0, lt=1)
    """Share of the old row of the confusion matrix in the row after a step."""
    start: float = Field(2 / 3, ge=0, lt=1)
    """Share of training before the target is mixed: 16 of 24 epochs in the release."""
    passes: list[Annotated[float, Field(ge=0)]] = Field([1.0], min_length=1)
    """Weight of each pass's loss. Several weights make the iterative head, in the release [0.2,
    0.2, 0.6], which only a stage of kind representation can train."""
    source: ClassVar[str] = "He et al., Relieving Long-tailed Instance Segmentation via PCB, 2022"
    equations: ClassVar[str] = (
        "(1 - a) CE + a KL(column i of the confusion matrix, normalised || softmax) on foreground "
        "of category i, CE on background; F <- F s(deltas) + b(z) between passes, of which the "
        "last gives boxes and scores; a grows from 0 in the first pass to `mixing` in the last"
    )
    cost: ClassVar[str] = (
        "a matrix of categories by categories for each pass in the step's reduction; the box head "
        "once more for each further pass, at test too"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "whether BACL's row has the iterative head is unknown: an option",
        "every pass updates the matrix, as in the release, but only after the step",
        "the refinement between passes begins as the identity, and gradients pass through it",
        "mixing begins once every category has been seen, as in the release, except categories "
        "that no training image shows",
    )

    @property
    def end_to_end(self) -> bool:
        return len(self.passes) > 1

    def options(self, context: Context) -> dict[str, Any]:
        options = super().options(context)
        options["start"] = round(self.start * context.iterations) * context.batch
        if self.end_to_end:
            options["refined"] = {
                "channels": context.channels,
                "places": context.pooled,
                "deltas": context.deltas,
            }
        return options


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
