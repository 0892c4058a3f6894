"""Names of an evaluation's metrics: made of their parts, and taken apart again.

A name is a *kind*, such as `AP` or `mask_APFixed`, of all categories; with `_<group>` after it, of
a frequency group. `AP` and `mask_AP` have values at one overlap as well, `AP50` and `AP75`.
"""

import re
from collections.abc import Iterable

FIXED, POOL, RECALL, CALIBRATION = "APFixed", "APPool", "AR", "ECE"
KINDS = ("AP", FIXED, POOL, RECALL, CALIBRATION)
"""Of boxes. Those of masks are `mask_<kind>`, except for the error of calibration: scores belong to
boxes and masks alike."""
BOUNDARY = "boundary_AP"
MASK_KINDS = (*(f"mask_{kind}" for kind in KINDS if kind != CALIBRATION), BOUNDARY)
_AT_ONE_OVERLAP = ("50", "75")
_NAME = re.compile(
    rf"(?P<kind>{'|'.join(sorted((*KINDS, *MASK_KINDS), key=len, reverse=True))})"
    r"(?:(?<=AP)(?:50|75))?(?:_(?P<group>.+))?"
)


def metric_names(groups: Iterable[str], masks: bool) -> list[str]:
    """Names of a variant's metrics: of boxes and, with `masks`, of masks as well.

    groups: names of frequency groups, such as `r` for `AP_r`.
    """
    names = tuple(groups)
    return [
        name for kind in (*KINDS, *(MASK_KINDS if masks else ())) for name in of_kind(kind, names)
    ]


def of_kind(kind: str, groups: Iterable[str]) -> list[str]:
    """Names of the metrics of one kind."""
    overlaps = _AT_ONE_OVERLAP if kind in ("AP", "mask_AP") else ()
    return [
        kind,
        *(f"{kind}{overlap}" for overlap in overlaps),
        *(of_group(group, kind) for group in groups),
    ]


def of_group(group: str, kind: str = "AP") -> str:
    """The name of a kind of metric of a frequency group, such as `AP_r`."""
    return f"{kind}_{group}"


def kind_of(name: str) -> str | None:
    """The kind of a metric; None of what is no metric of an evaluation, such as a loss."""
    found = _NAME.fullmatch(name)
    return found["kind"] if found else None


def lower_is_better(name: str) -> bool:
    """Whether the lower value of a metric is the better one, as of an error."""
    return kind_of(name) == CALIBRATION
