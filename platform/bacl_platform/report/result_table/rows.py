"""Rows of a table of results, by trial or variant, and what is known of the table as a whole.

Values are points (AP times 100).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bacl_platform.plan.job import Fidelity
from bacl_platform.plan.metric_names import group_precision
from bacl_platform.plan.screening import Agreement

BySeed = Mapping[int, float]
"""Points of one metric by seed."""


@dataclass(frozen=True)
class Row:
    """One trial, or variant, over its seeds."""

    varied: Mapping[str, str]
    """Its values in short, by field."""
    state: str
    """`done`, or what is the matter with how many of its seeds."""
    found: Mapping[str, BySeed]
    """Points by metric and finished seed, of which some may lack a metric."""
    paper: Mapping[str, float] = field(default_factory=dict)
    """The paper's points by metric; empty without."""
    error: str = ""
    ended: Mapping[str, str] = field(default_factory=dict)
    """Last values of a trial whose values changed while it trained."""
    seeds: int = 0
    """How many are finished."""
    features: Fidelity | None = "exact"
    """What `found` is trained on; None where there is nothing found to be."""
    evaluated_with: str = ""
    """Averaged weights, several views or soft suppression, in words; empty without."""
    exact: Mapping[str, BySeed] = field(default_factory=dict)
    """Points of the same trial trained exactly, where a sweep confirms what it screened."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The values of `varied` as they are in the file, of a trial."""

    @property
    def label(self) -> str:
        """The values in short: `alpha=0.5, beta=0.9`, or a variant's name."""
        if list(self.varied) == [VARIANT]:
            return self.varied[VARIANT]
        return ", ".join(f"{field}={value}" for field, value in self.varied.items())


VARIANT = "variant"
"""The field of rows that are an experiment's variants."""


@dataclass(frozen=True)
class PaperTable:
    """The published table that rows are beside."""

    title: str
    rows: Sequence[tuple[Mapping[str, Any], Mapping[str, float]]]
    """Values (of a variant: its name) that a row is for, and its points by metric."""
    unlike: str = ""
    """Why its points do not compare with ours, in words; empty where they do."""


@dataclass(frozen=True)
class ResultTable:
    """What a sweep or an experiment has found so far."""

    name: str
    metrics: Sequence[str]
    """Names of the metrics, in the order in which they were found."""
    rows: Sequence[Row]
    metric: str = "AP"
    """The metric that rows are ranked by."""
    mode: Literal["max", "min"] = "max"
    groups: Sequence[str] = ()
    """Names of the frequency groups, such as `r` of `AP_r`."""
    paper: PaperTable | None = None
    notes: Sequence[str] = ()
    """What is to be known before the points are read, in sentences."""
    screened: bool = False
    """Whether all rows are replayed, and some are exact as well."""
    agreement: Agreement | None = None
    """How the two agree, where there are any."""
    logarithmic: Collection[str] = ()
    """Fields whose values are spaced by factors."""

    @property
    def marked(self) -> bool:
        """Whether rows say what they were trained on."""
        return any(row.features == "replay" for row in self.rows)

    @property
    def unlike(self) -> bool:
        """Whether rows say with what they were evaluated."""
        return any(row.evaluated_with for row in self.rows)

    @property
    def fields(self) -> list[str]:
        """The fields that rows name, in the order of the space."""
        return list(dict.fromkeys(field for row in self.rows for field in row.varied))

    @property
    def family(self) -> list[str]:
        """The ranking metric's kind over all categories and by group, as far as they are found.

        Of `AP_r` that is AP, AP_r, AP_c and AP_f; of `AP50` it is AP50 alone. The metric comes
        first.
        """
        kind = self.metric
        for group in self.groups:
            kind = kind.removesuffix(group_precision(group, ""))
        kinds = [kind, *(group_precision(group, kind) for group in self.groups)]
        found = [name for name in kinds if name in self.metrics]
        return list(dict.fromkeys([self.metric, *found]))

    @property
    def ordered(self) -> list[str]:
        """All metrics: the family first."""
        return list(dict.fromkeys([*self.family, *self.metrics]))

    def compared(self, row: Row) -> Mapping[str, BySeed]:
        """The row's points that compare with the paper's: exact ones of a sweep that screens."""
        return row.exact if self.screened else row.found
