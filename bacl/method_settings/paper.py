"""Settings of the paper's method and of the classifiers that it builds on or is compared with."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from bacl.errors import UsageError
from bacl.method_settings.base import Context, Method
from bacl.method_settings.indicators import INDICATORS, Indicator
from bacl.schema import Settings


class Hallucination(Settings):
    """Feature hallucination module, section III-E."""

    categories: int = Field(8, gt=0)
    """c: categories drawn per image pair; where none are given, no more than the dataset has."""
    samples: int = Field(12, gt=0)
    """m: features made per drawn category."""
    beta: float = Field(0.9, ge=0, lt=1)
    """Share of the old statistics in Eq. (11)."""
    statistics: Literal["shared", "per_rank"] = "shared"
    """Whose prototypes and variances features are made of: all ranks', or those of a rank of the
    release, which has two images of a step. Pair k of a step's images is its rank k, on however
    many ranks they really are."""
    moves: Literal["after", "before"] = "after"
    """Whether prototypes and variances move after the step's features are made, or before, as in
    the release and in Algorithm 1; that takes a second reduction over ranks in each step."""

    def drawn(self, there: int) -> int:
        """c for a dataset of `there` categories: the default, or `there` if that is less."""
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
    """Sigmoid classifier with objectness, Eqs. (2)-(5), without any balancing."""

    method: Literal["bce"]
    source: ClassVar[str] = "BCE* of Table XIII; section III-C"
    equations: ClassVar[str] = (
        "sum_j bce(z_j, y_j), background a column; score sigma(z_j) (1 - sigma(z_b))"
    )
    open_points: ClassVar[tuple[str, ...]] = (_SAMPLES, _PRIOR)


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
        "included, as in the release; it does not decay, and it starts anew after stage 1",
        "where Table II and Eq. (14) take the best score, it is the best of foreground",
        "indicators that count are divided by the largest, as 1 - l_i of Eq. (12) needs; the "
        "release has the confusion matrix only",
        "a sample's own category always counts: Eq. (6) does not weight it; Table IX's row without "
        "p_j >= p_i may have, `weight_term: overconfident_own`",
        f"{_SAMPLES}; made samples count as well",
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
    weight_term: Literal["both", "misclassified", "overconfident", "overconfident_own", "none"] = (
        "both"
    )
    """Conditions of Eq. (9) under which a category's loss counts, Table IX; `none` gives all the
    weight 1. `overconfident_own` weights a sample's own category as well, as the release does where
    one of its two conditions is left out: a sample is then learned only once it scores p_t."""
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
        "the release keeps them on each GPU and moves them before, as Algorithm 1 does: "
        "`statistics: per_rank` and `moves: before`",
        "c categories are drawn for each pair of images, which is a GPU's batch in the release and "
        "does not depend on how many there are",
        "made features may be negative, as in the release, though real ones come out of a ReLU",
    )
    hallucination: Hallucination | None = Hallucination()
    """How features of rare categories are made; null makes none, which leaves `fcbl`."""

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
            if self.hallucination.statistics == "per_rank":
                options["hallucination"]["ranks"] = context.batch // 2
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
