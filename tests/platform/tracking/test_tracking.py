"""MLflow: the runs of a plan, and each metric's step once."""

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import sqlalchemy
from mlflow import MlflowClient

from bacl.digests import sha256
from bacl.errors import RunError
from bacl_platform.store.store import Store
from bacl_platform.tracking import tracking as tracking_module
from bacl_platform.tracking.mlflow_runs import flatten
from bacl_platform.tracking.tracking import Tracking, sqlite_uri

ROWS = [
    {"step": 10, "lr": 0.01, "loss": 3.0, "bacl.loss_cls": 2.0, "softmax.loss_cls": 1.0},
    {"step": 12, "lr": 0.01, "loss": 2.0, "bacl.loss_cls": 1.5, "softmax.loss_cls": 0.5},
]


def finish(store, job) -> None:
    """Publish an entry for a job as the worker would."""
    folder = store.work(job.key) / "entry"
    for name in ("", *job.variants):
        place = folder / "variants" / name if name else folder
        place.mkdir(parents=True)
        (place / "checkpoint.pth").write_bytes(name.encode())
    for name in job.variants:
        metrics = {"metrics": {"AP": 0.25, "AP_r": None}, "evaluator": {"name": "hotcoco"}}
        (folder / "variants" / name / "metrics.json").write_text(json.dumps(metrics))
        (folder / "variants" / name / "categories.csv").write_text("id,name,AP\n3,nan,0.5\n4,7,\n")
    (folder / "scalars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    store.publish(job.key, folder)


def runs(client) -> dict:
    experiment = client.get_experiment_by_name("tiny")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def history(client, run, name):
    return [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]


def test_job_and_variants_are_children_of_one_parent_run(planned, store, client, monkeypatch):
    plan = planned()
    features, heads = plan.jobs
    with Tracking.of_plan(plan, store) as tracking:
        for job in plan.jobs:
            tracking.start(job)
            tracking.log(job, ROWS)
            finish(store, job)
            tracking.finish(job, cached=False)
    found = runs(client)
    assert set(found) == {
        "tiny",
        "job features",
        "features seed 0",
        "job heads",
        "bacl seed 0",
        "softmax seed 0",
    }
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    parent = found.pop("tiny")
    assert parent.data.params["detector.fc_channels"] == "32"
    for run in found.values():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.data.tags["bacl.dataset_digest"] == heads.dataset_digest
    bacl = found["bacl seed 0"]
    assert bacl.data.tags["bacl.key"] == heads.key
    assert bacl.data.tags["bacl.parent_key"] == features.key
    checkpoint = store.entry(heads.key) / "variants" / "bacl" / "checkpoint.pth"
    assert bacl.data.tags["bacl.checkpoint"] == checkpoint.as_uri()
    assert bacl.data.tags["bacl.checkpoint_sha256"] == sha256(checkpoint)
    assert bacl.data.params["variant.alpha"] == "0.85"
    assert bacl.data.params["recipe.schedule.lr"] == "0.02"
    assert history(client, bacl, "loss_cls") == [(10, 2.0), (12, 1.5)]
    assert history(client, bacl, "AP") == [(12, 0.25)]
    assert "AP_r" not in bacl.data.metrics
    assert history(client, found["job heads"], "loss") == [(10, 3.0), (12, 2.0)]
    names = {artifact.path for artifact in client.list_artifacts(bacl.info.run_id)}
    assert names == {"metrics.json", "categories.csv", "categories.json"}
    table = json.loads(
        Path(client.download_artifacts(bacl.info.run_id, "categories.json")).read_text(
            encoding="utf-8"
        )
    )
    assert table == {"columns": ["id", "name", "AP"], "data": [["3", "nan", 0.5], ["4", "7", None]]}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)  # where it looks for the run
    shown = client.load_table(bacl.info.experiment_id, "categories.json", [bacl.info.run_id])
    assert shown.columns.tolist() == ["id", "name", "AP"]


def test_run_of_a_replayed_variant_says_so(planned, replayed, store, client):
    plan = planned(*replayed)
    with Tracking.of_plan(plan, store) as tracking:
        for job in plan.jobs:
            finish(store, job)
            tracking.finish(job, cached=False)
    found = runs(client)
    quick, bacl = found["fcbl seed 0 (replayed)"], found["bacl seed 0"]
    assert (quick.data.tags["bacl.features"], bacl.data.tags["bacl.features"]) == (
        "replay",
        "exact",
    )
    assert quick.data.params["recipe.features"] == "replay"


def test_run_says_with_what_a_variant_was_evaluated(planned, store, client):
    unusual = ["stages.heads.recipe.ema={}", "stages.heads.recipe.soft_nms={}"]
    plan = planned(*unusual)
    with Tracking.of_plan(plan, store) as tracking:
        for job in plan.jobs:
            finish(store, job)
            tracking.finish(job, cached=False)
    found = runs(client)
    tags = found["bacl seed 0 (EMA, soft-NMS)"].data.tags
    assert tags["bacl.evaluated_with"] == "EMA, soft-NMS"
    assert "bacl.evaluated_with" not in found["features seed 0"].data.tags


ODD = ["my%20store", "why?", "#1", "a;b", "two words", "größe", "it's", 'a "b"', "a@b:c", "100%"]


@pytest.mark.parametrize("name", ODD)
def test_address_of_a_database_leads_to_its_file(tmp_path, name):
    (tmp_path / name).mkdir()
    engine = sqlalchemy.create_engine(sqlite_uri(tmp_path / name / "mlflow.db"))
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE one (number INTEGER)"))
    assert (tmp_path / name / "mlflow.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_database_and_artifacts_are_in_the_store_whatever_its_name(planned, tmp_path):
    name = " ".join(ODD)
    store, beside = Store(tmp_path / "place" / name), tmp_path / "place"
    plan = planned()
    heads = plan.jobs[1]
    with Tracking.of_plan(plan, store) as tracking:
        tracking.start(heads)
        finish(store, heads)
        tracking.finish(heads, cached=False)
    assert [path.name for path in beside.iterdir()] == [name]
    assert (store.root / "mlflow.db").is_file()
    client = MlflowClient(tracking_module.tracking_uri(store))
    run = runs(client)["bacl seed 0"]
    metrics = store.root / "mlartifacts" / "tiny" / run.info.run_id / "artifacts" / "metrics.json"
    assert metrics.is_file()
    read = Path(client.download_artifacts(run.info.run_id, "metrics.json", str(tmp_path)))
    assert json.loads(read.read_text(encoding="utf-8"))["metrics"]["AP"] == 0.25
    checkpoint = store.entry(heads.key) / "variants" / "bacl" / "checkpoint.pth"
    assert url2pathname(urlsplit(run.data.tags["bacl.checkpoint"]).path) == str(checkpoint)


def test_step_logged_before_an_interruption_is_not_logged_again(planned, store, client):
    plan = planned()
    features = plan.jobs[0]
    with pytest.raises(KeyboardInterrupt), Tracking.of_plan(plan, store) as tracking:
        tracking.start(features)
        tracking.log(features, ROWS[:1])
        raise KeyboardInterrupt
    assert {run.info.status for run in runs(client).values()} == {"KILLED"}
    with Tracking.of_plan(plan, store) as tracking:
        tracking.start(features)
        tracking.log(features, ROWS)
        finish(store, features)
        tracking.finish(features, cached=False)
    found = runs(client)
    assert len(found) == 3
    assert history(client, found["job features"], "loss") == [(10, 3.0), (12, 2.0)]
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_cached_job_gets_its_children_under_a_new_parent(planned, store, client):
    plan = planned()
    for job in plan.jobs:
        finish(store, job)
    with Tracking.of_plan(plan, store) as tracking:
        for job in plan.jobs:
            tracking.finish(job, cached=True)
    softmax = runs(client)["softmax seed 0"]
    assert softmax.data.tags["bacl.cached"] == "true"
    assert history(client, softmax, "loss_cls") == [(10, 1.0), (12, 0.5)]
    before = {name: run.info.end_time for name, run in runs(client).items() if name != "tiny"}
    with Tracking.of_plan(plan, store) as tracking:
        for job in plan.jobs:
            tracking.finish(job, cached=True)
    after = {name: run.info.end_time for name, run in runs(client).items() if name != "tiny"}
    assert after == before and len(after) == 5  # what had said all was left alone


def test_failed_job_carries_its_sentence(planned, store, client):
    plan = planned()
    with pytest.raises(RunError), Tracking.of_plan(plan, store) as tracking:
        tracking.start(plan.jobs[0])
        log = store.work(plan.jobs[0].key) / "train.log"
        log.parent.mkdir(parents=True)
        log.write_text("the last line")
        tracking.fail(plan.jobs[0], "loss is not finite")
        raise RunError("loss is not finite")
    run = runs(client)["job features"]
    assert run.info.status == "FAILED"
    assert run.data.tags["bacl.error"] == "loss is not finite"
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["train.log"]


def test_tracking_store_that_cannot_be_used_is_told(planned, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "carrier-pigeon://loft")
    with pytest.raises(
        RunError,
        match=r"^MLFLOW_TRACKING_URI=carrier-pigeon://loft: expected an MLflow tracking store",
    ):
        Tracking.of_plan(planned(), store)


def test_settings_are_flattened_and_lists_stay_values():
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {
        "a.b": 1,
        "a.c.d": [1, 2],
        "e": None,
    }


@pytest.fixture
def tracked(server, planned, store, request):
    """Makes the tracking of the tiny plan as an experiment of the test's own name."""
    said = []

    def made(patience=20):
        plan, name = planned(), request.node.name
        return plan, said, Tracking(name, name, {}, store, say=said.append, patience=patience)

    return made


def tracked_runs(server, request):
    server.mode = "ok"
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(request.node.name)
    found = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return client, {run.info.run_name: run for run in found}


def until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_server_that_goes_away_costs_only_delay(server, tracked, store, request):
    plan, said, tracking = tracked()
    job = plan.jobs[0]
    with tracking:
        tracking.start(job)
        tracking.log(job, ROWS[:1])
        server.mode = "away"
        began = time.monotonic()
        tracking.log(job, ROWS[1:])
        finish(store, job)
        tracking.finish(job, cached=False)
        assert time.monotonic() - began < 1
        until(lambda: said)
        server.mode = "503"
        time.sleep(0.5)
        server.mode = "ok"
    client, found = tracked_runs(server, request)
    assert history(client, found["job features"], "loss") == [(10, 3.0), (12, 2.0)]
    assert history(client, found["features seed 0"], "AP") == [(12, 0.25)]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert [sentence.split()[0] for sentence in said if "waiting" not in sentence] == [
        "warning:",
        "MLflow",
    ]
    assert "cannot be reached; the run goes on" in said[0] and "is back" in said[-1]


def test_calls_that_were_carried_out_but_not_answered_are_not_repeated(
    server, tracked, store, request
):
    plan, _, tracking = tracked()
    job = plan.jobs[1]
    with tracking:
        for step in range(1, 6):
            server.mode = "lost"
            seen = server.requests
            tracking.log(job, [{"step": step, "loss": float(step), "bacl.loss_cls": 1.0}])
            until(lambda seen=seen: server.requests > seen)
            time.sleep(0.15)
            server.mode = "ok"
            until(lambda: not tracking.outbox._events)
    client, found = tracked_runs(server, request)
    assert history(client, found["job heads"], "loss") == [(n, float(n)) for n in range(1, 6)]
    assert len(history(client, found["bacl seed 0"], "loss_cls")) == 5


def test_server_that_is_away_at_first_is_told_all_later(server, tracked, request):
    server.mode = "away"
    plan, said, tracking = tracked()
    assert len(said) == 1 and "cannot be reached; the run goes on" in said[0]
    with tracking:
        tracking.start(plan.jobs[0])
        tracking.log(plan.jobs[0], ROWS)
        server.mode = "ok"
    client, found = tracked_runs(server, request)
    assert history(client, found["job features"], "loss") == [(10, 3.0), (12, 2.0)]


@pytest.mark.parametrize("status", ["401", "403", "400"])
def test_server_that_refuses_at_first_is_told_before_anything_starts(server, tracked, status):
    server.mode = status
    with pytest.raises(RunError, match=f"http.*: expected an MLflow tracking store.*{status}"):
        tracked()


def test_refused_call_is_told_once_and_others_go_on(server, tracked, request):
    plan, said, tracking = tracked()
    job = plan.jobs[0]
    with tracking:
        tracking.start(job)
        until(lambda: not tracking.outbox._events)
        server.mode = "poison"
        for row in ROWS:
            tracking.log(job, [row])
            until(lambda: not tracking.outbox._events)
        server.mode = "ok"
        tracking.log(job, [{"step": 13, "loss": 1.0}])
    client, found = tracked_runs(server, request)
    assert history(client, found["job features"], "loss") == [(13, 1.0)]
    assert len(said) == 1 and "refused a message" in said[0] and "400" in said[0]


def test_run_that_ends_while_the_server_is_away_fails_not_and_sends_later(
    server, tracked, store, request
):
    plan, said, tracking = tracked(patience=0.3)
    job = plan.jobs[0]
    with tracking:
        server.mode = "away"
        tracking.log(job, ROWS)
        finish(store, job)
        tracking.finish(job, cached=False)
        until(lambda: said)
    assert "waiting up to 0 s" in said[1] and "the same command sends them later" in said[2]
    server.mode = "ok"
    with tracked()[2] as tracking:
        tracking.finish(job, cached=True)
    client, found = tracked_runs(server, request)
    assert history(client, found["job features"], "loss") == [(10, 3.0), (12, 2.0)]
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert list((store.root / ".tracking").glob("*.jsonl")) == []


def forked(function, *arguments):
    """A process that has all modules already."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments)
    process.start()
    return process


def test_driver_killed_while_the_server_is_away_loses_nothing(server, tracked, store, request):
    features, heads = tracked()[0].jobs
    server.mode = "away"

    def drive():
        tracking = tracked()[2]
        tracking.log(features, ROWS[:1])
        finish(store, features)
        tracking.finish(features, cached=False)
        tracking.log(heads, [*ROWS, {"step": 10, "system/rank1/cpu_utilization_percentage": 7.0}])
        tracking.fail(heads, "loss is not finite")
        os.kill(os.getpid(), signal.SIGKILL)

    process = forked(drive)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    server.mode = "ok"
    with tracked()[2] as tracking:
        tracking.finish(features, cached=True)
    client, found = tracked_runs(server, request)
    assert history(client, found["job features"], "loss") == [(10, 3.0), (12, 2.0)]
    assert history(client, found["features seed 0"], "AP") == [(12, 0.25)]
    assert history(client, found["bacl seed 0"], "loss_cls") == [(10, 2.0), (12, 1.5)]
    of_job = found["job heads"]
    assert history(client, of_job, "system/rank1/cpu_utilization_percentage") == [(10, 7.0)]
    assert of_job.info.status == "FAILED"
    assert of_job.data.tags["bacl.error"] == "loss is not finite"


@pytest.mark.slow
def test_eight_drivers_at_once_lose_nothing(server, planned, store, request):
    job = planned().jobs[1]

    def drive(number):
        name = request.node.name
        mine = job.model_copy(update={"key": f"{number}", "name": f"job-{number}"})
        with Tracking(name, f"plan-{number}", {}, store) as tracking:
            tracking.start(mine)
            for step in range(50):
                values = {"loss": step + number, "bacl.loss_cls": -step}
                tracking.log(mine, [{"step": step, **values}])
                time.sleep(0.02)

    processes = [forked(drive, number) for number in range(8)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(request.node.name)
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    of_jobs = {r.data.tags["bacl.key"]: r for r in found if r.info.run_name.startswith("job ")}
    assert sorted(of_jobs) == [str(number) for number in range(8)]
    for key, run in of_jobs.items():
        assert history(client, run, "loss") == [(s, float(s + int(key))) for s in range(50)]
    of_variants = [run for run in found if run.info.run_name == "bacl seed 0"]
    assert [len(history(client, run, "loss_cls")) for run in of_variants] == [50] * 8


def test_password_of_the_server_is_nowhere(server, planned, store, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//me:sesame@"))
    server.mode = "401"
    with pytest.raises(RunError) as refused:
        Tracking.of_plan(planned(), store)
    server.mode = "away"
    tracking = Tracking("x", "y", {"source": "https://me:sesame@host/x"}, store, patience=5)
    with tracking:
        tracking.fail(planned().jobs[0], "https://me:sesame@host/x is away")
        server.mode = "ok"
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("x")
    found = client.search_runs([experiment.experiment_id])
    values = [v for run in found for v in [*run.data.params.values(), *run.data.tags.values()]]
    assert "https://***@host/x" in values and "https://***@host/x is away" in values
    told = [str(refused.value), *capsys.readouterr(), *values]
    assert "***@127.0.0.1" in told[0]
    assert [text for text in told if "sesame" in text] == []


def test_two_drivers_of_a_plan_share_its_runs_and_log_each_step_once(planned, store, client):
    plan = planned()
    job = plan.jobs[0]
    with Tracking.of_plan(plan, store) as first, Tracking.of_plan(plan, store) as second:
        for rows in (ROWS[:1], ROWS):
            for driver in (first, second):  # both may have asked for the runs before they are there
                driver.start(job)
                driver.log(job, rows)
    found = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert sorted(run.info.run_name for run in found) == ["features seed 0", "job features", "tiny"]
    assert history(client, runs(client)["job features"], "loss") == [(10, 3.0), (12, 2.0)]
