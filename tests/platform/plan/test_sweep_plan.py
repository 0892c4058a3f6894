"""Plans of sweeps: what is packed together, what is there already, what is refused."""

import pytest
from typer.testing import CliRunner

from bacl.errors import UsageError
from bacl_platform.cli.main import app


def test_grid_has_each_combination_in_one_bank(sweep, plan_sweep_files):
    (found,) = plan_sweep_files(sweep())
    assert [c.trial.label for c in found.cells][:2] == [
        "alpha=0, threshold=0.6",
        "alpha=0, threshold=0.7",
    ]
    assert len({cell.key for cell in found.cells}) == 6
    assert [(job.stage, len(job.variants)) for job in found.jobs] == [("features", 1), ("heads", 6)]


def test_trials_of_several_sweeps_share_banks_and_equal_ones_are_one(
    alphas, sweep, plan_sweep_files
):
    one = sweep()
    other = sweep(alphas.replace("alphas", "more").replace("0.85]", "1.0]"), "more.yaml")
    plans = plan_sweep_files(one, other)
    (bank,) = {
        job.key: job for found in plans for job in found.jobs if job.stage == "heads"
    }.values()
    assert len(bank.variants) == 8
    keys = [{cell.key for cell in found.cells} for found in plans]
    assert len(keys[0] & keys[1]) == 4


def test_field_outside_the_variant_needs_a_job_of_its_own(alphas, sweep, plan_sweep_files):
    text = alphas.replace(
        "variant.threshold: [0.6, 0.7]", "stages.heads.recipe.proposals: [40, 50]"
    )
    (found,) = plan_sweep_files(sweep(text))
    assert [len(job.variants) for job in found.jobs if job.stage == "heads"] == [3, 3]
    assert sum(job.stage == "features" for job in found.jobs) == 1


def test_variants_per_job_and_seeds_make_more_jobs(alphas, sweep, plan_sweep_files):
    (found,) = plan_sweep_files(sweep(alphas + "variants_per_job: 4\nseeds: [0, 1]\n"))
    heads = [job for job in found.jobs if job.stage == "heads"]
    assert sorted((job.seed, len(job.variants)) for job in heads) == [
        (0, 2),
        (0, 4),
        (1, 2),
        (1, 4),
    ]
    assert len(found.cells) == 12


def test_scheduler_without_evaluations_on_the_way_is_refused(alphas, sweep, plan_sweep_files):
    with pytest.raises(UsageError, match=r"scheduler: expected .*evaluate_every"):
        plan_sweep_files(sweep(alphas + "scheduler: {type: asha}\n"))


def test_metric_that_nobody_logs_is_refused(alphas, sweep, plan_sweep_files):
    with pytest.raises(UsageError, match=r"metric: expected one of AP, AP50, .* got 'APs'"):
        plan_sweep_files(sweep(alphas + "metric: APs\n"))


def test_any_metric_of_an_evaluation_may_rank_and_of_errors_the_lowest_is_best(
    alphas, sweep, plan_sweep_files
):
    assert plan_sweep_files(sweep(alphas + "metric: APFixed_r\n"))
    assert plan_sweep_files(sweep(alphas + "metric: ECE\nmode: min\n"))
    with pytest.raises(UsageError, match="mode: expected min, for a lower ECE_f is better"):
        plan_sweep_files(sweep(alphas + "metric: ECE_f\n"))


def test_two_sweeps_of_one_name_are_refused(sweep, plan_sweep_files):
    with pytest.raises(UsageError, match="expected one that no other of the sweeps has"):
        plan_sweep_files(sweep(), sweep(name="again.yaml"))


def test_more_trials_than_allowed_are_refused_off_a_terminal(sweep, store):
    path = sweep().path
    run = CliRunner().invoke(
        app, ["sweep", str(path), "--store", str(store.root), "--max-trials", "5"]
    )
    assert run.exit_code == 2
    assert "6 trials, more than --max-trials 5: give --max-trials 6 to run them all" in run.stderr


def test_plan_tells_of_trials_jobs_and_what_is_there(sweep, store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    run = CliRunner().invoke(app, ["plan", str(sweep().path), "--store", str(store.root)])
    assert run.exit_code == 0, run.output
    assert "grid, 6 trials, 1 seed," in run.output
    assert "0 of 2 jobs are in the store, 2 to run: 24 steps" in run.output


def test_finished_cells_are_found_again_by_any_sweep(
    alphas, filled, sweep, plan_sweep_files, store
):
    filled()
    text = alphas.replace("alphas", "fewer").replace("0.5, 0.85", "0.85, 0.9")
    (found,) = plan_sweep_files(sweep(text, "fewer.yaml"))
    todo = found.missing(store)
    assert [len(job.variants) for job in todo] == [2]
    assert all(v.alpha == 0.9 for v in todo[0].variants.values())


def test_population_has_keys_of_its_own(competing, sweep, plan_sweep_files):
    job = plan_sweep_files(sweep(competing))[0].jobs[-1]
    plain = competing.replace("scheduler: {type: pbt, resample: 0}\n", "")
    fewer = competing.replace("samples: 4", "samples: 3")
    others = [plan_sweep_files(sweep(text))[0].jobs[-1] for text in (plain, fewer)]
    for other in others:
        assert set(other.variants) <= set(job.variants)
        assert not set(other.variant_keys.values()) & set(job.variant_keys.values())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("variant.alpha:", "variant.indicator:"), "fields that may change while"),
        (("variant.alpha:", "stages.heads.recipe.schedule.lr:"), "fields that may change while"),
        (("search: random", "search: tpe"), "trials start together"),
        (
            ("metric: AP_f", "variants_per_job: 2"),
            "yaml: variants_per_job: expected nothing with pbt",
        ),
        (("stages.heads.recipe.evaluate_every: 5, ", ""), "expected evaluations to judge"),
    ],
)
def test_population_that_cannot_be_is_refused(competing, sweep, plan_sweep_files, change, told):
    with pytest.raises(UsageError, match=told):
        plan_sweep_files(sweep(competing.replace(*change)))
