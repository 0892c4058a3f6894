"""From what ranks tell to figures, by hand."""

import pytest

from bacl_platform.plan.rehearsed import whole
from bacl_platform.tools.rehearsal.figures import figures_of
from bacl_platform.tools.rehearsal.jobs import (
    WARM_UP,
    WORST,
    rehearse_job,
    representatives,
    some_of,
)
from bacl_platform.tools.rehearsal.scratch import scratch

MEMORY = {"host": 9, "host_room": 99, "loaders": 0, "loader_workers": 0, "disk_room": 999}


def row(rank, **told):
    return {"rank": rank, "machine": "A", "bank_bytes": 1, "began": 100.0, **MEMORY, **told}


def test_times_are_taken_apart(planned, prepared, store):
    job = planned().jobs[0]
    slow = [9.0] * (WORST + WARM_UP)
    laps = {
        "training": 103.0,
        "steps": [*slow, 2.0, 4.0],
        "waits": [5.0, *slow[1:], 0.5, 1.5],
        "images": [3.0, 1.0, 2.0],
        "stepped": 150.0,
        "evaluating": 152.0,
        "evaluated": 160.0,
        "host_fixed": 4,
    }
    rows = [
        row(1, laps=laps, told=171.0, ended=170.0),
        row(0, laps=laps, told=175.0, ended=170.0, checkpointed=151.5, checkpoint_bytes=8),
    ]
    with scratch(store) as inner:
        shown = some_of([job], prepared, inner, 6)
        made = rehearse_job(job, None, shown, store, 20)
        found = figures_of(made, rows, 90.0, shown.prepared, inner)
    assert (found.steps, found.waits, found.images) == ([2, 4], [0.5, 1.5], [1, 2])
    assert found.workers == 2 and [one.rank for one in found.memory] == [0, 1]
    # of 90 s the rank was there for 75; 3 before training; the first batch came 4 late
    assert found.start == 90 - 75 + 3 + (5 - 1)
    assert found.checkpoint == 1.5 and found.end == 10
    assert found.opening == 3 - 1.5
    # 8 s of evaluation, 6 of which images passed
    assert found.judging_image * shown.prepared.val.image_total == pytest.approx(2)
    assert found.memory[0].host_fixed == 4 and found.memory[0].gpu is None


def test_shards_give_the_pace_of_views_and_images(planned, prepared, store, replayed):
    plan = planned(*replayed, "stages.kept.resources.workers=2")
    job = next(job for job in plan.jobs if job.kind == "features")
    with scratch(store) as inner:
        shown = some_of([job], prepared, inner, 6)
        made = rehearse_job(job, "0" * 16, shown, store, 20)
        # 128 images make 256 views, 4 shards of 64; 20 images a shard: rounds of two ranks
        assert made.iterations == 5 and shown.prepared.train.image_total == 128
        times = [20.0, 8.0, 3.0]  # of a round, as the log has it: shared by two ranks
        laps = {"shards": [{"step": n, "time": time} for n, time in enumerate(times)]}
        rows = [row(rank, laps=laps, told=180.0, ended=180.0) for rank in (0, 1)]
        found = figures_of(made, rows, 85.0, shown.prepared, inner)
    assert found.steps == [8 * 2 / 64]  # the first waits for its loader
    assert found.images == [3 * 2 / 20]
    assert found.start == 85 - 2 * sum(times) and found.end == 0
    seconds = whole(job, found, 20).seconds[0]
    views = 2 * prepared.train.image_total
    assert seconds == pytest.approx(found.start + views / 2 * 0.25 + 20 / 2 * 0.3)


def test_a_stage_is_stood_for_by_its_largest_job_with_a_parent(planned, store, fill):
    overrides = ["seeds=[0, 1]", "stages.heads.variants_per_job=2"]
    more = "stages.heads.variants.bce={method: bce}"
    plan = planned(*overrides, more)
    assert [(job.stage, len(job.variants)) for job in representatives(plan, store)] == [
        ("features", 1),
        ("heads", 2),
    ]
    fill([plan.jobs[3]], {("features", 1): 0.1})  # of the second seed
    again = planned(*overrides, more)
    (features, heads) = representatives(again, store)
    assert (features.seed, heads.seed) == (0, 1)
