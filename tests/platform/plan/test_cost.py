"""What plans cost, against numbers worked out by hand.

The tiny experiment's stages train for 12 steps of 2 images, 24 in all; 20 images are validated.
"""

import copy
import json

import pytest

from bacl_platform.plan.cost import amount, cost_lines, duration, step_seconds
from bacl_platform.store.checkpoints import write_checkpoint
from bacl_platform.store.names import JOB, SCALARS

THREE = "stages.heads.variants.bce={method: bce}"
PAIRS = (THREE, "stages.heads.variants_per_job=2", "stages.heads.recipe.evaluate_every=5")


@pytest.fixture
def finish(store):
    """Publishes a job whose steps took so many seconds, the first one much longer."""

    def publish(job, seconds):
        folder = store.work(job.key) / "entry"
        folder.mkdir(parents=True)
        rows = [{"step": n, "time": s} for n, s in enumerate([9000.0, seconds, seconds], start=1)]
        rows.append({"step": 3, "loss": 1.0})
        (folder / JOB).write_text(job.model_dump_json(exclude={"config"}))
        (folder / SCALARS).write_text("".join(json.dumps(row) + "\n" for row in rows))
        store.publish(job.key, folder)

    return publish


def test_bank_passes_each_image_once_for_all_its_variants(planned, store):
    assert list(cost_lines(planned(THREE), store)) == [
        "in all: 2 jobs, which process 48 training and 40 validation images",
        "with a job for every variant: 4 jobs, which process 96 training and 80 validation images "
        "(2 times the training images)",
        "heads: 24 training images in 1 job; with a job for every variant: 72 in 3 (3 times)",
        "0 of 2 jobs are in the store, 2 to run",
    ]


def test_every_view_of_an_image_passes_the_trunk(planned, store):
    views = "stages.heads.recipe.tta={flip: true, scales: [[96, 96], [64, 64]]}"
    assert next(cost_lines(planned(views), store)) == (  # stage 1's 20 images, and 4 times 20
        "in all: 2 jobs, which process 48 training and 100 validation images"
    )


def test_seeds_banks_and_evaluations_multiply(planned, store):
    # A seed has 3 jobs: stage 1, a pair and one alone. Heads are evaluated at 5, 10 and 12.
    # fused: 6 x 24 trained, 2 x (20 + 2 x 60) validated; alone: 8 x 24, 2 x (20 + 3 x 60)
    assert list(cost_lines(planned("seeds=[0, 1]", *PAIRS), store)) == [
        "in all: 6 jobs, which process 144 training and 280 validation images",
        "with a job for every variant: 8 jobs, which process 192 training and 400 validation "
        "images (1.33 times the training images)",
        "heads: 96 training images in 4 jobs; with a job for every variant: 144 in 6 (1.5 times)",
        "0 of 6 jobs are in the store, 6 to run",
    ]


def test_what_is_to_run_leaves_out_what_is_done(planned, store, fill):
    plan = planned("seeds=[0, 1]", *PAIRS)
    features, pair = plan.jobs[:2]
    fill([features], {("features", 0): 0.1})
    write_checkpoint(store.work(pair.key) / "checkpoints", 10, lambda p: p.write_bytes(b"w"))
    # Of the pair 2 steps and the last evaluation are left, of 4 jobs everything.
    # fused: 4 + 4 x 24 trained, 20 + 20 + 3 x 60 validated
    # alone: 2 x 4 + 5 x 24 trained, 2 x 20 + 20 + 4 x 60 validated
    assert list(cost_lines(plan, store))[-1] == (
        "1 of 6 jobs are in the store, 5 to run, which process 100 training and 220 "
        "validation images; with a job for every variant: 7 jobs, which process 128 training and "
        "300 validation images"
    )


def test_nothing_is_to_run_of_what_is_in_the_store(planned, store, fill):
    plan = planned("stages.heads.variants_per_job=1")
    fill(plan.jobs, {("features", 0): 0.1, ("bacl", 0): 0.3, ("softmax", 0): 0.2})
    assert list(cost_lines(plan, store)) == [
        "in all: 3 jobs, which process 72 training and 60 validation images; no two variants "
        "share a trunk",
        "3 of 3 jobs are in the store, 0 to run",
    ]


def test_hours_are_those_of_finished_jobs_with_a_bank_taken_apart(planned, store, finish):
    plan = planned("seeds=[0, 1]")
    features, heads = plan.jobs[:2]
    finish(features, 100.0)
    finish(heads, 206.0)
    # 12 x 100 + 12 x 206 = 3672 s; a step of a bank of one takes 206 / 1.03 = 200 s,
    # and 12 x 100 + 2 x 12 x 200 = 6000 s
    assert list(cost_lines(plan, store))[-1] == (
        "about 61 min of training one job after another, evaluations not counted, at the pace of "
        "finished jobs; 1.7 h with a job for every variant, where a further variant of a job is "
        "taken to add 3% to a step"
    )


def test_hours_are_told_of_jobs_like_finished_ones_only(planned, store, finish):
    plan = planned("seeds=[0, 1]")
    finish(plan.jobs[0], 100.0)
    again = planned("seeds=[0, 1]")
    write_checkpoint(
        store.work(again.jobs[2].key) / "checkpoints", 10, lambda p: p.write_bytes(b"w")
    )
    # 2 steps of stage 1 are left
    assert list(cost_lines(again, store))[-1] == (
        "1 of the 3 jobs to run: about 3 min of training one job after another, evaluations not "
        "counted, at the pace of finished jobs"
    )


def test_pace_of_the_own_stage_counts_before_that_of_another(planned, store, finish):
    late = (
        "stages.late={kind: classifier, after: features, variants: {fcbl: {method: fcbl}}, recipe: "
        "{schedule: {iterations: 24, batch: 2}, scales: [[96, 96]], proposals: 50}}"
    )
    plan = planned("seeds=[0, 1]", late)
    jobs = {(job.stage, job.seed): job for job in plan.jobs}
    finish(jobs["heads", 0], 206.0)
    other = {jobs["heads", 0].key: store.descriptions()[jobs["heads", 0].key]}
    assert step_seconds(jobs["late", 1], store, other) == pytest.approx(200)  # of a bank of one
    finish(jobs["late", 0], 50.0)
    finish(jobs["heads", 1], 206.0)  # newer
    assert step_seconds(jobs["late", 1], store, store.descriptions()) == 50


@pytest.mark.parametrize(
    "override",
    [
        "stages.features.recipe.schedule.batch=4",
        "stages.features.recipe.scales=[[64, 64]]",
        "stages.features.recipe.precision=bfloat16",
        "stages.features.resources.cpus=2",
    ],
)
def test_pace_of_an_unlike_job_tells_nothing(planned, store, finish, override):
    job, unlike = planned().jobs[0], planned(override).jobs[0]
    finish(job, 100.0)
    assert step_seconds(job, store, store.descriptions()) == 100
    assert step_seconds(unlike, store, store.descriptions()) is None


def test_pace_of_a_job_of_before_a_setting_existed_is_known(planned, store, finish):
    (job, _) = planned().jobs
    finish(job, 100.0)
    described = copy.deepcopy(store.descriptions())
    del described[job.key]["resources"]["grow_after"]
    assert step_seconds(job, store, described) == 100


def test_amounts_and_durations_are_short():
    assert [amount(n) for n in (999_999, 2_043_072, 21_111_744)] == ["999,999", "2.04 M", "21.1 M"]
    assert [duration(s) for s in (89, 90, 5399, 5400)] == ["89 s", "2 min", "90 min", "1.5 h"]
