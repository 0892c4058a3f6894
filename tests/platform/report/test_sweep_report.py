"""Reports of sweeps: points beside the paper's, over seeds, and what has none."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from bacl_platform.cli.main import app
from bacl_platform.plan.sweep_memory import Notes
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
