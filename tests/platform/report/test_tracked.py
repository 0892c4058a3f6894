"""What MLflow shows of a plan or sweep: quick reports."""

from bacl_platform.report.result_table.files import summary
from bacl_platform.report.sweep_report import collect
from bacl_platform.report.tracked import ROWS, plan_page, sweep_page


def test_page_of_an_experiment_is_its_quick_report(two_seeds, store, fill, rival_aps):
    fill(two_seeds.jobs, rival_aps)
    page = plan_page(two_seeds, store, "bacl run tiny.yaml")
    folder, text = page.made()
    files = {file.name for file in folder.iterdir()}
    assert {"report.html", "report.md", "per_category.csv"} <= files
    assert any(name.endswith(".png") for name in files)
    assert not any(word in text for word in ("# tiny", "Where the AP is lost"))
    (row,) = [line for line in text.splitlines() if line.startswith("| bacl ")]
    assert "**82.0 ± 2.8**" in row
    assert "Where the AP is lost" not in (folder / "report.html").read_text(encoding="utf-8")


def test_page_changes_with_what_is_finished_and_with_the_experiment(
    planned, store, fill, rival_aps
):
    plan = planned()
    assert plan_page(plan, store, "") is None
    fill(plan.jobs[:1], rival_aps)
    first = plan_page(plan, store, "bacl run tiny.yaml")
    assert "Not in the store yet: heads. `bacl run tiny.yaml` runs" in first.made()[1]
    fill(plan.jobs[1:], rival_aps)
    second, other = plan_page(plan, store, ""), plan_page(planned("baseline=bacl"), store, "")
    assert len({first.state, second.state, other.state}) == 3
    assert plan_page(plan, store, "").state == second.state


def test_page_of_a_sweep_has_its_best_trials_first(filled, store):
    plan = filled()
    page = sweep_page(plan, store, None)
    folder, text = page.made()
    assert {file.name for file in folder.iterdir()} >= {"table.html", "table.csv"}
    rows = [line for line in text.splitlines() if line.startswith("| 0")]
    points = [float(row.split("|")[4].strip(" *")) for row in rows]
    assert points == [60, 50, 40, 30, 20, 10]
    short = summary(collect(plan, store, with_paper=False), 2)
    assert "\n4 more are in the report.\n" in short and "| **60.0** " in short
    assert "| 40.0 " not in short and len(rows) < ROWS


def test_sweep_without_a_finished_trial_has_no_page(sweep, plan_sweep_files, store):
    (plan,) = plan_sweep_files(sweep())
    assert sweep_page(plan, store, None) is None
