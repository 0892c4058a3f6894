"""Settings and cards of losses that follow the classifier's own scores or gradients."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bacl.method_settings.base import Context, Method


class Focal(Method):
    """Focal loss: sigmoids whose samples count the less the better they are classified already.

    Sigmoid classifier without a background column.
    """

    method: Literal["focal"]
    gamma: float = Field(2.0, ge=0)
    """Power of the distance of a probability from its target; 0 is plain binary cross-entropy."""
    alpha: float = Field(0.25, ge=0, le=1)
    """Weight of a sample's own category; others have the rest."""
    prior: float = Field(0.01, gt=0, lt=1)
    """Probability of every category before training, by the biases."""
    source: ClassVar[str] = "Lin et al., Focal Loss for Dense Object Detection, 2017"
    equations: ClassVar[str] = (
        "sum_j alpha_t (1 - p_t)^gamma bce(z_j, y_j), over the number of foreground samples; score "
        "sigma(z_j)"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "the paper trains all anchors of a detector of one stage, most of them easy; here it is "
        "sampled regions",
        "it is divided by the number of foreground samples as in the paper, other methods' losses "
        "by that of all: with a quarter foreground it weighs four times as much",
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


class ROG(Method):
    """Object-level and global-level objectives reconciled: sigmoids with objectness, and a loss on
    how all scores of an image rank, whose gradients are balanced over categories."""

    method: Literal["rog"]
    weight: float = Field(0.1, ge=0)
    """lambda: factor of the ranking loss's gradient."""
    gamma: float = Field(1.0, ge=0)
    """Power of the inverse number of a category's samples so far in its ranking errors' weight."""
    slack: float = Field(0.5, gt=0)
    """Difference of logits within which two are ranked in part, each above and below."""
    source: ClassVar[str] = "Zhang et al., Reconciling Object- and Global-Level Objectives, 2023"
    equations: ClassVar[str] = (
        "BCE* + GAP: for each category, the mean over its positive logits z of F / (F + P), where "
        "sums of H(z' - z) over all negative logits are F, over its positives P, "
        "H(x) = clamp(x / (2 slack) + 1/2, 0, 1); z takes the gradient -F / (F + P), a negative "
        "H / (F + P), times weight n_j^-gamma scaled to a mean of 1"
    )
    cost: ClassVar[str] = "a search for each logit of an image among its foreground samples'"
    open_points: ClassVar[tuple[str, ...]] = (
        "logits of an image are ranked, which is what shares a limit of detections at test, and "
        "categories of images are averaged, so that ranks do not matter; the release ranks those "
        "of a GPU's batch, of four images",
        "numbers of samples are of all ranks and of the steps before, at least 1; the release "
        "counts on each GPU, the step's own samples included",
        "logits are ranked without objectness, though scores have it, as in the release; positives "
        "of other categories are not negatives",
        "the release also adds the ranking loss to Seesaw, and clips gradients at 5; here it is "
        "with sigmoids",
    )
