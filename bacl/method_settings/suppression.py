"""Settings and cards of losses that choose which categories a sample discourages."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bacl.errors import UsageError
from bacl.method_settings.base import Context, Method


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


class GOL(DropLoss):
    """Gumbel optimised loss: DropLoss on Gumbel activations, which fall to 0 much faster than
    sigmoids where logits are negative.

    Without a background column; background discourages tail categories at random, as in DropLoss.
    It is meant for the sampler repeat_factor.
    """

    method: Literal["gol"]  # type: ignore[assignment]
    source: ClassVar[str] = "Alexandridis et al., Gumbel Optimized Loss (GOL), 2022"
    equations: ClassVar[str] = (
        "p_j = exp(-exp(-z_j)), z_j kept in [-4, 10] in training; "
        "-sum_j w_j (y_j log p_j + (1 - y_j) log(1 - p_j)), w as DropLoss's; score p_j"
    )
    open_points: ClassVar[tuple[str, ...]] = (
        DropLoss.open_points[0],
        "the release's LVIS v1.0 configurations have 1.1e-3, which makes 17 frequent categories "
        "tail, and the sampler repeat_factor with t = 1e-3",
        "logits outside of [-4, 10] take no gradient, as in the release",
        "biases start at -2, as in the release's Gumbel configurations, probabilities at 6e-4; "
        "weights start at random, in the release all at 0.001",
        "the release suppresses overlaps from an IoU of 0.3 on at test, and also has an activation "
        "that differs by frequency group; neither is done here",
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


class Federated(Method):
    """Federated loss: sigmoids of which an image trains only those of its own categories and of a
    few others, drawn by how frequent they are.

    Sigmoid classifier without a background column. It is meant for the sampler repeat_factor.
    """

    method: Literal["federated"]
    counted: ClassVar[bool] = True
    trained: int = Field(50, gt=0)
    """Categories that train in an image, its own included; all of its own do if they are more."""
    power: float = Field(0.5, ge=0)
    """Power of a category's number of training images to which its chance is proportional; 0 draws
    all alike."""
    prior: float = Field(0.01, gt=0, lt=1)
    """Probability of every category before training, by the biases; CenterNet2's."""
    source: ClassVar[str] = (
        "Zhou et al., Probabilistic Two-Stage Detection (CenterNet2), 2021; detectron2, Detic"
    )
    equations: ClassVar[str] = (
        "sum over j in S of bce(z_j, y_j); S: the categories of the image's samples and others "
        "drawn without replacement by n_j^power up to `trained`; score sigma(z_j)"
    )
    cost: ClassVar[str] = "a random number for each image and category"
    open_points: ClassVar[tuple[str, ...]] = (
        "the releases have one S for all images of a GPU; here it is an image's own samples that "
        "are surely in it, and the draw that fills it is one for each pair of images, so that "
        "ranks do not matter",
        "background is not counted among the categories of S; in the releases it takes one of 50 "
        "places",
        "categories without training images are never drawn; fewer train where no more are left",
        "detectron2's own prior is 0.5: it sets no biases",
        "CenterNet2 multiplies scores by the proposals'; here and in detectron2 they are sigmoids",
    )
