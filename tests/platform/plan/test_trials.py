"""Sweep files: trials, what is packed together, what is said of mistakes, tables."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bacl.errors import UsageError
from bacl_platform.cli.main import app
from bacl_platform.plan.sweep_memory import Notes
from bacl_platform.plan.sweep_plan import Preparation, plan_sweeps
from bacl_platform.plan.trials import SweepFile
from bacl_platform.report import sweep_report
from bacl_platform.spec.space import Axis

ALPHA = """
name: alphas
base: tiny.yaml
stage: heads
variant: bacl
space:
  variant.alpha: [0, 0.5, 0.85]
  variant.threshold: [0.6, 0.7]
"""


@pytest.fixture
def sweep(tiny):
    """Writes a sweep file beside the tiny experiment and reads it."""

    def written(text=ALPHA, name="sweep.yaml", overrides=()):
        path = tiny.parent / name
        path.write_text(text)
        return SweepFile(path, overrides)

    return written


@pytest.fixture
def plan(store):
    def planned(*files):
        trials = [file.trials(store) for file in files]
        return plan_sweeps(files, trials, Preparation(store), store)

    return planned


def test_grid_has_each_combination_in_one_bank(sweep, plan, store):
    (found,) = plan(sweep())
    assert [c.trial.label for c in found.cells][:2] == [
        "alpha=0, threshold=0.6",
        "alpha=0, threshold=0.7",
    ]
    assert len({cell.key for cell in found.cells}) == 6
    assert [(job.stage, len(job.variants)) for job in found.jobs] == [("features", 1), ("heads", 6)]


def test_trials_of_several_sweeps_share_banks_and_equal_ones_are_one(sweep, plan):
    one = sweep()
    other = sweep(ALPHA.replace("alphas", "more").replace("0.85]", "1.0]"), "more.yaml")
    plans = plan(one, other)
    (bank,) = {
        job.key: job for found in plans for job in found.jobs if job.stage == "heads"
    }.values()
    assert len(bank.variants) == 8
    keys = [{cell.key for cell in found.cells} for found in plans]
    assert len(keys[0] & keys[1]) == 4


def test_field_outside_the_variant_needs_a_job_of_its_own(sweep, plan):
    text = ALPHA.replace("variant.threshold: [0.6, 0.7]", "stages.heads.recipe.proposals: [40, 50]")
    (found,) = plan(sweep(text))
    assert [len(job.variants) for job in found.jobs if job.stage == "heads"] == [3, 3]
    assert sum(job.stage == "features" for job in found.jobs) == 1


def test_variants_per_job_and_seeds_make_more_jobs(sweep, plan):
    (found,) = plan(sweep(ALPHA + "variants_per_job: 4\nseeds: [0, 1]\n"))
    heads = [job for job in found.jobs if job.stage == "heads"]
    assert sorted((job.seed, len(job.variants)) for job in heads) == [
        (0, 2),
        (0, 4),
        (1, 2),
        (1, 4),
    ]
    assert len(found.cells) == 12


def test_conditional_field_counts_only_with_the_values_it_names(sweep):
    text = ALPHA.replace(
        "variant.threshold: [0.6, 0.7]",
        "variant.weight_term: [both, none]\n"
        "  variant.threshold: {choice: [0.6, 0.7], when: {variant.weight_term: both}}",
    )
    values = list(sweep(text).sweep.values())
    assert len(values) == 3 * (2 + 1)
    assert all(("variant.threshold" in v) == (v["variant.weight_term"] == "both") for v in values)


def test_null_and_mapping_are_values(sweep, store):
    text = ALPHA.replace(
        "variant.threshold: [0.6, 0.7]", "variant.hallucination: [null, {categories: 4}]"
    )
    trials = sweep(text).trials(store)
    made = [t.experiment.stages["heads"].variants[t.variant].hallucination for t in trials]
    assert [m and m.categories for m in made] == [None, 4] * 3


def test_random_search_draws_the_same_trials_again(sweep):
    text = ALPHA.replace("[0, 0.5, 0.85]", "{uniform: [0, 1]}") + "search: random\nsamples: 5\n"
    once, again = (list(sweep(text).sweep.values()) for _ in range(2))
    assert once == again and len(once) == 5
    other = list(sweep(text + "search_seed: 1\n").sweep.values())
    assert other != once


def test_ranges_draw_from_their_distributions():
    draw = np.random.default_rng(0)
    logs = [math.log10(Axis(loguniform=(1e-4, 1)).draw(draw)) for _ in range(4000)]
    counts, _ = np.histogram(logs, bins=4, range=(-4, 0))
    assert ((counts - 1000) ** 2 / 1000).sum() < 16.3  # chi-square, 3 degrees, p = 0.001
    whole = [Axis(randint=(1, 3)).draw(draw) for _ in range(3000)]
    assert ((np.bincount(whole)[1:] - 1000) ** 2 / 1000).sum() < 13.8


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("variant.alpha: [0, 0.5, 0.85]", "variant.alpah: [0]"), "alpah: unknown field, did you"),
        (("[0.6, 0.7]", "[high]"), r"variant\.threshold: expected a number .* got 'high'"),
        (("[0.6, 0.7]", "[]"), "space"),
        (("[0.6, 0.7]", "{uniform: [0.5, 0.9]}"), "a grid expects a list of values"),
        (("[0.6, 0.7]", "{uniform: [0.9, 0.5]}"), "expected low < high, got 0.9 and 0.5"),
        (
            ("stage: heads", "stage: head"),
            r"stage: expected one of tiny.yaml's \(features, heads\)",
        ),
        (("variant: bacl", "variant: bacI"), "expected settings, or one of the stage's variants"),
        (("variant: bacl\n", ""), "got nothing"),
        (("variant.alpha", "stages.heads.kind.x"), "there is no `x`"),
        (("variant: bacl", "search: tpe\nvariant: bacl"), "samples: expected how many trials"),
        (
            ("variant: bacl", "scheduler: {type: hyper}\nvariant: bacl"),
            "expected one of asha, median, pbt",
        ),
    ],
)
def test_mistakes_are_told_in_a_sentence(sweep, store, change, problem):
    with pytest.raises(UsageError, match=problem) as told:
        sweep(ALPHA.replace(*change)).trials(store)
    assert str(told.value).startswith(str(told.value).split(": ")[0])
    assert "sweep.yaml" in str(told.value)


def test_scheduler_without_evaluations_on_the_way_is_refused(sweep, plan):
    with pytest.raises(UsageError, match=r"scheduler: expected .*evaluate_every"):
        plan(sweep(ALPHA + "scheduler: {type: asha}\n"))


def test_metric_that_nobody_logs_is_refused(sweep, plan):
    with pytest.raises(UsageError, match=r"metric: expected one of AP, AP50, .* got 'AR'"):
        plan(sweep(ALPHA + "metric: AR\n"))


def test_two_sweeps_of_one_name_are_refused(sweep, plan):
    with pytest.raises(UsageError, match="expected one that no other of the sweeps has"):
        plan(sweep(), sweep(name="again.yaml"))


def test_more_trials_than_allowed_are_refused_off_a_terminal(sweep, store):
    path = sweep().path
    run = CliRunner().invoke(
        app, ["sweep", str(path), "--store", str(store.root), "--max-trials", "5"]
    )
    assert run.exit_code == 2
    assert "6 trials, more than --max-trials 5: say --max-trials 6 to run them all" in run.stderr


def test_plan_tells_of_trials_jobs_and_what_is_there(sweep, store, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    run = CliRunner().invoke(app, ["plan", str(sweep().path), "--store", str(store.root)])
    assert run.exit_code == 0, run.output
    assert "grid, 6 trials, 1 seeds" in run.output
    assert "0 of 2 jobs are in the store, 2 to run: 24 steps" in run.output


def filled(sweep, plan, fill, text=ALPHA, aps=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6)):
    (found,) = plan(sweep(text))
    of_cells = {(c.trial.variant, c.seed): ap for c, ap in zip(found.cells, aps, strict=True)}
    of_features = {("features", seed): 0.0 for seed in {cell.seed for cell in found.cells}}
    fill(found.jobs, {**of_cells, **of_features})
    (found,) = plan(sweep(text))
    return found


def test_finished_cells_are_found_again_by_any_sweep(sweep, plan, fill, store):
    filled(sweep, plan, fill)
    text = ALPHA.replace("alphas", "fewer").replace("0.5, 0.85", "0.85, 0.9")
    (found,) = plan(sweep(text, "fewer.yaml"))
    todo = found.missing(store)
    assert [len(job.variants) for job in todo] == [2]
    assert all(v.alpha == 0.9 for v in todo[0].variants.values())


PAPER = """
tables:
  IV:
    title: alpha
    rows:
      - {trial: {alpha: 0}, points: {AP: 27.2, AP_r: 20.7}}
      - {trial: {alpha: 0.85}, points: {AP: 27.8}}
"""


def test_report_sets_the_papers_points_beside_ours(sweep, plan, fill, store, tiny):
    (tiny.parent / "paper.yaml").write_text(PAPER)
    text = ALPHA.replace("  variant.threshold: [0.6, 0.7]\n", "")
    text += "paper: {file: paper.yaml, table: IV}\n"
    table = sweep_report.collect(filled(sweep, plan, fill, text, (0.1, 0.2, 0.3)), store, True)
    head, lines = sweep_report.cells_of(table)
    place = head.index("AP")
    assert head[place : place + 3] == ["AP", "paper", "difference"]
    assert [line[place : place + 3] for line in lines] == [
        ["10.0", "27.2", "-17.2"],
        ["20.0", "-", "-"],
        ["30.0", "27.8", "+2.2"],
    ]
    assert r"27.2 & -17.2" in sweep_report.latex(table)
    assert "<td>-17.2</td>" in sweep_report.html(table)
    assert "| 0.85 |" in sweep_report.markdown(table)


def test_report_over_seeds_tells_mean_deviation_and_interval(sweep, plan, fill, store):
    text = ALPHA.replace("  variant.threshold: [0.6, 0.7]\n", "").replace("[0, 0.5, 0.85]", "[0.5]")
    found = filled(sweep, plan, fill, text + "seeds: [0, 1, 2]\n", (0.1, 0.2, 0.3))
    table = sweep_report.collect(found, store, False)
    head, (line,) = sweep_report.cells_of(table)
    assert line[head.index("AP")].startswith("20.0 ± 10.0 [")
    assert line[head.index("seeds")] == "3"


def test_interval_of_a_mean_equals_the_exact_bootstrap_of_three_values():
    values = [1.0, 2.0, 6.0]
    means = sorted(np.mean([a, b, c]) for a in values for b in values for c in values)
    low, high = np.percentile(means, [2.5, 97.5], method="inverted_cdf")
    assert sweep_report.interval(values) == pytest.approx((low, high), abs=0.01)


def test_report_tells_what_failed_and_what_is_to_run(sweep, plan, store):
    (found,) = plan(sweep())
    Notes(found, store, "failed").write({found.cells[0].key: "job heads: loss is not finite"})
    rows = sweep_report.collect(found, store, False).rows
    assert [row.state for row in rows[:2]] == ["1 failed", "1 to run"]
    _, lines = sweep_report.cells_of(sweep_report.collect(found, store, False))
    assert lines[0][-1] == "job heads: loss is not finite"


def test_report_command_writes_all_forms_and_json(sweep, plan, fill, store):
    file = filled(sweep, plan, fill).file
    run = CliRunner().invoke(app, ["report", str(file.path), "--store", str(store.root), "--json"])
    assert run.exit_code == 0, run.output
    trials = json.loads(run.output)["trials"]
    assert trials[5]["points"]["AP"] == [60.0]
    folder = store.root / "reports" / "alphas"
    assert {path.name for path in folder.iterdir()} == {
        f"table.{s}" for s in ("md", "html", "tex", "csv")
    }


FOLDER = Path(__file__).parents[3] / "experiments"
SWEEPS = sorted((FOLDER / "sweeps").rglob("*.yaml"))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_sweep_of_the_project_makes_trials_and_finds_its_rows_in_the_paper(
    path, store, monkeypatch
):
    monkeypatch.setenv("BACL_DATA", "/data")
    file = SweepFile(path)
    if file.sweep.search == "tpe":  # there are none until they are proposed
        assert file.trials(store) == [] and file.example().stage == "classifier"
        return
    trials = file.trials(store)
    assert len(trials) > 1
    if file.sweep.paper is not None:
        _, printed = sweep_report.printed(file)
        for match, points in printed:
            found = [trial for trial in trials if match.items() <= trial.varied.items()]
            assert len(found) == 1 and points, match
        assert path.stem != "table3" or len(printed) == len(trials) == 8


def test_population_has_keys_of_its_own(competing, sweep, plan):
    job = plan(sweep(competing))[0].jobs[-1]
    plain = competing.replace("scheduler: {type: pbt, resample: 0}\n", "")
    fewer = competing.replace("samples: 4", "samples: 3")
    others = [plan(sweep(text))[0].jobs[-1] for text in (plain, fewer)]
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
def test_population_that_cannot_be_is_refused(competing, sweep, plan, change, told):
    with pytest.raises(UsageError, match=told):
        plan(sweep(competing.replace(*change)))
