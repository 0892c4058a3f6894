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
    """Register the name of an indicator that is not BACL's own, so that experiments can use it.
    module: the module (`__name__`) of its class, which is registered by the same name in
    `bacl.indicators.INDICATORS`.

    Raises:
        UsageError: an indicator of that name exists.
    """
    if name in INDICATORS:
        raise UsageError(
            f"indicator {name} of {module} is registered already by {INDICATORS[name]}: expected "
            "another name"
        )
    INDICATORS[name] = module
    rebuild()
