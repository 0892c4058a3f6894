"""Reports of sweeps: points beside the paper's, over seeds, and what has none."""

import json
import math
import re

import pytest
from typer.testing import CliRunner

from bacl.errors import UsageError
from bacl_platform.cli.main import app
from bacl_platform.plan.screening import confirmations
from bacl_platform.plan.sweep_memory import Notes
from bacl_platform.plan.sweep_plan import Preparation
from bacl_platform.report import sweep_report
from bacl_platform.report.result_table import files
from bacl_platform.report.result_table.columns import columns

PAPER = """
datasets: {lvis_v1: {title: Some set, categories: 9, val_images: 9, least_train_images: 9}}
tables:
  IV:
    title: alpha
    dataset: lvis_v1
    rows:
      - {trial: {alpha: 0}, points: {AP: 27.2, AP_r: 20.7}}
      - {trial: {alpha: 0.85}, points: {AP: 27.8}}
"""


def cells_of(table):
    made = columns(table)
    return [column.name for column in made], [list(c) for c in zip(*(c.cells for c in made))]


def test_report_compares_gains_with_the_papers_where_the_data_is_another(
    alphas, filled, store, tiny
):
    (tiny.parent / "paper.yaml").write_text(PAPER)
    text = alphas.replace("  variant.threshold: [0.6, 0.7]\n", "")
    text += "paper: {file: paper.yaml, table: IV}\n"
    table = sweep_report.collect(filled(text, (0.1, 0.2, 0.3)), store, True)
    head, lines = cells_of(table)
    place = head.index("AP")
    assert head[place : place + 4] == ["AP", "AP gain", "paper's AP gain", "paper's AP"]
    assert [line[place : place + 4] for line in lines] == [
        ["10.0", "+0.0", "+0.0", "27.2"],
        ["20.0", "+10.0", "-", "-"],
        ["30.0", "+20.0", "+0.6", "27.8"],
    ]
    assert "paper's AP50" not in head and "AP50 gain" not in head  # which nobody filled
    assert not any("difference" in name for name in head)
    latex, page, text = files.latex(table), files.html(table), files.markdown(table)
    assert r"\textbf{30.0} & +20.0 & +0.6 & 27.8" in latex
    assert "<td><b>30.0</b></td><td>+20.0</td><td>+0.6</td>" in page
    assert "| 0.85 |" in text
    said = (
        "The paper's points are of Some set (dataset.format lvis_v1), ours of the embedded set: "
        "compare the gains over the first row, alpha=0."
    )
    assert said in text
    trial = files.as_json(table)["trials"][2]
    assert trial["gains"]["AP"] == pytest.approx([20.0])
    assert trial["paper_gains"] == {"AP": pytest.approx(0.6)}


def test_report_subtracts_the_papers_points_where_the_data_is_the_same(
    alphas, filled, store, tiny, prepared
):
    described = (
        f"{{title: Tiny, categories: {len(prepared.categories)}, val_images: "
        f"{prepared.val.image_total}, least_train_images: {prepared.train.image_total}}}"
    )
    paper = PAPER.replace("dataset: lvis_v1", "dataset: embedded")
    text = paper.replace("datasets: {", f"datasets: {{embedded: {described}, ")
    (tiny.parent / "paper.yaml").write_text(text)
    text = alphas.replace("  variant.threshold: [0.6, 0.7]\n", "")
    text += "paper: {file: paper.yaml, table: IV}\n"
    table = sweep_report.collect(filled(text, (0.1, 0.2, 0.3)), store, True)
    head, lines = cells_of(table)
    place = head.index("AP")
    assert head[place : place + 3] == ["AP", "paper's AP", "AP difference"]
    assert [line[place : place + 3] for line in lines] == [
        ["10.0", "27.2", "-17.2"],
        ["20.0", "-", "-"],
        ["30.0", "27.8", "+2.2"],
    ]
    assert not any("gain" in name for name in head)
    assert "gains" not in files.as_json(table)["trials"][0]


def test_report_over_seeds_tells_mean_deviation_and_interval(alphas, filled, store):
    text = alphas.replace("  variant.threshold: [0.6, 0.7]\n", "").replace(
        "[0, 0.5, 0.85]", "[0.5]"
    )
    found = filled(text + "seeds: [0, 1, 2]\n", (0.1, 0.2, 0.3))
    table = sweep_report.collect(found, store, False)
    head, (line,) = cells_of(table)
    assert line[head.index("AP")].startswith("20.0 ± 10.0 [")
    assert line[head.index("seeds")] == "3"
    assert table.rows[0].found["AP"] == pytest.approx({0: 10, 1: 20, 2: 30})
    assert table.rows[0].values == {"alpha": 0.5}


def test_metric_that_is_no_number_or_missing_in_an_entry_is_left_out(filled, store, monkeypatch):
    plan = filled()
    found = [{"AP": math.nan, "AP_r": 0.1}, {"AP": 0.2}, *({"AP": 0.3, "AP75": 0.4},) * 4]
    of_cells = {cell.key: metrics for cell, metrics in zip(plan.cells, found)}
    monkeypatch.setattr(sweep_report, "result_of", lambda cell, _: of_cells[cell.key])
    table = sweep_report.collect(plan, store, False)
    assert [set(row.found) for row in table.rows[:3]] == [{"AP_r"}, {"AP"}, {"AP", "AP75"}]
    assert "nan" not in files.markdown(table).lower()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("{loguniform: [0.01, 0.02]}", {"lr"}),
        ("{uniform: [0.0001, 0.5]}", set()),
        ("{choice: [0.0001, 0.001, 0.01]}", {"lr"}),
        ("{choice: [0.01, 0.02, 0.03]}", set()),
        ("{choice: [0.001, 1]}", set()),
    ],
)
def test_fields_that_are_spaced_by_factors_are_known(
    values, expected, sweep, plan_sweep_files, store
):
    text = f"""
name: rates
base: tiny.yaml
stage: heads
variant: bacl
search: random
samples: 4
space: {{stages.heads.recipe.schedule.lr: {values}}}
"""
    (plan,) = plan_sweep_files(sweep(text))
    assert sweep_report.collect(plan, store, False).logarithmic == expected


def test_report_tells_what_failed_and_what_is_to_run(sweep, plan_sweep_files, store):
    (found,) = plan_sweep_files(sweep())
    Notes(found, store, "failed").write({found.cells[0].key: "job heads: loss is not finite"})
    rows = sweep_report.collect(found, store, False).rows
    assert [row.state for row in rows[:2]] == ["1 failed", "1 to run"]
    _, lines = cells_of(sweep_report.collect(found, store, False))
    assert lines[0][-1] == "job heads: loss is not finite"


def test_report_command_writes_all_forms_and_json(filled, store):
    file = filled().file
    run = CliRunner().invoke(app, ["report", str(file.path), "--store", str(store.root), "--json"])
    assert run.exit_code == 0, run.output
    trials = json.loads(run.output)["trials"]
    assert trials[5]["points"]["AP"] == [60.0]
    folder = store.root / "reports" / "alphas"
    assert {path.name for path in folder.iterdir()} == {
        *(f"table.{s}" for s in ("md", "html", "tex", "csv")),
        "map.png",
    }
    page = (folder / "table.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 1
    assert "(map.png)" in (folder / "table.md").read_text(encoding="utf-8")


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
    head, lines = cells_of(table)
    assert head[:8] == [
        "alpha",
        "seeds",
        "features",
        "AP replayed",
        "AP exact",
        "AP gain",
        "paper's AP gain",
        "paper's AP",
    ]
    # of the paper's rows, the first that has an exact result is what gains are over
    assert [line[:8] for line in lines] == [
        ["0", "1", "replay", "10.0", "-", "-", "-0.6", "27.2"],
        ["0.5", "1", "replay, exact", "20.0", "25.0", "+0.0", "-", "-"],
        ["0.85", "1", "replay, exact", "30.0", "25.0", "+0.0", "+0.0", "27.8"],
    ]
    assert "the gains over the first row that both have, alpha=0.85." in files.before(table)[-1]
    assert table.notes[0] == (
        "Replayed: trained on stored features, 2 views of each image; the best 2 by AP were chosen "
        "to train exactly."
    )
    assert (
        files.after(table)[-1]
        == "Of 2 confirmed, by AP, the best screened, alpha=0.85, is also the best exact."
    )
    assert "AP exact" in files.html(table) and "AP exact" in files.markdown(table)
    content = json.loads(json.dumps(files.as_json(table)))
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
    assert re.search(r"\b0 +replay +10\.0 .*\n *0\.5 ", run.output)
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
    assert cells_of(table)[1][0][:3] == ["0", "1", "replay"]


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
    head, lines = cells_of(table)
    assert head[2] == "evaluated with"
    assert [line[2] for line in lines] == ["EMA", "EMA, soft-NMS"]
    trials = files.as_json(table)["trials"]
    assert [trial["evaluated_with"] for trial in trials] == ["EMA", "EMA, soft-NMS"]
