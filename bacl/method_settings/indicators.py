"""Names of long-term indicators, the paper's and those from outside."""

from typing import Annotated

from bacl.errors import UsageError
from bacl.schema import Names, rebuild

INDICATORS = dict.fromkeys(
    [
        "image_frequency",
        "instance_frequency",
        "instance_number",
        "mean_score",
        "true_positive_rate",
        "confusion_matrix",
        "hard_confusion_matrix",
    ],
    "bacl.indicators",
)
"""Modules of long-term indicators, Table II and Eq. (14), by their names."""


Indicator = Annotated[str, Names(INDICATORS)]
"""One of INDICATORS."""


def register_indicator(name: str, module: str) -> None:
    """Let experiments name an indicator that is not BACL's own, given the module of its parts,
    `__name__`. These are registered by the same name in `bacl.indicators.INDICATORS`.

    Raises:
        UsageError: where there is one of that name.
    """
    if name in INDICATORS:
        raise UsageError(
            f"indicator {name} of {module} is registered already by {INDICATORS[name]}: expected "
            "another name"
        )
    INDICATORS[name] = module
    rebuild()
