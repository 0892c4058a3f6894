"""`bacl report`: the comparison's numbers, wherever they are shown."""

import csv
import json
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bacl.errors import RunError
from bacl_platform import cli
from bacl_platform import report as reporting

SEEDS = "seeds=[0, 1]"
THREE = "stages.heads.variants.bce={method: bce}"
APS = {
    ("features", 0): 0.1,
    ("features", 1): 0.1,
    ("bacl", 0): 0.30,
    ("bacl", 1): 0.34,
    ("softmax", 0): 0.20,
    ("softmax", 1): 0.21,
    ("bce", 0): 0.25,
    ("bce", 1): 0.25,
}
NAMES = ["features", "bacl", "softmax", "bce"]


@pytest.fixture
def plan(planned):
    return planned(SEEDS, THREE)


@pytest.fixture
def study(plan, store, fill):
    """Two seeds, a representation stage and three variants, all finished."""
    fill(plan.jobs, APS)
    return reporting.collect(plan, store, "bacl run tiny.yaml")


def bacl(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)


def cells(markdown, variant):
    """The cells of a variant's row in each table of a Markdown report."""
    lines = [line for line in markdown.splitlines() if line.startswith(f"| {variant} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_json_has_means_over_seeds_and_every_seed(study):
    content = json.loads(json.dumps(reporting.as_json(study), allow_nan=False))
    assert list(content["variants"]) == NAMES
    assert content["variants"]["bacl"] == pytest.approx(
        {"AP": 0.32, "AP50": 0.48, "AP75": 0.32, "AP_r": 0.08, "AP_c": 0.16, "AP_f": 0.32}
    )
    assert content["seeds"]["1"]["bacl"]["AP"] == 0.34
    assert content["keys"]["0"]["bacl"] == content["keys"]["0"]["softmax"] == study.finished[1].key
    (evaluator,) = content["evaluators"]
    assert evaluator == {"name": "hotcoco", "version": "1.3.0", "ground_truth_sha256": "0" * 64}
    assert content["unfinished"] == []


def test_markdown_shows_points_with_deviation_difference_and_best(study):
    text = reporting.markdown(study, [], "bacl run tiny.yaml")
    main, difference, *checkpoints = cells(text, "bacl")
    # over the seeds 30 and 34: mean 32, standard deviation 2.83; the best of all variants
    assert main[:3] == ["bacl", "2", "**32.0 ± 2.8**"]
    assert main[5] == "**8.0 ± 0.7**"
    # seed by seed 10 and 13 above softmax
    assert difference[:2] == ["bacl", "+11.5 ± 2.1"]
    assert [row[1] for row in checkpoints] == ["0", "1"]
    assert cells(text, "bce")[0][2] == "25.0 ± 0.0"
    assert cells(text, "softmax")[1][1] != "+0.0"  # a baseline has no difference row
    assert "Not in the store" not in text


def test_single_seed_is_shown_without_deviation(planned, store, fill):
    plan = planned()
    fill(plan.jobs, APS)
    report = reporting.collect(plan, store, "")
    row = next(row for row in reporting.rows(report) if row.name == "bacl")
    assert row.cells["AP"] == "30.0"
    assert row.differences["AP"] == "+10.0"
    assert reporting._legend(report).startswith("AP in points; categories: ")


def test_equal_values_are_all_best(plan, store, fill):
    fill(plan.jobs, dict.fromkeys(APS, 0.2))
    rows = reporting.rows(reporting.collect(plan, store, ""))
    assert all(row.best == set(reporting.METRICS) for row in rows)


def test_group_without_categories_is_a_dash_and_null(plan, store, fill):
    fill(plan.jobs, APS, rare=False)
    report = reporting.collect(plan, store, "")
    assert reporting.as_json(report)["variants"]["bacl"]["AP_r"] is None
    row = next(row for row in reporting.rows(report) if row.name == "bacl")
    assert row.cells["AP_r"] == row.differences["AP_r"] == "–"
    assert not any("AP_r" in row.best for row in reporting.rows(report))
    lines = list(csv.DictReader(reporting.per_category(report).splitlines()))
    assert {line["AP bacl"] for line in lines if line["frequency"] == "r"} == {""}


def test_per_category_csv_has_a_row_for_each_category(study, prepared):
    lines = list(csv.DictReader(reporting.per_category(study).splitlines()))
    assert [int(line["id"]) for line in lines] == [c.id for c in prepared.categories]
    assert [line["name"] for line in lines] == [c.name for c in prepared.categories]
    assert list(lines[0])[5:] == [f"AP {name}" for name in NAMES]
    frequent = next(line for line in lines if line["frequency"] == "f")
    assert float(frequent["AP bacl"]) == pytest.approx(0.32)


def test_seed_without_baseline_counts_for_the_mean_only(plan, store, fill):
    features, heads = plan.jobs[:2]
    other = plan.jobs[2:]
    fill([features, heads, *other[:1]], APS)
    report = reporting.collect(plan, store, "bacl run tiny.yaml")
    assert report.values("features", "AP") == [0.1, 0.1]
    assert report.differences("features", "AP") == pytest.approx([-0.1])
    seeds = {row.name: row.seeds for row in reporting.rows(report)}
    assert seeds == {"features": 2, "bacl": 1, "softmax": 1, "bce": 1}


def test_unfinished_jobs_are_named_with_what_to_run(plan, store, fill):
    fill(plan.jobs[:2], APS)
    report = reporting.collect(plan, store, "")
    assert list(reporting._notes(report, "bacl run tiny.yaml")) == [
        "Not in the store yet: features seed 1, heads seed 1. "
        "`bacl run tiny.yaml` runs what is missing."
    ]
    assert reporting.as_json(report)["unfinished"] == ["features seed 1", "heads seed 1"]


def test_nothing_finished_is_an_error_with_what_to_run(plan, store):
    with pytest.raises(RunError, match=r"no job of tiny .* run `bacl run tiny.yaml` first"):
        reporting.collect(plan, store, "bacl run tiny.yaml")


def test_entry_that_does_not_hold_what_its_manifest_says_is_unfinished(plan, store, fill):
    fill(plan.jobs, APS)
    damaged = plan.jobs[1]
    (store.entry(damaged.key) / "variants/bacl/metrics.json").write_text("{}")
    assert reporting.collect(plan, store, "").unfinished == [damaged]


def test_different_evaluators_are_told(study):
    study.results[0].evaluator["version"] = "1.4.0"
    (note,) = reporting._notes(study, "")
    assert note.startswith("Not all rows compare") and "1.3.0" in note and "1.4.0" in note


def test_terminal_table_fits_eighty_columns(study):
    console = Console(width=80, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(reporting.table(study))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line.split() for line in lines if line.startswith("bacl")]
    assert row[:2] == ["bacl", "32.0±2.8*"]


def test_terminal_table_counts_seeds_where_they_differ(plan, store, fill):
    fill(plan.jobs[:3], APS)
    table = reporting.table(reporting.collect(plan, store, ""))
    assert [column.header for column in table.columns][:2] == ["variant", "seeds"]
    assert list(table.columns[1].cells) == ["2", "1", "1", "1"]


def test_files_are_written_and_the_page_needs_no_other(study, tmp_path):
    out = tmp_path / "report"
    reporting.write(study, out, "bacl run tiny.yaml")
    pictures = re.findall(r"!\[.*\]\((.*)\)", (out / "report.md").read_text())
    assert pictures == [
        "ap_by_group.png",
        "weight_norms.png",
        "training_features.png",
        "training_heads.png",
    ]
    for name in pictures:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="(.{20})', page)
    assert sources == ["data:image/png;base6"] * 4
    assert "<b>32.0 ± 2.8</b><small>+11.5 ± 2.1</small>" in page


def test_command_prints_table_and_places(tiny, plan, store, fill):
    fill(plan.jobs[:2], APS)
    done = bacl("report", tiny, "--store", store.root, "--set", SEEDS, "--set", THREE)
    assert done.exit_code == 0
    assert "30.0*" in done.stdout
    assert "Not in the store yet: features seed 1, heads seed 1." in done.stdout
    assert f"`bacl run {tiny} --store {store.root} --set 'seeds=[0, 1]'" in done.stdout
    entry = store.entry(plan.jobs[1].key)
    assert f"{entry}/variants/{{bacl,softmax,bce}}/checkpoint.pth" in done.stdout
    assert f"bacl ui --store {store.root}" in done.stdout
    assert (store.root / "reports/tiny/report.html").is_file()


def test_command_with_json_prints_json_only(tiny, plan, store, fill, tmp_path):
    fill(plan.jobs, APS)
    places = ["--store", store.root, "--out", tmp_path / "here"]
    done = bacl("report", tiny, "--json", *places, "--set", SEEDS, "--set", THREE)
    assert list(json.loads(done.stdout)["variants"]) == NAMES
    assert (tmp_path / "here/per_category.csv").is_file()


def test_command_before_any_run_fails_in_a_sentence(tiny, store, prepared):
    done = bacl("report", tiny, "--store", store.root)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: no job of tiny is in the store .*\n", done.stderr)
