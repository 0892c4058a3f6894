"""A job in this process, without Ray: training, interruption, damage, failure."""

import json
import math
from pathlib import Path

import pytest
import torch

from bacl.variants import Softmax
from bacl_platform.analysis.results import read_folder
from bacl_platform.plan.job import Job
from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
from bacl_platform.plan.trials import SweepFile
from bacl_platform.store.checkpoints import latest_checkpoint
from bacl_platform.store.names import BEYOND, MOVES
from bacl_platform.store.store import Store
from bacl_platform.train import worker
from bacl_platform.train.hooks import checkpoints
from bacl_platform.train.messages import CHECKPOINT, Logged, Measured, Started, VariantsFailed


class Killed(Exception):
    """Stands for the death of the process."""


def train(
    job: Job, store: Store, kill_at: int | None = None, stopped=None
) -> tuple[str | None, list, list]:
    """Result, what was told and what was reported; dies when the row of `kill_at` is told."""
    told, reported = [], []

    def tell(message):
        told.append(message)
        if isinstance(message, Logged) and message.rows and message.rows[-1]["step"] == kill_at:
            raise Killed

    return worker.train(job, store, tell, reported.append, stopped), told, reported


def weights(folder: Path) -> dict:
    return torch.load(folder / "checkpoint.pth", weights_only=True)["state_dict"]


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, msg=name)


def test_job_publishes_what_its_entry_should_hold(planned, store, finished):
    features, heads = planned().jobs
    finished(features)
    failure, told, reported = train(heads, store)
    assert failure is None
    assert told[0].step == 0
    assert [one.get("checkpoint", one.get("step")) for one in reported] == [5, 10, 12, 12]
    machine = [row for one in told if isinstance(one, Measured) for row in one.rows]
    assert [row["step"] for row in machine] == [10, 12]
    for row in machine:
        assert row["system/rank0/step_seconds"] > row["system/rank0/data_wait_seconds"] >= 0
        assert 0 < row["system/rank0/process_memory_megabytes"] < 1e6
        assert 0 < row["system/rank0/system_memory_usage_percentage"] <= 100
        assert row["system/rank0/cpu_utilization_percentage"] >= 0
    assert {"bacl/AP", "softmax/AP_r", "bacl/APFixed", "softmax/ECE"} <= set(reported[-1])
    entry = store.entry(heads.key)
    assert store.complete(heads.key)
    for name in ("metrics.json", "categories.csv", "config.py", "checkpoint.pth", BEYOND):
        for variant in ("bacl", "softmax"):
            assert (entry / "variants" / variant / name).is_file()
    assert read_folder(entry / "variants" / "bacl")[3] is None  # nothing was cut from AP-Fixed
    rows = [json.loads(line) for line in (entry / "scalars.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 12, 12]
    assert {"lr", "loss", "bacl.loss_cls", "data_time", "time"} <= set(rows[0])
    frozen = [name for name in weights(entry) if name.startswith(("backbone.", "neck."))]
    before, after = weights(store.entry(features.key)), weights(entry)
    assert_same({n: before[n] for n in frozen}, {n: after[n] for n in frozen})


@pytest.mark.slow
def test_killed_job_goes_on_to_the_weights_of_an_undisturbed_one(planned, store, undisturbed):
    for job in planned().jobs:
        assert train(job, undisturbed)[0] is None
        with pytest.raises(Killed):
            train(job, store, kill_at=10)
        assert latest_checkpoint(store.work(job.key) / "checkpoints")[0] == 5
        failure, told, _ = train(job, store)
        assert failure is None
        assert told[0].step == 5
        assert_same(weights(undisturbed.entry(job.key)), weights(store.entry(job.key)))
        times = {"time", "data_time"}
        logs = [
            [
                {k: v for k, v in json.loads(line).items() if k not in times}
                for line in (s.entry(job.key) / "scalars.jsonl").read_text().splitlines()
            ]
            for s in (undisturbed, store)
        ]
        assert logs[0] == logs[1]


@pytest.mark.slow
def test_job_killed_in_its_evaluation_evaluates_again_without_training(planned, store):
    job = planned().jobs[0]

    def die(metrics):
        if "features/AP" in metrics:
            raise Killed

    with pytest.raises(Killed):
        worker.train(job, store, lambda *_: None, die)
    failure, told, reported = train(job, store)
    assert failure is None
    assert told[0].step == 12
    assert [one.get("checkpoint", one.get("step")) for one in reported] == [12]
    steps = [
        json.loads(line)["step"]
        for line in (store.entry(job.key) / "scalars.jsonl").read_text().splitlines()
    ]
    assert steps == [10, 12, 12]


@pytest.mark.slow
def test_finished_job_is_not_trained_again(planned, store, finished):
    job = planned().jobs[0]
    finished(job)
    assert train(job, store) == (None, [], [])


def test_loss_that_is_not_finite_stops_with_step_and_name(planned, store):
    job = planned("stages.features.recipe.schedule.lr=1e30").jobs[0]
    failure, _, _ = train(job, store)
    assert failure.startswith(f"job features ({job.key}): ")
    assert "is not finite at step 2: expected finite losses" in failure
    assert "there is no checkpoint yet" in failure
    assert not store.entry(job.key).exists()


def test_parent_without_the_frozen_part_is_told(planned, store, finished):
    features, heads = planned().jobs
    finished(features)
    path = store.entry(features.key) / "checkpoint.pth"
    content = torch.load(path, weights_only=True)
    content["state_dict"] = {
        name: value for name, value in content["state_dict"].items() if "shared_fcs" not in name
    }
    torch.save(content, path)
    failure, _, _ = train(heads, store)
    assert "lacks the frozen part roi_head.bbox_head.shared_fcs" in failure


STOPPABLE = [
    "stages.features.recipe.schedule.batch=4",
    "stages.heads.recipe.schedule.iterations=24",
    "stages.heads.recipe.schedule.batch=4",
]


def entry_without_softmax_equals(undisturbed: Store, store: Store, job: Job, exact: bool) -> None:
    """The entry holds all of bacl, as if softmax had never been in its bank."""
    entry = store.entry(job.key)
    whole = weights(undisturbed.entry(job.key))
    kept = {name: value for name, value in whole.items() if ".variants.softmax." not in name}
    found = weights(entry)
    assert found.keys() == kept.keys()
    for name, value in kept.items():
        tolerance = {"rtol": 0, "atol": 0} if exact else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(found[name], value, **tolerance, msg=name)
    assert {path.name for path in (entry / "variants").iterdir()} == {"bacl"}
    assert json.loads((entry / "job.json").read_text())["variant_keys"].keys() == {"bacl"}
    assert store.variants().keys() & job.variant_keys.values() == {job.variant_keys["bacl"]}


@pytest.mark.slow
def test_stopped_variant_leaves_a_bank_and_disturbs_no_other(planned, store, undisturbed, finished):
    features, heads = planned(*STOPPABLE).jobs
    finished(features)
    train(heads, undisturbed)
    with pytest.raises(Killed):
        train(heads, store, kill_at=20, stopped=lambda _: ["softmax"])
    # a resumed job lacks it too, though nobody says so again
    failure, told, reported = train(heads, store, stopped=lambda _: [])
    assert failure is None and told[0].step == 15
    assert {name for name in reported[-1] if name.endswith("/AP")} == {"bacl/AP"}
    entry_without_softmax_equals(undisturbed, store, heads, exact=True)


@pytest.mark.slow
def test_variant_whose_loss_diverges_leaves_and_the_others_go_on(
    planned, store, undisturbed, finished, monkeypatch
):
    features, heads = planned(*STOPPABLE).jobs
    finished(features)
    train(heads, undisturbed)
    monkeypatch.setattr(Softmax, "loss", lambda self, logits, labels: logits.sum(1) * math.nan)
    failure, told, _ = train(heads, store)
    assert failure is None
    (failed,) = [one.sentences for one in told if isinstance(one, VariantsFailed)]
    assert (
        failed.keys() == {"softmax"}
        and "softmax.loss_cls is not finite at step 1" in failed["softmax"]
    )
    entry_without_softmax_equals(undisturbed, store, heads, exact=True)


def test_job_whose_variants_are_all_stopped_ends_without_an_entry(planned, store, finished):
    features, heads = planned().jobs
    finished(features)
    assert train(heads, store, stopped=lambda _: ["bacl", "softmax"])[0] is None
    assert not store.complete(heads.key) and not store.work(heads.key).exists()


def test_job_asked_to_stop_writes_a_checkpoint_and_goes_on_from_it(
    planned, store, undisturbed, monkeypatch
):
    monkeypatch.setattr(checkpoints, "LOOK_EVERY", 0)  # at every step
    job = planned().jobs[0]
    assert train(job, undisturbed)[0] is None
    begun = []

    def tell(message):
        if isinstance(message, Started):
            begun.append(message.step)

    looks = iter([False, False, True])
    said = worker.train(job, store, tell, lambda _: None, asked_to_stop=lambda: next(looks))
    assert said == f"job features ({job.key}) was stopped at step 3"
    assert latest_checkpoint(store.work(job.key) / "checkpoints")[0] == 3
    assert not store.complete(job.key)
    assert worker.train(job, store, tell, lambda _: None) is None
    assert begun == [0, 3]
    assert_same(weights(undisturbed.entry(job.key)), weights(store.entry(job.key)))


def test_evaluation_that_is_due_comes_before_a_stop(planned, store, monkeypatch):
    monkeypatch.setattr(checkpoints, "LOOK_EVERY", 0)
    job = planned("stages.features.recipe.evaluate_every=3").jobs[0]
    reported, looks = [], iter([False, False, True])
    said = worker.train(
        job, store, lambda *_: None, reported.append, asked_to_stop=lambda: next(looks)
    )
    assert said.endswith("was stopped at step 4")
    assert [one.get("checkpoint", one.get("step")) for one in reported] == [3, 4]
    assert "features/AP" in reported[0]


@pytest.mark.slow
def test_two_ranks_end_with_the_weights_of_one(planned, store, undisturbed, on_two_ranks):
    one = planned("stages.features.recipe.schedule.batch=4").jobs[0]
    two = planned(
        "stages.features.recipe.schedule.batch=4", "stages.features.resources.workers=2"
    ).jobs[0]
    assert one.key == two.key
    assert train(one, undisturbed)[0] is None
    said = f"job features ({two.key}) was stopped at step 1"
    assert on_two_ranks(two, store, asked_to_stop=True) == [said, said]
    assert on_two_ranks(two, store) == [None, None]  # from there on
    alone_weights = weights(undisturbed.entry(one.key))
    shared_weights = weights(store.entry(two.key))
    for name, value in alone_weights.items():
        torch.testing.assert_close(shared_weights[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_both_ranks_stop_with_the_same_sentence(planned, store, on_two_ranks):
    job = planned(
        "stages.features.recipe.schedule.batch=4",
        "stages.features.resources.workers=2",
        "stages.features.recipe.schedule.lr=1e30",
    ).jobs[0]
    first, second = on_two_ranks(job, store)
    assert first == second
    assert "is not finite at step 2" in first


@pytest.mark.slow
def test_stopped_variant_leaves_a_bank_on_two_ranks(
    planned, store, undisturbed, finished, on_two_ranks
):
    features, heads = planned(*STOPPABLE, "stages.heads.resources.workers=2").jobs
    finished(features)
    assert train(planned(*STOPPABLE).jobs[1], undisturbed)[0] is None
    assert on_two_ranks(heads, store, ("softmax",)) == [None, None]
    entry_without_softmax_equals(undisturbed, store, heads, exact=False)


def plan_of(text, tiny, store):
    path = tiny.parent / "competing.yaml"
    path.write_text(text)
    file = SweepFile(path)
    return plan_sweeps([file], [file.trials(store)], Preparation(store), store)[0]


@pytest.mark.slow
def test_killed_population_ends_as_an_undisturbed_one(
    competing, tiny, store, undisturbed, finished
):
    plan = plan_of(competing, tiny, store)
    features, heads = plan.jobs
    finished(features)
    assert train(heads, undisturbed)[0] is None
    with pytest.raises(Killed):  # after the evaluation at step 5
        train(heads, store, kill_at=5)

    def die(report):
        if report == {CHECKPOINT: 10}:  # before the evaluation at step 10
            raise Killed

    with pytest.raises(Killed):
        worker.train(heads, store, lambda *_: None, die)
    assert latest_checkpoint(store.work(heads.key) / "checkpoints")[0] == 10
    assert train(heads, store)[0] is None
    ours, theirs = store.entry(heads.key), undisturbed.entry(heads.key)
    assert (ours / MOVES).read_text() == (theirs / MOVES).read_text()
    assert_same(weights(theirs), weights(ours))
    rows = json.loads((ours / MOVES).read_text())
    assert [(row["step"], len(row["moves"])) for row in rows] == [(5, 1), (10, 1), (12, 0)]
    member, source, values = rows[0]["moves"][0]
    logged = [json.loads(line) for line in (ours / "scalars.jsonl").read_text().splitlines()]
    told = {row["step"]: row for row in logged if f"{member}/alpha" in row}
    assert told[5][f"{member}/alpha"] == plan.jobs[1].population.members[member]["alpha"]
    assert told[10][f"{member}/alpha"] == values["alpha"] != told[10][f"{source}/alpha"]


@pytest.mark.slow
def test_members_that_nobody_replaces_train_as_without_a_population(
    competing, tiny, store, undisturbed
):
    plan = plan_of(competing, tiny, store)
    features, heads = plan.jobs
    alone = heads.model_copy(update={"population": None, "key": "0" * 16})
    for job in (features, heads, alone):
        assert train(job, undisturbed)[0] is None
    ours, theirs = (weights(undisturbed.entry(job.key)) for job in (heads, alone))
    moved = {
        move[0]
        for row in json.loads((undisturbed.entry(heads.key) / MOVES).read_text())
        for move in row["moves"]
    }
    of_moved = {n for n in ours if any(f".{name}." in n for name in moved)}
    assert of_moved and any(not ours[n].equal(theirs[n]) for n in of_moved)
    assert_same(*({n: w for n, w in one.items() if n not in of_moved} for one in (ours, theirs)))
