"""What is read from the store of an experiment's jobs."""

import pytest

from bacl.errors import RunError
from bacl_platform.analysis import results

SEEDS = "seeds=[0, 1]"
APS = {
    ("features", 0): 0.1,
    ("features", 1): 0.1,
    ("bacl", 0): 0.30,
    ("bacl", 1): 0.34,
    ("softmax", 0): 0.20,
    ("softmax", 1): 0.21,
}


@pytest.fixture
def plan(planned):
    return planned(SEEDS)


def test_nothing_finished_is_an_error_with_what_to_run(plan, store):
    with pytest.raises(RunError, match=r"no job of tiny .* run `bacl run tiny.yaml` first"):
        results.collect(plan, store, "bacl run tiny.yaml")


def test_entry_that_does_not_hold_what_its_manifest_says_is_unfinished(plan, store, fill):
    fill(plan.jobs, APS)
    damaged = plan.jobs[1]
    (store.entry(damaged.key) / "variants/bacl/metrics.json").write_text("{}")
    assert results.collect(plan, store, "").unfinished == [damaged]
