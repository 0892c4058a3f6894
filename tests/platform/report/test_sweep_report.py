"""Reports of sweeps: points beside the paper's, over seeds, and what has none."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from bacl.errors import UsageError
from bacl_platform.cli.main import app
from bacl_platform.plan.screening import confirmations
from bacl_platform.plan.sweep_memory import Notes
from bacl_platform.plan.sweep_plan import Preparation
from bacl_platform.report import sweep_report

PAPER = """
tables:
  IV:
    title: alpha
    rows:
      - {trial: {alpha: 0}, points: {AP: 27.2, AP_r: 20.7}}
      - {trial: {alpha: 0.85}, points: {AP: 27.8}}
"""


def test_report_sets_the_papers_points_beside_ours(alphas, filled, store, tiny):
    (tiny.parent / "paper.yaml").write_text(PAPER)
    text = alphas.replace("  variant.threshold: [0.6, 0.7]\n", "")
    text += "paper: {file: paper.yaml, table: IV}\n"
    table = sweep_report.collect(filled(text, (0.1, 0.2, 0.3)), store, True)
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


def test_report_over_seeds_tells_mean_deviation_and_interval(alphas, filled, store):
    text = alphas.replace("  variant.threshold: [0.6, 0.7]\n", "").replace(
        "[0, 0.5, 0.85]", "[0.5]"
    )
    found = filled(text + "seeds: [0, 1, 2]\n", (0.1, 0.2, 0.3))
    table = sweep_report.collect(found, store, False)
    head, (line,) = sweep_report.cells_of(table)
    assert line[head.index("AP")].startswith("20.0 ± 10.0 [")
    assert line[head.index("seeds")] == "3"


def test_interval_of_a_mean_equals_the_exact_bootstrap_of_three_values():
    values = [1.0, 2.0, 6.0]
    means = sorted(np.mean([a, b, c]) for a in values for b in values for c in values)
    low, high = np.percentile(means, [2.5, 97.5], method="inverted_cdf")
    assert sweep_report.interval(values) == pytest.approx((low, high), abs=0.01)


def test_report_tells_what_failed_and_what_is_to_run(sweep, plan_sweep_files, store):
    (found,) = plan_sweep_files(sweep())
    Notes(found, store, "failed").write({found.cells[0].key: "job heads: loss is not finite"})
    rows = sweep_report.collect(found, store, False).rows
    assert [row.state for row in rows[:2]] == ["1 failed", "1 to run"]
    _, lines = sweep_report.cells_of(sweep_report.collect(found, store, False))
    assert lines[0][-1] == "job heads: loss is not finite"


def test_report_command_writes_all_forms_and_json(filled, store):
    file = filled().file
    run = CliRunner().invoke(app, ["report", str(file.path), "--store", str(store.root), "--json"])
    assert run.exit_code == 0, run.output
    trials = json.loads(run.output)["trials"]
    assert trials[5]["points"]["AP"] == [60.0]
    folder = store.root / "reports" / "alphas"
    assert {path.name for path in folder.iterdir()} == {
        f"table.{s}" for s in ("md", "html", "tex", "csv")
    }


SCREEN = """
name: screened
base: tiny.yaml
stage: heads
variant: bacl
space: {variant.alpha: [0, 0.5, 0.85]}
screen: {confirm: 2}
"""


def test_screened_sweep_has_both_columns_and_says_how_the_ranks_agree(filled, fill, store, tiny):
    (tiny.parent / "paper.yaml").write_text(PAPER)
    plan = filled(SCREEN + "paper: {file: paper.yaml, table: IV}\n", (0.1, 0.2, 0.3))
    (confirmed,) = confirmations([plan], Preparation(store), store)
    table = sweep_report.collect(plan, store, True, confirmed)
    assert [row.state for row in table.rows] == ["done", "1 to run exactly", "1 to run exactly"]
    fill(confirmed.missing(store), {(c.trial.variant, 0): 0.25 for c in confirmed.cells})
    (confirmed,) = confirmations([plan], Preparation(store), store)
    table = sweep_report.collect(plan, store, True, confirmed)
    head, lines = sweep_report.cells_of(table)
    assert head[:7] == [
        "alpha",
        "seeds",
        "features",
        "AP replayed",
        "AP exact",
        "paper",
        "difference",
    ]
    assert [line[:7] for line in lines] == [
        ["0", "1", "replay", "10.0", "-", "27.2", "-"],
        ["0.5", "1", "replay, exact", "20.0", "25.0", "-", "-"],
        ["0.85", "1", "replay, exact", "30.0", "25.0", "27.8", "-2.8"],
    ]
    assert table.notes[0] == (
        "Replayed: trained on stored features, 2 views of each image; the best 2 by AP were chosen "
        "to train exactly."
    )
    assert (
        table.notes[-1]
        == "Of 2 confirmed, by AP, the best screened, alpha=0.85, is also the best exact."
    )
    assert "AP exact" in sweep_report.html(table) and "AP exact" in sweep_report.markdown(table)
    content = json.loads(json.dumps(sweep_report.as_json(table)))
    assert content["trials"][2]["exact"]["AP"] == [25.0]
    assert content["trials"][2]["features"] == "replay"
    assert content["agreement"]["trials"] == 2


def test_screened_sweep_has_exact_points_below_on_a_terminal(filled, fill, store):
    plan = filled(SCREEN, (0.1, 0.2, 0.3))
    (confirmed,) = confirmations([plan], Preparation(store), store)
    fill(confirmed.missing(store), {(c.trial.variant, 0): 0.25 for c in confirmed.cells})
    run = CliRunner().invoke(app, ["report", str(plan.file.path), "--store", str(store.root)])
    assert run.exit_code == 0, run.output
    assert re.search(r"0\.85 +replay +30\.0 .*\n +exact +25\.0 ", run.output)
    assert re.search(r"\b0 +replay +10\.0 .*\n +0\.5 ", run.output)
    assert "Replayed: trained on stored" in run.output


def test_replayed_sweep_is_beside_the_paper_only_if_asked(
    tiny, sweep, plan_sweep_files, fill, store
):
    (tiny.parent / "paper.yaml").write_text(PAPER)
    stage = "  kept: {kind: features, after: features}\n  heads:"
    content = (
        tiny.read_text().replace("  heads:", stage).replace("after: features\n", "after: kept\n")
    )
    head, last = content.split("    recipe: *recipe")
    tiny.write_text(head + "    recipe: {<<: *recipe, features: replay}" + last)
    text = SCREEN.replace("screen: {confirm: 2}", "paper: {file: paper.yaml, table: IV}")
    (plan,) = plan_sweep_files(sweep(text))
    fill(plan.jobs, {("features", 0): 0.0} | {(c.trial.variant, 0): 0.2 for c in plan.cells})
    (plan,) = plan_sweep_files(sweep(text))
    with pytest.raises(UsageError, match=r"yaml: 0; 0.85: replayed .* let --mixed"):
        sweep_report.collect(plan, store, True)
    table = sweep_report.collect(plan, store, True, mixed=True)
    assert table.notes[0].startswith("MIXED: ")
    assert sweep_report.cells_of(table)[1][0][:3] == ["0", "1", "replay"]


SOFTLY = """
name: softly
base: tiny.yaml
stage: heads
variant: softmax
fixed: {stages.heads.recipe.ema: {momentum: 0.1}}
space:
  stages.heads.recipe.soft_nms: [null, {method: linear}]
"""


def test_trials_say_with_what_they_were_evaluated(filled, store):
    table = sweep_report.collect(filled(SOFTLY, (0.1, 0.2)), store, False)
    head, lines = sweep_report.cells_of(table)
    assert head[2] == "evaluated with"
    assert [line[2] for line in lines] == ["EMA", "EMA, soft-NMS"]
    trials = sweep_report.as_json(table)["trials"]
    assert [trial["evaluated_with"] for trial in trials] == ["EMA", "EMA, soft-NMS"]
