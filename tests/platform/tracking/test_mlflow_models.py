"""MLflow's models: one for each run of a variant, however often it is tracked."""

import time

import pytest
from mlflow import MlflowClient

from bacl.digests import sha256
from bacl_platform.tracking.tracking import Tracking


def track(plan, store, cached=False, **options):
    """Let MLflow have all of a finished plan, whose jobs have trained just now or before."""
    with Tracking.of_plan(plan, store, **options) as tracking:
        for job in plan.jobs:
            tracking.finish(job, cached=cached)


@pytest.fixture
def plan(planned, store, fill, rival_aps):
    """A plan whose jobs are in the store."""
    plan = planned()
    fill(plan.jobs, rival_aps)
    return plan


def experiment(client, name="tiny"):
    return client.get_experiment_by_name(name).experiment_id


def models(client):
    return {model.name: model for model in client.search_logged_models([experiment(client)])}


def runs(client):
    return {run.info.run_name: run for run in client.search_runs([experiment(client)])}


def test_variants_are_models_with_metrics_by_data_set(plan, store, client):
    track(plan, store)
    found = models(client)
    assert sorted(found) == ["bacl seed 0", "features seed 0", "softmax seed 0"]
    model, run = found["bacl seed 0"], runs(client)["bacl seed 0"]
    heads = plan.jobs[1]
    assert model.status == "READY" and model.model_type == "detector"
    assert model.source_run_id == run.info.run_id
    (output,) = run.outputs.model_outputs
    assert (output.model_id, output.step) == (model.model_id, heads.iterations)
    checkpoint = store.entry(heads.key) / "variants" / "bacl" / "checkpoint.pth"
    wanted = {
        "bacl.key": heads.key,
        "bacl.variant": "bacl",
        "bacl.plan": plan.digest,
        "bacl.checkpoint": checkpoint.as_uri(),
        "bacl.checkpoint_sha256": sha256(checkpoint),
        "bacl.dataset_digest": heads.dataset_digest,
    }
    assert wanted.items() <= model.tags.items()
    assert model.params == run.data.params and model.params["variant.alpha"] == "0.85"
    own = {metric.key: metric for metric in model.metrics}
    assert sorted(own) == ["AP", "AP50", "AP75", "AP_c", "AP_f", "AP_r"]
    assert own["AP_f"].value == run.data.metrics["AP_f"] == 0.8
    for metric in own.values():
        assert metric.dataset_name == "embedded val"
        assert heads.dataset_digest.startswith(metric.dataset_digest)
        history = client.get_metric_history(run.info.run_id, metric.key)
        assert [(m.value, m.step) for m in history] == [(metric.value, metric.step)]


def test_trial_whose_name_no_model_may_have_is_a_model(filled, store, client):
    from bacl_platform.tune.sweeps import tracking_of

    plan = filled()
    for _ in range(2):
        with tracking_of(plan, store) as tracking:
            for job in plan.jobs:
                tracking.finish(job, cached=True)
    found = client.search_logged_models([experiment(client, "alphas")])
    assert len(found) == 6  # the trials; the base's stage 1 is none
    assert "alpha=0_5, threshold=0_6 seed 0" in {model.name for model in found}
    assert len({model.tags["bacl.variant"] for model in found}) == 6


def test_plan_that_is_run_again_makes_no_second_model(plan, store, client):
    for cached in (False, True, False):
        track(plan, store, cached)
    assert len(client.search_logged_models([experiment(client)])) == 3
    for run in runs(client).values():
        assert len(run.outputs.model_outputs) == ("seed" in run.info.run_name)


def test_runs_of_an_older_release_get_what_is_new(plan, store, client):
    track(plan, store)
    before = runs(client)
    for model in models(client).values():
        client.delete_logged_model(model.model_id)
    for run in before.values():
        for tag in ("bacl.logged", "mlflow.source.name"):
            if tag in run.data.tags:
                client.delete_tag(run.info.run_id, tag)
    client.delete_experiment_tag(experiment(client), "mlflow.experimentKind")
    track(plan, store, cached=True)
    assert len(models(client)) == 3
    after = runs(client)
    assert after["tiny"].data.tags["mlflow.source.name"]
    for name in models(client):
        assert after[name].data.tags["mlflow.source.name"]
        assert after[name].info.end_time == before[name].info.end_time
        assert after[name].data.tags["bacl.cached"] == "false"
    kind = client.get_experiment(experiment(client)).tags["mlflow.experimentKind"]
    assert kind == "custom_model_development"


@pytest.mark.slow
def test_calls_that_were_carried_out_but_not_answered_make_no_second_model(server, plan, store):
    server.mode = "lost"

    def recover():
        for _ in range(12):  # calls are answered in part
            time.sleep(0.05)
            server.mode = "ok"
            time.sleep(0.02)
            server.mode = "lost"
        server.mode = "ok"

    tracking = Tracking.of_plan(plan, store)
    with tracking:
        for job in plan.jobs:
            tracking.finish(job, cached=False)
        recover()
    client = MlflowClient(server.uri)
    found = client.search_logged_models([experiment(client)])
    assert sorted(model.name for model in found) == [
        "bacl seed 0",
        "features seed 0",
        "softmax seed 0",
    ]
    assert {model.status for model in found} == {"READY"}
    for run in runs(client).values():
        assert len(run.outputs.model_outputs) == ("seed" in run.info.run_name)
        assert len(run.inputs.dataset_inputs) == 2 * (not run.info.run_name.startswith("job"))
        if "AP" in run.data.metrics:
            assert len(client.get_metric_history(run.info.run_id, "AP")) == 1


def test_server_that_is_too_old_is_told_once_and_has_the_rest(server, plan, store, capsys):
    server.mode = "old"
    track(plan.model_copy(update={"experiment": renamed(plan)}), store)
    server.mode = "ok"
    client = MlflowClient(server.uri)
    found = client.search_runs([experiment(client, "for an old server")])
    run = next(run for run in found if run.info.run_name == "bacl seed 0")
    assert run.info.status == "FINISHED" and run.data.metrics["AP_f"] == 0.8
    assert not client.search_logged_models([experiment(client, "for an old server")])
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" is too old for ")[1] for line in told] == [
        "data sets: the rest is logged",
        "models of runs: the rest is logged",
    ]


def renamed(plan):
    return plan.experiment.model_copy(update={"name": "for an old server"})
