"""A rehearsal as it is shown, of figures that are worked out by hand."""

import pytest

from bacl_platform.api.experiment import ExperimentRehearsal
from bacl_platform.tools.rehearsal.forecast import forecast_job, forecast_run
from bacl_platform.tools.rehearsal.rehearse import Finding, Rehearsed, StageRehearsed

GIB = 2**30


@pytest.fixture
def rehearsal(planned, figures):
    """Of the tiny experiment, whose second stage failed if so said."""

    def made(failed=False, **given):
        plan = planned()
        known = figures(variants=1, gpu=10 * GIB, gpu_room=16 * GIB, gpu_fixed=GIB, **given)
        stages = [
            StageRehearsed(job, known, [forecast_job(job, known, 20, 0)]) for job in plan.jobs
        ]
        findings = []
        if failed:
            stages[1] = StageRehearsed(plan.jobs[1], None, [])
            findings = [Finding("job heads failed: no", ["stages.heads.recipe.accumulate=2"])]
        forecasts = [one for stage in stages for one in stage.jobs]
        forecast = None if failed else forecast_run(forecasts, {"CPU": 2}, 2.0, 1.0)
        return ExperimentRehearsal(Rehearsed(plan, stages, findings, forecast, 5 * GIB))

    return made


def test_table_has_a_stage_a_column_and_the_whole_run_below(rehearsal):
    text = repr(rehearsal())
    for words in (
        "GPU memory",
        "10.00 of 16.00 GiB",
        "3.00 of 8.00 GiB",
        "2 images/s",
        "waiting for data",
        "10%",
        "the whole run, 2 jobs: about ",
        "CPU-hours",
        "5.4 GB free",
        "nothing was found that a run would break of",
    ):
        assert words in text, words
    assert "failed" not in text and "may help" not in text


def test_values_are_those_of_the_table(rehearsal):
    found = rehearsal()
    frame = found.table()
    assert frame.stage.tolist() == ["features", "heads"] and frame.gpu_bytes[0] == 10 * GIB
    values = found.as_json()
    assert values["breaks"] == [] and found.breaks == []
    first = values["stages"][0]
    assert (first["images_a_second"], first["data_wait"]) == pytest.approx((2, 0.1))
    # 5 + 12 x 1 + 20 x 0.1 + 5, the bank of two a little more; 3 around
    assert values["forecast"]["seconds"] == pytest.approx(24 + 24 + 12 * 0.03 + 3)
    assert values["forecast"]["bytes_free"] == 5 * GIB


def test_what_breaks_is_told_with_its_changes(rehearsal):
    found = rehearsal(failed=True)
    text = repr(found)
    assert "no forecast of the whole run: not every stage could be rehearsed" in text
    assert found.breaks == [
        "job heads failed: no; each of these would fit by an estimate: "
        "stages.heads.recipe.accumulate=2"
    ]
    assert f"will break: {found.breaks[0]}" in " ".join(text.split("\n"))
    assert found.as_json()["forecast"] is None and not found.table().rehearsed[1]


def test_long_waits_for_data_are_pointed_out(rehearsal):
    text = repr(rehearsal(waits=[0.4] * 20))
    assert (
        "stage features waits for data 40% of its time: more recipe.loader_workers than 0 may help"
        in text
    )
