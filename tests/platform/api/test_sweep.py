"""Sweeps of the Python API: what they plan, find and write is what the commands do."""

import json

import pytest
from typer.testing import CliRunner

import bacl_platform as bp
from bacl.errors import RunError, UsageError
from bacl_platform.cli import main as cli


@pytest.fixture
def grid(sweep, alphas, store):
    return bp.Sweep.load(sweep(alphas).path, store=store)


def test_plan_and_counts_are_of_the_file(grid):
    assert list(grid.counts.values()) == [6]
    plan = grid.plan()
    trials = plan.as_json()
    assert len(trials) == 6 and not any(trial["in_store"] for trial in trials)
    said = CliRunner().invoke(cli.app, ["plan", str(grid.files[0].path), "--store", grid.store.url])
    assert said.exit_code == 0, said.output
    assert set(said.stdout.split()) - {"│"} <= set(repr(plan).split()) | set("│━┃")
    with pytest.raises(RunError, match="run `bacl sweep"):
        grid.results()


def test_results_and_report_have_the_trials(grid, fill):
    jobs = grid.plans()[0].jobs
    aps = {(name, job.seed): 0.1 for job in jobs for name in job.variants}
    fill(jobs, aps)
    results = grid.results()
    assert sorted(results.variant)[0] == "alpha=0,threshold=0.6" and len(results) == 6
    assert (results.AP == 0.1).all()
    report = grid.report()
    assert (report.folder / "table.md").is_file()
    said = CliRunner().invoke(
        cli.app, ["report", str(grid.files[0].path), "--store", grid.store.url, "--json"]
    )
    assert json.loads(said.stdout) == report.as_json()
    assert len(report.as_json()["trials"]) == 6


def test_report_tells_what_the_best_is_worth_elsewhere(grid, fill, monkeypatch):
    jobs = grid.plans()[0].jobs
    values = iter((0.1, 0.9, 0.2, 0.3, 0.4, 0.5, 0.6))
    fill(jobs, {(name, job.seed): next(values) for job in jobs for name in job.variants})
    words = ["report", str(grid.files[0].path), "--store", grid.store.url, "--cross-fit"]
    refused = CliRunner().invoke(cli.app, words)
    assert refused.exit_code == 2 and "expected at least 40 validation images" in refused.stderr
    monkeypatch.setattr("bacl_platform.analysis.cross_fitting.FEWEST_IMAGES", 5)
    said = CliRunner().invoke(cli.app, [*words, "--json"])
    first = json.loads(said.stdout)["notes"][0]
    assert first.startswith("Cross-fitted: alpha=0,threshold=0.6 is the best of 6 by AP on all")


def test_several_files_are_planned_together_and_reported_one_by_one(sweep, alphas, store):
    other = sweep(alphas.replace("name: alphas", "name: others"), "other.yaml")
    both = bp.Sweep.load([sweep(alphas).path, other.path], store=store)
    assert [plan.file.sweep.name for plan in both.plans()] == ["alphas", "others"]
    with pytest.raises(UsageError, match="expected one sweep, got 2"):
        both.results()
