"""Figures of rehearsals, and what whole jobs take by them, against loops that run the job."""

import json
import statistics

import numpy as np
import pytest

from bacl_platform.plan.cost import cost_lines
from bacl_platform.plan.rehearsed import (
    DRAWS,
    Figures,
    Memory,
    bytes_of,
    in_words,
    interval,
    name_of,
    recall,
    remember,
    resampled,
    whole,
)
from bacl_platform.store.checkpoints import write_checkpoint

MEMORY = Memory(
    rank=0,
    host=2**30,
    host_room=2**32,
    host_fixed=2**29,
    loaders=0,
    loader_workers=0,
    disk_room=2**40,
)


@pytest.fixture
def figures():
    """Makes figures; those given are different."""

    def made(**given):
        return Figures(
            **{
                "date": "2026-11-29T10:00:00+00:00",
                "machine": "8 x A",
                "workers": 1,
                "variants": 2,
                "pass_images": 2,
                "steps": [2.0, 4.0, 3.0],
                "waits": [0.5, 0.5, 0.5],
                "images": [0.25, 0.75],
                "opening": 1.0,
                "judging": 2.0,
                "judging_variant": 0.5,
                "judging_image": 0.1,
                "start": 20.0,
                "checkpoint": 1.5,
                "end": 4.0,
                "memory": [MEMORY],
                "checkpoint_bytes": 1000,
                "entry_bytes": 500,
                "bank_bytes": 100,
                "detection_bytes": 30.0,
                "view_bytes": 7.0,
                "image_bytes": 3.0,
                **given,
            }
        )

    return made


def acted(job, figures, images, done):
    """Seconds of a job that is gone through step by step."""
    step, image = statistics.mean(figures.steps), statistics.mean(figures.images)
    every, total = job.recipe.evaluate_every or job.iterations, figures.start + figures.end
    for number in range(done + 1, job.iterations + 1):
        last = number == job.iterations
        total += step
        total += figures.checkpoint * (number % job.recipe.checkpoint_every == 0 or last)
        if number % every == 0 or last:
            share = -(-images // figures.workers)  # of the rank that has most
            total += figures.opening + share * image + figures.judging
            for _ in job.variants:
                total += figures.judging_variant + images * figures.judging_image
    return total


@pytest.mark.parametrize("done", [0, 5, 7])
@pytest.mark.parametrize("every", ["null", "5", "4"])
def test_whole_job_takes_what_its_parts_take_together(planned, figures, every, done):
    job = planned(f"stages.heads.recipe.evaluate_every={every}").jobs[1]
    for workers in (1, 3):
        known = figures(workers=workers)
        found = whole(job, known, 20, done).seconds
        assert found[0] == pytest.approx(acted(job, known, 20, done))
        assert found.shape == (DRAWS + 1,)


def test_larger_bank_takes_more_and_judges_more(planned, figures):
    more = "stages.heads.variants.bce={method: bce}"
    two, three = planned().jobs[1], planned(more).jobs[1]
    known = figures()
    step, judged = 12 * 3 * (1.06 / 1.03 - 1), 0.5 + 20 * 0.1
    added = whole(three, known, 20).seconds[0] - whole(two, known, 20).seconds[0]
    assert added == pytest.approx(step + judged)


def test_features_take_a_walk_over_both_splits(planned, prepared, replayed, figures):
    job = next(job for job in planned(*replayed).jobs if job.kind == "features")
    known = figures(workers=2, variants=1)
    views = 2 * prepared.train.image_total
    found = whole(job, known, 20)
    assert found.training[0] == pytest.approx(views / 2 * 3)  # each rank has half of them
    assert found.evaluating[0] == pytest.approx(20 / 2 * 0.5)
    half = whole(job, known, 20, done=job.iterations // 2)
    share = 1 - (job.iterations // 2) / job.iterations
    assert half.training[0] == pytest.approx(share * found.training[0])
    assert bytes_of(job, known, 20).entry == round(views * 7 + 20 * 3 + 500)


def test_room_in_the_store_is_that_of_the_fullest_moment(planned, figures):
    recipe = "stages.heads.recipe"
    keeping = [f"{recipe}.checkpoint_every=4", f"{recipe}.keep_every=4", f"{recipe}.keep_last=1"]
    job = planned(*keeping).jobs[1]
    found = bytes_of(job, figures(), 20)
    lasting = sum(step % 4 == 0 for step in range(1, 13))
    assert found.entry == 500 + 20 * 30 + lasting * 1000
    assert found.work == 2 * 1000  # the newest, and one that is being written
    assert found.written == found.entry + 3 * 1000  # at 4, 8 and 12


def test_resamples_are_means_of_blocks_of_neighbours():
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    found = resampled(values, 2)
    assert found[0] == statistics.mean(values)
    blocks = [statistics.mean(values[n : n + 2]) for n in range(4)]
    possible = {a + b + c for a in blocks for b in blocks for c in blocks}
    assert all(any(abs(3 * mean - p) < 1e-9 for p in possible) for mean in found[1:])
    assert not resampled([], 5).any()


def test_interval_holds_the_estimate_and_grows_with_the_spread():
    narrow, wide = (resampled([3 - d, 3.0, 3 + d] * 8, 1) for d in (0.1, 2.0))
    for draws in (narrow, wide):
        estimate, low, high = interval(draws)
        assert low < estimate < high and estimate == pytest.approx(3)
    assert np.ptp(interval(wide)) > 10 * np.ptp(interval(narrow))
    assert in_words((5400.0, 3600.0, 7200.0)) == "1.5 h (1.0 to 2.0)"


@pytest.mark.parametrize(
    "override, same",
    [
        ("seeds=[3]", True),
        ("stages.heads.recipe.schedule.iterations=24", True),
        ("stages.heads.recipe.evaluate_every=3", True),
        ("stages.heads.variants_per_job=1", True),
        ("stages.heads.resources.retries=0", True),
        ("stages.heads.recipe.schedule.batch=4", False),
        ("stages.heads.recipe.scales=[[64, 64]]", False),
        ("stages.heads.recipe.loader_workers=1", False),
        ("stages.heads.resources.cpus=2", False),
        ("detector.fc_channels=48", False),
    ],
)
def test_figures_are_found_by_what_they_depend_on(planned, store, figures, override, same):
    plain, other = planned().jobs[1], planned(override).jobs[1]
    remember(plain, figures(), store)
    assert (recall(other, store) == figures()) is same
    assert name_of(plain, "8 x A") != name_of(plain, "8 x B")


def test_newest_figures_count_and_damaged_ones_do_not(planned, store, figures):
    job = planned().jobs[0]
    remember(job, figures(date="2026-11-28T10:00:00+00:00", machine="8 x B"), store)
    remember(job, figures(), store)
    assert recall(job, store).machine == "8 x A"
    store.write_note(name_of(job, "8 x A"), json.dumps({"date": "2027"}))
    assert recall(job, store).machine == "8 x B"


def test_plan_tells_the_hours_of_a_rehearsal(planned, store, figures):
    plan = planned()
    before = list(cost_lines(plan, store))
    for job in plan.jobs:
        remember(job, figures(variants=len(job.variants)), store)
    (line,) = [line for line in cost_lines(plan, store) if line not in before]
    seconds = sum(acted(job, figures(), 20, 0) for job in plan.jobs)
    assert line.startswith(f"about {seconds:.0f} s (")
    assert line.endswith(
        f"with starts, evaluations and checkpoints; {seconds / 3600:.3g} CPU-hours: from a "
        "rehearsal of 2026-11-29 on 8 x A"
    )


def test_plan_counts_what_is_left_of_rehearsed_jobs_and_tells_of_others(planned, store, figures):
    plan = planned()
    job = plan.jobs[0]
    remember(job, figures(variants=1), store)
    write_checkpoint(store.work(job.key) / "checkpoints", 10, lambda p: p.write_bytes(b"w"))
    line = list(cost_lines(plan, store))[-1]
    seconds = acted(job, figures(), 20, 10)
    assert line.startswith(f"1 of the 2 jobs to run: about {seconds:.0f} s (")
