"""What is read from the store of an experiment's jobs."""

import dataclasses

import numpy as np
import pytest

from bacl.errors import RunError
from bacl.evaluation import Detections, Unlimited
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


@pytest.fixture
def study(plan, store, fill):
    fill(plan.jobs, APS)
    return results.collect(plan, store, "")


def with_fixed(report, limits):
    """The report with AP-Fixed of each variant, of results that were cut so."""
    return dataclasses.replace(
        report,
        results=[
            dataclasses.replace(
                one,
                metrics=one.metrics | {"APFixed": 0.5, "APFixed_r": 0.25, "APPool": 0.5},
                fixed_limit=limits.get(one.variant),
            )
            if one.variant in limits
            else one
            for one in report.results
        ],
    )


def test_entries_of_before_have_no_fixed(study):
    assert study.brief == [study.kinds["AP"]] == study.tables
    assert study.cut == {} and study.columns == ["AP"]
    mixed = with_fixed(study, {"bacl": None})
    assert mixed.kinds == study.kinds
    assert mixed.brief == [study.kinds["AP"], ["APFixed", "APFixed_r"]]
    assert mixed.values("softmax", "APFixed") == []
    assert mixed.differences("bacl", "APFixed") == []


def test_fixed_of_cut_results_is_said_and_not_set_beside_that_of_whole_ones(study):
    cut = with_fixed(study, {"bacl": None, "softmax": 300})
    assert cut.cut == {"softmax": 300}
    (note,) = [one for one in cut.notes if "Fixed" in one]
    assert note.startswith("Fixed of results that were cut at 300 per image: softmax.")
    experiment = cut.experiment.model_copy(update={"baseline": "softmax"})
    cut = dataclasses.replace(cut, experiment=experiment)
    assert cut.differences("bacl", "AP") != []
    assert cut.differences("bacl", "APFixed") == cut.differences("bacl", "APPool") == []
    whole = with_fixed(cut, {"bacl": 300, "softmax": 300})
    assert whole.differences("bacl", "APFixed") == [0, 0]


def found(scores):
    rows = len(scores)
    return Detections(
        np.arange(rows), np.zeros(rows, dtype=int), np.array(scores), np.ones((rows, 4))
    )


def test_unlimited_has_what_lies_beyond_and_says_where_it_is_cut(study):
    (one, *_) = study.of("bacl")
    assert not one.unlimited()[1]  # stored without
    here = dataclasses.replace(one, found=found([0.9, 0.8]))
    assert here.unlimited()[1] and len(here.unlimited()[0].score) == 2
    assert not dataclasses.replace(here, fixed_limit=300).unlimited()[1]
    beyond = Unlimited(np.array([True, False]), found([0.7, 0.6, 0.5]))
    joined, whole = dataclasses.replace(here, beyond=beyond).unlimited()
    assert whole and joined.score.tolist() == [0.9, 0.7, 0.6, 0.5]
