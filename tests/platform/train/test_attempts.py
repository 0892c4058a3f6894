"""Jobs whose workers are started again, in another number: they end as undisturbed ones."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from ranks import on_ranks

from bacl_platform.store.checkpoints import latest_checkpoint
from bacl_platform.store.names import LOG
from bacl_platform.train import worker
from bacl_platform.train.attempts import Attempt, Moving
from bacl_platform.train.hooks import checkpoints
from bacl_platform.train.messages import CHECKPOINT, Gathered, Lost, Reached


def move_at(step):
    """An attempt that is asked to end at a step."""
    return Attempt(lambda reached: "spot" if reached.step >= step else None)


def weights(store, job) -> dict:
    path = store.entry(job.key) / "checkpoint.pth"
    return torch.load(path, weights_only=True)["state_dict"]


@pytest.mark.slow
def test_job_that_is_to_move_leaves_a_checkpoint_and_goes_on_as_undisturbed(
    planned, store, undisturbed, monkeypatch
):
    monkeypatch.setattr(checkpoints, "LOOK_EVERY", 0)  # at every step
    job = planned().jobs[0]
    assert worker.train(job, undisturbed, lambda *_: None, lambda _: None) is None
    told, reported = [], []
    with pytest.raises(Moving) as moving:
        worker.train(job, store, told.append, reported.append, attempt=move_at(3))
    assert (moving.value.step, moving.value.why) == (3, "spot")
    assert latest_checkpoint(store.work(job.key) / "checkpoints")[0] == 3
    assert reported == [{CHECKPOINT: 3}]
    before = Reached(4, 0.5, 4.0), 7.0
    told.clear()
    again = Attempt(before=before)
    assert worker.train(job, store, told.append, lambda _: None, attempt=again) is None
    (gathered,) = [one for one in told if isinstance(one, Gathered)]
    assert (gathered.step, gathered.workers) == (3, 1)
    assert (gathered.lost.steps, gathered.lost.seconds) == (1, 0.5)
    assert 7 < gathered.lost.idle < 7 + 60
    log = (store.entry(job.key) / LOG).read_text(encoding="utf-8")
    assert f"after an interruption: {gathered.lost}" in log
    expected = weights(undisturbed, job)
    for name, value in weights(store, job).items():
        assert torch.equal(value, expected[name]), name


def test_evaluation_that_is_due_comes_before_a_move(planned, store, monkeypatch):
    monkeypatch.setattr(checkpoints, "LOOK_EVERY", 0)
    job = planned("stages.features.recipe.evaluate_every=3").jobs[0]
    reported = []
    with pytest.raises(Moving) as moving:
        worker.train(job, store, lambda _: None, reported.append, attempt=move_at(3))
    assert moving.value.step == 4
    assert [one.get(CHECKPOINT, one.get("step")) for one in reported] == [3, 4]


def test_cost_of_interruptions_adds_up_and_is_told_in_words():
    whole = sum([Lost(3, 1.5, 20.4), Lost(1, 0.5, 10)], Lost())
    assert str(whole) == "4 steps trained again (2 s), 30 s without training"
    assert str(Lost(0, 0, 12)) == "0 steps trained again, 12 s without training"


def test_attempt_after_another_tells_what_lay_between():
    told = []
    attempt = Attempt(before=(Reached(40, 2.0, 100.0), 5.0))
    time.sleep(0.2)
    lost = attempt.start("key", 30, told.append)
    assert told == [Gathered("key", 30, 1, lost)]
    assert (lost.steps, lost.seconds) == (10, 20.0) and 5.2 <= lost.idle < 6
    assert Attempt().start("key", 0, told.append) is None


def train_until(folder: Path, job, store, step):
    """For `on_ranks`: trains a job up to a step at which it is to move, or to its end."""
    rank = torch.distributed.get_rank()
    os.environ["LOCAL_RANK"] = str(rank)
    checkpoints.LOOK_EVERY = 0
    try:
        said = worker.train(job, store, lambda _: None, lambda _: None, attempt=move_at(step))
    except Moving as moving:
        said = moving.step
    (folder / f"{rank}.json").write_text(json.dumps(said))


@pytest.fixture
def with_ranks(tmp_path):
    """Trains a job on a number of ranks up to a step; gives what each rank said."""

    def trained(job, store, ranks, until):
        folder = tmp_path / f"{ranks}_{until}"
        folder.mkdir()
        on_ranks(train_until, ranks, folder, job, store, until)
        return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]

    return trained


BATCH = [
    "baseline=features",
    *(f"stages.{stage}.recipe.schedule.batch=8" for stage in ("features", "heads")),
]
RANGE = [f"stages.{stage}.resources.workers=[1, 2]" for stage in ("features", "heads")]
RICH = [
    "stages.heads.recipe.accumulate=2",
    "stages.heads.recipe.ema={momentum: 0.3}",
    "stages.heads.recipe.optimizer={type: adamw}",
    "stages.heads.recipe.schedule={iterations: 12, batch: 8, lr: 0.001, lr_batch: 8, warmup: 4}",
]
METHODS = (
    "stages.heads.variants={bacl: {method: bacl, hallucination: {categories: 4}}, "
    "eqlv2: {method: eqlv2}, loce: {method: loce}, fasa: {method: fasa}, seesaw: {method: seesaw}}"
)
STORED = [
    "stages.stored={kind: features, after: features, views: 4, resources: {workers: [1, 2]}}",
    "stages.heads.after=stored",
    "stages.heads.recipe.features=replay",
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "overrides"),
    [
        ("features", []),
        ("heads", [METHODS, *RICH]),
        ("heads", STORED),
    ],
    ids=["representation", "bank", "replay"],
)
def test_ranks_that_come_and_go_end_with_the_weights_of_one(
    planned, store, undisturbed, finished, with_ranks, stage, overrides
):
    *before, job = [*planned(*BATCH, *RANGE, *overrides).jobs]
    if stage == "features":
        (job, *_), before = [*before, job], []
    for one in before:
        finished(one)
    assert worker.train(job, undisturbed, lambda *_: None, lambda _: None) is None
    assert with_ranks(job, store, 2, 3) == [3, 3]
    assert with_ranks(job, store, 1, 8) == [8]
    assert with_ranks(job, store, 2, 100) == [None, None]
    found, expected = weights(store, job), weights(undisturbed, job)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)
