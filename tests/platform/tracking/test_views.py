"""Views of a plan's runs that MLflow has room for."""

import json

from mlflow.entities import Metric, Param, Run, RunData, RunInfo, RunTag

from bacl_platform.tracking import views


def run(name, metrics, params, tags=()):
    info = RunInfo(name, "1", "me", "FINISHED", 0, 1, "active", run_name=name)
    data = RunData(
        [Metric(key, value, 0, 1) for key, value in metrics.items()],
        [Param(key, value) for key, value in params.items()],
        [RunTag(key, value) for key, value in tags],
    )
    return Run(info, data)


class Client:
    """Keeps the tags of an experiment."""

    def __init__(self):
        self.tags = {}

    def set_experiment_tag(self, experiment, key, value):
        self.tags[experiment, key] = value


def test_view_of_many_metrics_and_long_names_fits_a_tag():
    long = [f"mask_AP_{'group' * 8}_{number}" for number in range(40)]
    metrics = {"AP": 0.5, **dict.fromkeys(long[:20], 0.1)}
    params = {f"variant.{'field' * 10}{number}": str(number) for number in range(3)}
    variants = [run(f"{n}", metrics, params | {"variant.method": str(n)}) for n in range(2)]
    family = views.Family("1", "digest", run("parent", {}, {}), variants)
    client = Client()
    views.share(client, family)
    ((place, text),) = client.tags.items()
    assert place == ("1", "mlflow.sharedViewState.digest") and len(text) <= 5000
    view = json.loads(text)
    assert len(view["selectedColumns"]) == 21 + 1 + 3
    assert view["compareRunCharts"][0]["type"] == "PARALLEL"
    assert 0 < len(view["compareRunCharts"]) < 22


def test_comparison_is_of_the_best_and_without_what_they_start_from():
    parent = run("parent", {}, {"metric": "loss", "mode": "min"}, [("bacl.plan", "d")])
    child = [("bacl.parent_key", "k")]
    first = run("stage 1", {"loss": 0.0}, {})
    others = [run(f"v{n}", {"loss": float(n)}, {}, child) for n in range(50)]
    lost = run("lost", {}, {}, child)

    class Found(Client):
        def search_runs(self, experiments, filter_string, page_token=None):
            from mlflow.store.entities import PagedList

            half = [lost, first, *others[:20]] if page_token is None else others[20:]
            return PagedList(half, "more" if page_token is None else None)

    family = views.family(Found(), parent)
    assert [one.info.run_id for one in family.variants][:3] == ["stage 1", "v0", "v1"]
    assert family.variants[-1] is lost
    assert [one.info.run_id for one in family.compared] == [f"v{n}" for n in range(30)]
    assert views.comparison(views.Family("1", "d", parent, [lost, first])) is None
