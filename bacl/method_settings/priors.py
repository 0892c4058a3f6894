"""Settings and cards of losses whose weights or margins follow from the training split's counts."""

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from bacl.method_settings.base import Context, Method


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


class ClassBalanced(Method):
    """Class-balanced loss: a sample counts by the inverse of its category's effective number of
    training instances."""

    method: Literal["class_balanced"]
    counted: ClassVar[bool] = True
    beta: float = Field(0.9999, ge=0, lt=1)
    """How little instances of a category overlap: 0 weights all alike, towards 1 a category's
    weight tends to the inverse of its count."""
    base: Literal["softmax", "sigmoid"] = "softmax"
    """Loss that is weighted: softmax with a background column, or sigmoids without one."""
    gamma: float = Field(0.0, ge=0)
    """Power of the focal factor (1 - p_t) of base `sigmoid`; 0 is plain binary cross-entropy, the
    authors try 0.5, 1 and 2."""
    source: ClassVar[str] = "Cui et al., Class-Balanced Loss, 2019"
    equations: ClassVar[str] = (
        "w_y = (1 - beta) / (1 - beta^n_y), scaled to a mean of 1 over categories; w_y CE, or "
        "w_y sum_j (1 - p_t)^gamma bce(z_j, y_j), over the number of samples"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "the paper classifies images, which have no background: samples of background have the "
        "weight 1, the mean of the categories'",
        "n is the number of training instances; those of a category without any are taken as 1",
        "with sigmoids a sample's weight is that of its label in all columns, as in the release",
    )

    @model_validator(mode="after")
    def _focal_is_of_sigmoids(self) -> "ClassBalanced":
        if self.gamma and self.base == "softmax":
            raise ValueError(f"gamma {self.gamma} is of base sigmoid: expected 0 with softmax")
        return self


class LDAM(Method):
    """Label-distribution-aware margins: a cosine classifier whose own-category cosine must win by
    more the rarer the category is; late in training rare categories weigh more, too."""

    method: Literal["ldam"]
    counted: ClassVar[bool] = True
    margin: float = Field(0.5, ge=0)
    """Margin of the rarest category, in cosines."""
    scale: float = Field(30.0, gt=0)
    """s: factor of the cosines."""
    deferred: float | None = Field(0.8, ge=0, lt=1)
    """Share of training after which samples are weighted (DRW): 160 of 200 epochs in the release;
    null: never."""
    beta: float = Field(0.9999, ge=0, lt=1)
    """Of the effective number of instances by whose inverse samples are then weighted."""
    source: ClassVar[str] = "Cao et al., Label-Distribution-Aware Margin Loss (LDAM-DRW), 2019"
    equations: ClassVar[str] = (
        "z_j = s cos(h, w_j); cross-entropy of z - s m_y e_y, m_j = margin (n_min / n_j)^(1/4); "
        "from `deferred` on weighted by (1 - beta) / (1 - beta^n_y) of mean 1, over the weights' "
        "sum"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "the paper classifies images: background has no margin here, and the weight 1",
        "n is the number of training instances, at least 1",
        "scores are the softmax of s cos without margins; the release only takes the best category",
    )

    def options(self, context: Context) -> dict[str, Any]:
        start = None if self.deferred is None else round(self.deferred * context.iterations)
        options = super().options(context)
        return {**options, "deferred": None if start is None else start * context.batch}


class LogitAdjusted(Method):
    """Logit adjustment in training: softmax over logits shifted up by the logarithm of each
    category's share, so that the unshifted logits at test favour no frequent category."""

    method: Literal["logit_adjusted"]
    counted: ClassVar[bool] = True
    tau: float = Field(1.0, ge=0)
    """Factor of the shifts; 1 makes scores those of balanced categories."""
    shares: Literal["instances", "images"] = "instances"
    """Counts from which the share pi_j of a category among foreground is computed."""
    background: float | None = Field(None, gt=0, lt=1)
    """Share of background among samples (about 0.75 to 0.95), with which it is adjusted as if it
    were a category; null: it is not adjusted."""
    source: ClassVar[str] = "Menon et al., Long-tail Learning via Logit Adjustment, 2021"
    equations: ClassVar[str] = (
        "cross-entropy of z_j + tau log(C pi_j), z_b without a shift; with `background` b: "
        "z_j + tau log((1 - b) pi_j), z_b + tau log b; score softmax(z)"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "the paper classifies images: by default all categories together keep the share that "
        "foreground has among samples, and only shares among them are made equal; adjusted as a "
        "category, background would be expected no more often than any other",
        "categories without training instances are taken to have one",
    )


class ECM(Method):
    """Effective class-margin loss: sigmoids with margins for and against a category that follow
    from how many samples are positive and negative for it.

    Sigmoid classifier with objectness.
    """

    method: Literal["ecm"]
    counted: ClassVar[bool] = True
    background: float = Field(6.3313, gt=0)
    """Samples of background for each of foreground, by which background has a count; the
    release's, measured on a Mask R-CNN."""
    classifier: Literal["linear", "cosine"] = "linear"
    """`cosine` is the release's normalised classifier with temperature 20."""
    source: ClassVar[str] = "Cho and Krähenbühl, Effective Class-Margins (ECM), 2022"
    equations: ClassVar[str] = (
        "p_j = exp(z_j + m+_j) / (exp(z_j + m+_j) + exp(-z_j + m-_j)), m+- = log(1 + (n+- / "
        "n-+)^(1/4)), n+ positives, n- all others; a_j = n- / n+; sum_j a_j log(1 + 1 / a_j) "
        "bce(p_j, y_j), background a category; score sigma(z_j) (1 - sigma(z_b))"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        "n is the number of training images that show a category, as in the release, at least 1",
        "scores are of z without margins and not doubled, as in the release; the loss's p is "
        "sigma(2 z + m+ - m-)",
        "biases start at a sigmoid prior of 0.001; the release's start at 0 and warm up over "
        "10,000 steps, with gradients clipped at 5",
    )
