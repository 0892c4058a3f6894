"""Names of metrics and losses: made of their parts, and taken apart again.

A job logs `variant/AP` for a metric of a variant, `variant.loss_cls` for its loss and, in a
cascade, `s0.variant.loss_cls` for that of a stage. What begins with SYSTEM is of its machines.
"""

import re
from collections.abc import Iterable

from bacl.metric_names import FIXED, POOL, metric_names, of_group
from bacl_platform.plan.job import Job

SYSTEM = "system/rank"
"""How the names of a rank's system metrics begin; MLflow shows `system/` in a tab of its own."""


def measurable(groups: Iterable[str], masks: bool) -> list[str]:
    """Names of the metrics that every variant has: of boxes and, with `masks`, of masks as well.

    AP-Fixed and AP-Pool of masks are there only where no detection lies beyond the detector's limit
    for an image: masks are not made of those.

    groups: names of frequency groups, such as `r` for `AP_r`.
    """
    lacking = (f"mask_{FIXED}", f"mask_{POOL}")
    return [name for name in metric_names(groups, masks) if not name.startswith(lacking)]


def group_precision(group: str, kind: str = "AP") -> str:
    """The name of the average precision of a frequency group, such as `AP_r`.

    kind: `AP`, or `mask_AP` for that of masks.
    """
    return of_group(group, kind)


def system_metric(rank: int, name: str) -> str:
    """The name that a job logs a metric of a rank's machine by."""
    return f"{SYSTEM}{rank}/{name}"


def metric_name(variant: str, metric: str) -> str:
    """The name that a job logs a variant's metric by."""
    return f"{variant}/{metric}"


def owner(name: str, job: Job) -> tuple[str | None, str]:
    """(variant, metric) of a metric's or loss's name; the variant is None for what all share."""
    if name.startswith(SYSTEM):
        return None, name
    match = re.fullmatch(r"(?P<stage>s\d+\.)?(?P<variant>[^./]+)[./](?P<metric>.+)", name)
    if match and match["variant"] in job.variants:
        return match["variant"], (match["stage"] or "") + match["metric"]
    return None, name


def metric_of(name: str, job: Job) -> tuple[str, str] | None:
    """(variant, metric) of the name that a variant's metric is logged by; None for other names."""
    variant, metric = owner(name, job)
    if variant is not None and name == metric_name(variant, metric):
        return variant, metric
    return None
