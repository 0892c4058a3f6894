"""Settings and cards of losses whose weights or margins follow from the training split's counts."""

from typing import ClassVar, Literal

from bacl.method_settings.base import Method


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
