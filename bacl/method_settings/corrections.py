"""Settings and cards of corrections: what is done to a trained classifier's scores, without
training.

N_j is how often training shows category j, z are the corrected variant's logits, C the number of
categories.
"""

from functools import reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bacl.errors import UsageError
from bacl.method_settings.base import Context, Method
from bacl.schema import meaning

_SOFTMAX = ("softmax", "cosine", "disalign", "fasa", "ldam", "loce", "logit_adjusted", "pcb", "rio")
_SIGMOID = ("sigmoid", "eql", "droploss", "balms", "acsl", "federated", "focal")
_OBJECTNESS = ("bce", "fcbl", "bacl", "eqlv2", "ecm", "rog")
SCORES: dict[str, str] = {
    **dict.fromkeys(_SOFTMAX, "softmax"),
    **dict.fromkeys(_SIGMOID, "sigmoid"),
    **dict.fromkeys(_OBJECTNESS, "objectness"),
    "tde": "tde",
}
"""What makes a method's scores of its logits: a `softmax` over categories and background, a
`sigmoid` of each category, or that times 1 less the background's (`objectness`); `tde` has its own.
The scores of methods that are not here are not corrected."""

IN_WORDS = {
    "softmax": "a softmax over categories and background",
    "sigmoid": "a sigmoid of each category",
    "objectness": "sigmoids with objectness",
    "tde": "method tde's",
}


class Correction(Method):
    """Base of a correction's settings."""

    of: Annotated[str, meaning("the name of a variant of the stage before")]
    """The trained variant whose scores are corrected."""
    scores: ClassVar[tuple[str, ...]] = ()
    """Kinds of scores, `SCORES`, that it is defined for."""
    samples: ClassVar[bool] = False
    """Whether it needs statistics of training images, besides counts."""

    def misfit(self, corrected: Method) -> str | None:
        """Why it is not defined for a variant with these settings, in words; None where it is."""
        kind = SCORES.get(corrected.method)
        known = " or ".join(IN_WORDS[name] for name in self.scores)
        if kind not in self.scores:
            return f"expected a variant whose scores are {known}, got method {corrected.method}"
        if len(getattr(corrected, "passes", (1.0,))) > 1:
            return f"expected a variant of one pass, got method {corrected.method} with several"
        return None


class NorCal(Correction):
    """Scores are divided by a power of how often training shows the category, the background's left
    out, and normalised anew."""

    method: Literal["norcal"]
    gamma: float = Field(0.6, ge=0)
    """Power of the count; 0 corrects nothing. The paper chooses it on held-out training images:
    the best value depends on the detector."""
    by: Literal["images", "instances"] = "images"
    """Whether N_j counts the training images that show category j, as the release does, or its
    boxes."""
    source: ClassVar[str] = (
        "Pan et al., On Model Calibration for Long-Tailed Object Detection, 2021"
    )
    equations: ClassVar[str] = (
        "softmax: exp(z_j) / N_j^gamma over their sum and exp(z_b); sigmoids: e_j / (1 + e_j), "
        "e_j = exp(z_j) / N_j^gamma, and objectness 1 - sigma(z_b) as it was"
    )
    cost: ClassVar[str] = "none: N_j^gamma goes into the biases"
    open_points: ClassVar[tuple[str, ...]] = (
        "the release has the softmax alone; each sigmoid is taken as a softmax over its category "
        "and everything else, of which the category's part is divided",
        "sigmoids with objectness are not in the paper: the background's sigmoid, which is apart "
        "there anyway, is left as it is",
        "a category that training does not show counts as shown once",
    )
    scores: ClassVar[tuple[str, ...]] = ("softmax", "sigmoid", "objectness")
    counted: ClassVar[bool] = True


class LogitAdjustment(Correction):
    """Logits are lowered by the logarithm of the category's share of the training boxes."""

    method: Literal["logit_adjustment"]
    tau: float = Field(1.0, ge=0)
    """Factor of the logarithm; 0 corrects nothing, 1 is what makes the balanced error least."""
    by: Literal["images", "instances"] = "instances"
    """Whether pi_j is category j's share of the training boxes, or of the numbers of images that
    show each category."""
    source: ClassVar[str] = "Menon et al., Long-Tail Learning via Logit Adjustment, 2021"
    equations: ClassVar[str] = "z_j - tau log pi_j, pi_j = N_j / sum_k N_k; z_b as it was; softmax"
    cost: ClassVar[str] = "none: tau log pi_j goes into the biases"
    open_points: ClassVar[tuple[str, ...]] = (
        "the paper is about classification and has no background: its logit stays, and pi is a "
        "share of foreground; so all categories gain on the background, the rare ones most",
        "with the same counts, NorCal differs by tau log sum_k N_k alone, by which it lowers all "
        "categories against the background",
        "a category that training does not show counts as shown once",
    )
    scores: ClassVar[tuple[str, ...]] = ("softmax",)
    counted: ClassVar[bool] = True


class Temperature(Correction):
    """Logits of each frequency group are divided by a temperature of the group's."""

    method: Literal["temperature"]
    temperatures: list[Annotated[float, Field(gt=0)]]
    """A temperature for each frequency group, rarest first; 1 corrects nothing."""
    source: ClassVar[str] = "Guo et al., On Calibration of Modern Neural Networks, 2017"
    equations: ClassVar[str] = "z_j / T_g, g the group of category j; z_b as it was"
    cost: ClassVar[str] = "none: temperatures go into the classifier's weights"
    open_points: ClassVar[tuple[str, ...]] = (
        "the paper has one temperature for all classes, found by the likelihood of held-out "
        "samples; here the groups' temperatures are given, and the background's is 1",
        "logits are divided as they are: where most are below 0, as those of sigmoids, a low "
        "temperature lowers most scores of its group",
    )
    scores: ClassVar[tuple[str, ...]] = ("softmax", "sigmoid", "objectness")
    counted: ClassVar[bool] = True

    def options(self, context: Context) -> dict[str, Any]:
        if len(self.temperatures) != len(context.groups):
            raise UsageError(
                f"{context.place}.temperatures: expected {len(context.groups)}, one for each "
                f"frequency group ({', '.join(context.groups)}), got {len(self.temperatures)}"
            )
        return super().options(context)


class LogN(Correction):
    """Logits are normalised by their mean and deviation over regions of training images, as batch
    normalisation does it, and moved back to the least of the means."""

    method: Literal["logn"]
    images: int = Field(1000, gt=0)
    """Training images, in the order and with the augmentation of training, whose sampled regions
    the statistics are of; no more than an epoch has."""
    source: ClassVar[str] = (
        "Zhao et al., Logit Normalization for Long-Tail Object Detection, 2022 and 2024"
    )
    equations: ClassVar[str] = (
        "(z_j - m_j + min_k m_k) / s_j, m and s the mean and deviation of sampled regions' logits, "
        "background included; z_b as it was; softmax"
    )
    cost: ClassVar[str] = "a pass over training images, or over stored features; none at test"
    open_points: ClassVar[tuple[str, ...]] = (
        "the release keeps running statistics with a momentum of 5e-5 over an epoch at a learning "
        "rate of 0; these are the plain mean and unbiased variance over the regions",
        "the release clamps variances at 1e-11, and so does this",
        "the release has the softmax over a cosine classifier with a background column; the paper "
        "reports other detectors, whose form it leaves open: expected is a softmax",
        "boxes of the pass are those that the sampler of regions draws in training, of the stage "
        "that trained the variant; stored background regions count for those they stand for",
        "in a cascade each stage's logits have statistics of their own, and are averaged then",
    )
    scores: ClassVar[tuple[str, ...]] = ("softmax",)
    samples: ClassVar[bool] = True

    def options(self, context: Context) -> dict[str, Any]:
        return {**super().options(context), "images": min(self.images, context.images)}


class TDEAlpha(Correction):
    """A trained `tde` variant with another share of the mean direction's effect subtracted."""

    method: Literal["tde_alpha"]
    alpha: float = Field(ge=0)
    """Share of the direction's effect that is subtracted at test, as of method `tde`."""
    source: ClassVar[str] = "Tang et al., Long-Tailed Classification by Keeping the Good, 2020"
    equations: ClassVar[str] = "as of method tde, whose training does not depend on alpha"
    cost: ClassVar[str] = "as of method tde"
    scores: ClassVar[tuple[str, ...]] = ("tde",)


CORRECTIONS: dict[str, type[Correction]] = {
    "norcal": NorCal,
    "logit_adjustment": LogitAdjustment,
    "temperature": Temperature,
    "logn": LogN,
    "tde_alpha": TDEAlpha,
}
"""The settings of each correction by its name."""


class _Known:
    """Pydantic's schema of `Corrected`."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        known: Any = reduce(or_, CORRECTIONS.values())
        return handler.generate_schema(Annotated[known, Field(discriminator="method")])


Corrected = Annotated[Correction, _Known]
"""Settings of a corrected variant in an experiment file: those of one of CORRECTIONS."""
