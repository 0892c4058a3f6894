"""Which checkpoints stay, and where."""

import json

import pytest

from bacl.errors import UsageError
from bacl_platform.spec.load import load
from bacl_platform.train.retention import Retention

HEADS = "stages.heads.recipe"


@pytest.fixture
def rule(planned, tmp_path):
    """The retention of a job with some settings, and evaluations by step and variant."""

    def make(evaluations=None, **settings):
        chosen = [f"{HEADS}.{name}={value}" for name, value in settings.items()]
        job = planned(f"{HEADS}.evaluate_every=5", *chosen).jobs[1]
        rows = [
            {"step": step, **{f"{name}/AP": ap for name, ap in aps.items()}}
            for step, aps in (evaluations or {}).items()
        ]
        (tmp_path / "scalars.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return Retention(job, tmp_path)

    return make


def test_newest_are_kept_while_training_and_none_after(rule):
    steps = [5, 10, 15, 20]
    assert rule().kept(steps) == {15, 20} and rule().lasting(steps) == set()
    assert rule(keep_last=3).kept(steps) == {10, 15, 20}


def test_every_k_is_kept_for_good(rule):
    assert rule(keep_every=10).kept([5, 10, 15, 20, 25, 30, 35]) == {10, 20, 30, 35}
    assert rule(keep_every=10).lasting([5, 10, 15, 20]) == {10, 20}


def test_best_is_the_first_with_the_highest_mean_over_variants(rule):
    evaluations = {
        5: {"bacl": 0.9, "softmax": 0.1},
        10: {"bacl": 0.5, "softmax": 0.7},
        15: {"bacl": 0.6, "softmax": 0.6},
    }
    found = rule(evaluations, keep_best="true")
    assert found.lasting([5, 10, 15]) == {10}
    assert found.kept([5, 10, 15, 20, 25]) == {10, 20, 25}


def test_settings_that_could_keep_nothing_are_told(tiny):
    with pytest.raises(UsageError, match=r"keep_every: expected a multiple of .* \(5\), got 7"):
        load(tiny, [f"{HEADS}.keep_every=7"])
    with pytest.raises(UsageError, match="keep_best needs evaluations of checkpoints"):
        load(tiny, [f"{HEADS}.keep_best=true"])


def test_retention_changes_no_key(planned):
    keeping = (f"{HEADS}.keep_every=5", f"{HEADS}.keep_last=4")
    assert planned(*keeping).jobs[1].key == planned().jobs[1].key
