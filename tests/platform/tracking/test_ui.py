"""`bacl ui`: links to the comparison, and the server behind them."""

import json
import os
import shutil
import socket
import time
from io import StringIO
from urllib.parse import parse_qs, urlsplit

import pytest
from mlflow import MlflowClient

from bacl.errors import RunError, UsageError
from bacl_platform.console import Console
from bacl_platform.tracking import opening, ui
from bacl_platform.tracking.tracking import Tracking, sqlite_uri
from bacl_platform.tracking.ui import Wanted, show


@pytest.fixture
def console():
    """A console that holds what is printed."""
    return Console(file=StringIO(), width=80)


def wanted(plan):
    return Wanted(plan.experiment.name, plan.digest, "bacl run tiny.yaml")


def track(plan, store):
    """Let MLflow have all of a finished plan."""
    with Tracking.of_plan(plan, store) as tracking:
        for job in plan.jobs:
            tracking.finish(job, cached=True)


@pytest.fixture
def tracked(two_seeds, store, fill, rival_aps, empty_database):
    """A finished plan that a database in its store knows."""
    shutil.copy(empty_database, store.root / "mlflow.db")
    fill(two_seeds.jobs, rival_aps)
    track(two_seeds, store)
    return two_seeds


@pytest.fixture
def started(monkeypatch):
    """Arguments and environment of the server that would start."""
    found = {}

    def start(program, argv):
        found.update(argv=argv, environment=dict(os.environ))

    monkeypatch.setattr(ui.os, "execv", start)
    monkeypatch.setattr(ui, "_is_free", lambda port: True)
    for name in ("MLFLOW_SERVER_ALLOWED_HOSTS", "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"):
        monkeypatch.delenv(name, raising=False)
    return found


def links(console):
    """Where each page is, by its name: path and query behind the `#`."""
    lines = console.file.getvalue().splitlines()
    pages = {}
    for line in lines:
        name, found, address = line.partition(": ")
        if found and "http" in address:
            assert address.strip().startswith(
                ("http://bacl.localhost:5000/#/", "http://127.0.0.1:")
            )
            split = urlsplit(urlsplit(address.strip()).fragment)
            pages[name] = split.path, {n: v for n, (v,) in parse_qs(split.query).items()}
    return pages


def test_links_lead_to_variants_by_ap_and_to_their_comparison(tracked, store, console, started):
    show(store, wanted(tracked), 5000, console)
    client = MlflowClient(sqlite_uri(store.root / "mlflow.db"))
    experiment = client.get_experiment_by_name("tiny")
    pages = links(console)
    assert list(pages) == ["tiny by AP", "charts", "side by side", "models", "run and report"]
    path, query = pages["tiny by AP"]
    assert path == f"/experiments/{experiment.experiment_id}/runs"
    assert query["workflowType"] == "machine_learning"
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{query['viewStateShareKey']}"])
    assert view["orderByKey"] == "metrics.`AP`" and view["orderByAsc"] is False
    found = client.search_runs([experiment.experiment_id], view["searchFilter"])
    assert sorted(run.info.run_name for run in found) == [
        f"{name} seed {seed}" for name in ("bacl", "features", "softmax") for seed in (0, 1)
    ]
    assert view["selectedColumns"][:6] == [
        f"metrics.`{name}`" for name in ("AP", "AP_c", "AP_f", "AP_r", "AP50", "AP75")
    ]
    assert "params.`variant.method`" in view["selectedColumns"]
    assert view["selectedColumns"][-3:] == [
        "attributes.`Dataset`",
        "attributes.`Source`",
        "attributes.`Models`",
    ]
    parallel, *bars = view["compareRunCharts"]
    assert parallel["type"] == "PARALLEL"
    assert parallel["selectedParams"] == ["variant.method", "seed"]  # others not all variants have
    assert [chart["metricKey"] for chart in bars] == parallel["selectedMetrics"] + ["AP50", "AP75"]
    assert pages["charts"] == (path, query | {"compareRunsMode": "CHART"})
    path, query = pages["side by side"]
    assert path == "/compare-runs" and json.loads(query["experiments"]) == ["1"]
    aps = [client.get_run(run).data.metrics["AP"] for run in json.loads(query["runs"])]
    assert len(aps) == 4 and aps == sorted(aps, reverse=True)
    parent = client.search_runs(["1"], "tags.`bacl.plan` != ''")[0].info.run_id
    assert pages["run and report"][0] == f"/experiments/1/runs/{parent}"


def test_without_a_file_it_is_what_ran_last(
    tracked, planned, store, fill, rival_aps, console, started
):
    other = planned("seeds=[0]", "stages.heads.variants.bacl.alpha=0.5")
    heads = [job for job in other.jobs if not store.complete(job.key)]
    fill(heads, rival_aps)
    track(other, store)
    show(store, None, 5000, console)
    shown = links(console)["tiny by AP"][1]["viewStateShareKey"]
    assert shown == other.digest != tracked.digest


def test_sweep_is_sorted_by_its_metric(filled, store, client, console, started):
    from bacl_platform.tune.sweeps import tracking_of

    plan = filled()
    with tracking_of(plan, store) as tracking:
        for job in plan.jobs:
            tracking.finish(job, cached=True)
    show(store, Wanted("alphas", plan.file.digest, ""), 5000, console)
    view = json.loads(
        client.get_experiment_by_name("alphas").tags[f"mlflow.sharedViewState.{plan.file.digest}"]
    )
    assert view["compareRunCharts"][0]["selectedParams"] == ["varied.alpha", "varied.threshold"]
    runs = json.loads(links(console)["side by side"][1]["runs"])
    assert [client.get_run(run).data.metrics["AP"] for run in runs] == [
        0.6,
        0.5,
        0.4,
        0.3,
        0.2,
        0.1,
    ]


def test_file_without_runs_is_told_what_to_run(tracked, planned, store, console, started):
    other = planned("seeds=[3]")
    with pytest.raises(RunError, match=r"has no runs of tiny as it is now: `bacl run tiny.yaml`"):
        show(store, wanted(other), 5000, console)
    assert not started


def test_store_without_runs_is_told_what_to_run_and_makes_no_database(
    planned, store, console, started
):
    with pytest.raises(RunError, match=r"has no runs of tiny .*: `bacl run tiny.yaml` makes them"):
        show(store, wanted(planned()), 5000, console)
    assert not (store.root / "mlflow.db").exists()
    show(store, None, 5000, console)
    assert "no runs yet: `bacl run FILE` makes them" in console.file.getvalue()
    assert started["argv"]


def test_user_who_may_only_read_gets_links_without_a_view(
    tracked, store, console, started, monkeypatch
):
    from mlflow.exceptions import MlflowException

    def refuse(*_):
        raise MlflowException("forbidden")

    monkeypatch.setattr(MlflowClient, "set_experiment_tag", refuse)
    show(store, wanted(tracked), 5000, console)
    pages = links(console)
    query = pages["tiny by AP"][1]
    assert query["orderByKey"] == "metrics.`AP`" and query["orderByAsc"] == "false"
    assert "bacl.variant" in query["searchFilter"]
    assert "charts" not in pages and "side by side" in pages


def test_links_of_a_tracking_server_lead_there(
    server, two_seeds, store, fill, rival_aps, console, started, monkeypatch
):
    fill(two_seeds.jobs, rival_aps)
    track(two_seeds, store)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//me:sesame@") + "/")
    show(store, wanted(two_seeds), 5000, console)
    pages = links(console)
    assert "side by side" in pages and "sesame" not in console.file.getvalue()
    assert f" {server.uri}/#/experiments/" in console.file.getvalue()
    assert not started


def test_tracking_server_that_is_away_is_told(server, planned, store, console, monkeypatch):
    server.mode = "503"
    with pytest.raises(RunError, match=r"^MLFLOW_TRACKING_URI=http.*answers: .*503"):
        show(store, wanted(planned()), 5000, console)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(RunError, match=r"expected an MLflow server or database that answers"):
            show(store, None, 5000, console)


def test_database_that_is_none_is_told(store, console, started):
    (store.root / "mlflow.db").write_text("no database, but long enough to be read as one")
    with pytest.raises(RunError, match=r"^sqlite.*mlflow.db: expected .* not a database$"):
        show(store, None, 5000, console)
    assert not started


def test_port_in_use_names_a_free_one(store, console, monkeypatch):
    monkeypatch.setattr(ui, "_is_free", lambda port: port == 5002)
    with pytest.raises(UsageError, match=r"port 5000 is in use: try `bacl ui --port 5002`"):
        show(store, None, 5000, console)


def test_server_is_for_this_machine_and_has_no_password_in_its_arguments(
    store, console, started, monkeypatch
):
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "sqlite:///another.db")
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "my.host")
    show(store, None, 5000, console)
    argv, environment = started["argv"], started["environment"]
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    uri = sqlite_uri(store.root / "mlflow.db")
    assert environment["MLFLOW_BACKEND_STORE_URI"] == uri
    assert uri not in argv  # where other users of the machine would see its password
    assert environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")[:3] == [
        "my.host",
        "bacl.localhost",
        "bacl.localhost:*",
    ]
    assert environment["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] == "http://bacl.localhost:5000"


@pytest.mark.parametrize(
    ("system", "known", "host"),
    [
        ("Linux", False, "bacl.localhost"),
        ("Darwin", True, "bacl.localhost"),
        ("Darwin", False, "127.0.0.1"),
    ],
)
def test_name_is_used_where_browsers_know_it(monkeypatch, system, known, host):
    def resolve(*_):
        if not known:
            raise socket.gaierror

    monkeypatch.setattr(ui.platform, "system", lambda: system)
    monkeypatch.setattr(ui.socket, "getaddrinfo", resolve)
    assert ui._host() == host


def test_browser_opens_once_the_server_answers(tmp_path, monkeypatch):
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    opening.start("http://bacl.localhost/#/a?b=c&d", "127.0.0.1", port)
    time.sleep(1)
    assert not opened.exists()
    listener.listen()
    deadline = time.monotonic() + 20
    while not opened.exists() or not opened.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    listener.close()
    assert opened.read_text() == "http://bacl.localhost/#/a?b=c&d\n"
