"""Jobs on a cluster: when they start and end, and what they leave, by hand and by Ray's rules."""

import itertools

import numpy as np
import pytest

from bacl_platform.plan.rehearsed import DRAWS, Bytes
from bacl_platform.tools.rehearsal.forecast import (
    JobForecast,
    forecast_job,
    forecast_run,
    schedule,
)


@pytest.fixture
def forecasts(planned):
    """Two seeds of stage 1 (10 s each) and of three jobs after each (4 s)."""
    plan = planned("seeds=[0, 1]", "stages.heads.variants_per_job=1")
    seconds = {"features": 10.0, "heads": 4.0}
    return [
        JobForecast(job, 1, np.full(DRAWS + 1, seconds[job.stage]), Bytes(100, 30, 150))
        for job in plan.jobs
    ]


def test_one_core_runs_jobs_one_after_another(forecasts):
    times = schedule(forecasts, {"CPU": 1})
    assert max(end for _, end in times.values()) == sum(one.seconds[0] for one in forecasts)
    spans = sorted(times.values())
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(spans))


def test_two_cores_run_two_jobs_and_children_wait_for_parents(forecasts):
    times = schedule(forecasts, {"CPU": 2})
    assert max(end for _, end in times.values()) == 10 + 4 * 4 / 2
    for one in forecasts:
        if one.job.parent:
            assert times[one.job.key][0] >= times[one.job.parent][1]


def test_job_larger_than_the_cluster_is_not_waited_for(forecasts):
    assert max(end for _, end in schedule(forecasts, {}).values()) == 36  # it is to grow


def test_whole_run_adds_what_is_before_and_after(forecasts):
    found = forecast_run(forecasts, {"CPU": 2}, 3.0, 2.0)
    estimate, low, high = found.seconds
    assert estimate == 18 + 5 and low < estimate < high  # those 5 were measured once
    assert found.hours["CPU"][0] == pytest.approx(36 / 3600)
    assert (found.left, found.written) == (600, 900)
    # at 10 s both of stage 1 end; later two jobs are in work while all before are entries
    assert found.peak == 600 + 2 * 30


def test_job_goes_on_from_where_it_stands(planned, figures):
    job = planned().jobs[0]
    whole = forecast_job(job, figures(variants=1), 20, 0).seconds[0]
    rest = forecast_job(job, figures(variants=1), 20, 10).seconds[0]
    assert whole == pytest.approx(5 + 12 + 20 * 0.1 + 5) and rest == pytest.approx(whole - 10)
