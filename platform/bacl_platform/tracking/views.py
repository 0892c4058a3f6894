"""Where MLflow's pages show a plan's variants, and what they show there.

MLflow's pages take what they show from their address, and the columns of a table from a tag of the
experiment, a *shared view*, which the address names.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from bacl.metric_names import FIXED, kind_of

if TYPE_CHECKING:
    from mlflow.entities import Run

KIND = ("mlflow.experimentKind", "custom_model_development")
"""Tag by which MLflow shows an experiment's runs and models, not its side for language models."""
MOST_COMPARED = 30
"""Runs that an address compares at most, the best ones: more are no picture to look at."""
MOST_VARIED = 5
"""Parameters that the table has columns for, of those that differ."""
_MOST_LETTERS = 5000
"""Of a tag of an experiment."""
_VIEW = "mlflow.sharedViewState."
_SHOWN = ("AP", FIXED, "mask_AP")
"""Kinds of metrics that have columns, in this order."""
_USUAL: dict[str, Any] = {
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runsVisibilityMap": {},
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupBy": None,
    "groupsExpanded": {},
    "autoRefreshEnabled": True,
    "globalLineChartConfig": {
        "xAxisKey": "step",
        "lineSmoothness": 0,
        "selectedXAxisMetricKey": "",
    },
}
"""What pages begin with otherwise: those before MLflow 3.17 miss what a view leaves out."""
_FIRST = ("attributes.`Run Name`", "runDateAndNestInfo")
"""Columns before those of a view."""
_WIDTHS = {"attributes.`Source`": 300, "attributes.`Models`": 160}
_ATTRIBUTES = ("Dataset", "Source", "Models")


@dataclass(frozen=True)
class Family:
    """A plan's parent run and its variants' runs, best first, those without the metric last."""

    experiment_id: str
    digest: str
    parent: "Run"
    variants: list["Run"]

    @property
    def metric(self) -> str:
        """What variants are sorted by: of a sweep, its own metric."""
        return str(self.parent.data.params.get("metric", "AP"))

    @property
    def least(self) -> bool:
        """Whether the least value is the best."""
        return bool(self.parent.data.params.get("mode") == "min")

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics of evaluations that any variant has, means over categories and
        groups before those at one overlap; the one to sort by at least."""
        found = {name for run in self.variants for name in run.data.metrics}
        kinds = {name: kind_of(name) for name in found}
        shown = {self.metric, *(name for name, kind in kinds.items() if kind in _SHOWN)}
        return sorted(shown, key=lambda name: (_place(name), name[-1].isdigit(), name))

    @property
    def varied(self) -> list[str]:
        """Parameters that differ among variants: of a sweep its own, else the variants' first,
        then the recipes', those before others that most have, and only a few."""
        values: dict[str, list[str]] = {}
        for run in self.variants:
            for name, value in run.data.params.items():
                values.setdefault(name, []).append(value)
        differing = [
            name
            for name, own in values.items()
            if len(set(own)) > 1 or len(own) < len(self.variants)
        ]
        of_sweep = [name for name in differing if name.startswith("varied.")]
        ranks = ("variant.method", "seed", "variant.", "")
        return sorted(
            of_sweep or differing,
            key=lambda name: (
                next(n for n, start in enumerate(ranks) if name.startswith(start)),
                -len(values[name]),
            ),
        )[:MOST_VARIED]

    @property
    def compared(self) -> list["Run"]:
        """The variants that a comparison shows: the best that have the metric, without what they
        start from, whose other recipe would hide what varies among them."""
        runs = [run for run in self.variants if self.metric in run.data.metrics]
        starting = [run for run in runs if "bacl.parent_key" in run.data.tags]
        return (starting if len(starting) > 1 else runs)[:MOST_COMPARED]


def _place(metric: str) -> int:
    kind = kind_of(metric)
    return _SHOWN.index(kind) if kind in _SHOWN else len(_SHOWN)


def family(client: Any, parent: "Run") -> Family:
    """What a tracking server has of a plan, by its parent run."""
    experiment_id = parent.info.experiment_id
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], _variants_of(parent), page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    found = Family(experiment_id, parent.data.tags["bacl.plan"], parent, runs)
    sign = 1 if found.least else -1
    runs.sort(key=lambda run: sign * run.data.metrics.get(found.metric, sign * float("inf")))
    return found


def _variants_of(parent: "Run") -> str:
    """The filter that MLflow finds a plan's variants by, and shows in its search field."""
    return f"tags.`mlflow.parentRunId` = '{parent.info.run_id}' AND tags.`bacl.variant` != ''"


def share(client: Any, family: Family) -> None:
    """Tag the experiment with the plan's view: columns and order of its table, and charts."""
    columns = [
        *(f"metrics.`{name}`" for name in family.metrics),
        *(f"params.`{name}`" for name in family.varied),
        *(f"attributes.`{name}`" for name in _ATTRIBUTES),
    ]
    section = {"uuid": "bacl", "name": "Comparison", "display": True, "isGenerated": False}
    view = {
        **_USUAL,
        **_order(family),
        "selectedColumns": columns,
        "columnOrder": [*_FIRST, *columns],
        "columnWidths": _WIDTHS,
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunSections": [{**section, "isReordered": False, "deleted": False}],
        "compareRunCharts": (charts := list(_charts(family))),
    }
    while len(text := json.dumps(view, separators=(",", ":"))) > _MOST_LETTERS and charts:
        charts.pop()
    client.set_experiment_tag(family.experiment_id, _VIEW + family.digest, text)


def _charts(family: Family) -> Iterator[dict[str, Any]]:
    """Parallel coordinates over what varied, then a bar chart for each metric."""
    common = {"metricSectionId": "bacl", "deleted": False, "isGenerated": False}
    # a line goes through parameters that its run has, so one without any of them has no line
    drawn = [
        name for name in family.varied if all(name in run.data.params for run in family.variants)
    ]
    yield {
        **common,
        "uuid": "bacl-parallel",
        "type": "PARALLEL",
        "runsCountToCompare": 20,
        "selectedParams": drawn,
        "selectedMetrics": family.metrics[:4],
        "showAllRuns": True,
    }
    for name in family.metrics:
        yield {
            **common,
            "uuid": f"bacl-{name}",
            "type": "BAR",
            "runsCountToCompare": 20,
            "metricKey": name,
            "displayName": name,
        }


def _order(family: Family) -> dict[str, Any]:
    return {
        "searchFilter": _variants_of(family.parent),
        "orderByKey": f"metrics.`{family.metric}`",
        "orderByAsc": family.least,
    }


def table(family: Family, shared: bool = True) -> str:
    """The table of a plan's variants, sorted by its metric: the address behind the server's.

    shared: whether the server has the view that `share` makes; without it, metrics are no columns.
    """
    if shared:
        return _runs(family, {"viewStateShareKey": family.digest})
    order = _order(family)
    return _runs(family, {**order, "orderByAsc": str(order["orderByAsc"]).lower()})


def charts(family: Family) -> str:
    """The charts of the view that `share` makes."""
    return _runs(family, {"viewStateShareKey": family.digest, "compareRunsMode": "CHART"})


def _runs(family: Family, what: dict[str, Any]) -> str:
    return f"#/experiments/{family.experiment_id}/runs?{_query(what)}"


def _query(what: dict[str, Any]) -> str:
    """Of an address, with what makes MLflow show its side for models."""
    # last: the page that compares runs looks for these right after the `?`
    return urlencode({**what, "workflowType": "machine_learning"}, quote_via=quote)


def comparison(family: Family) -> str | None:
    """The page that sets the best variants side by side; None where there are not two."""
    runs = [run.info.run_id for run in family.compared]
    if len(runs) < 2:
        return None
    what = {"runs": json.dumps(runs), "experiments": json.dumps([family.experiment_id])}
    return f"#/compare-runs?{_query(what)}"


def models(experiment_id: str) -> str:
    """The models of an experiment."""
    return f"#/experiments/{experiment_id}/models?{_query({})}"


def run_page(experiment_id: str, run: str, artifact: str = "") -> str:
    """A run's overview, or one of its artifacts."""
    place = f"#/experiments/{experiment_id}/runs/{run}"
    place += f"/artifacts/{quote(artifact)}" if artifact else ""
    return f"{place}?{_query({})}"
