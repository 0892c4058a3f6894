"""`bacl report`: the comparison's numbers, wherever they are shown."""

import base64
import csv
import dataclasses
import json
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from bacl.settings import Groups
from bacl_platform.analysis import results
from bacl_platform.cli import main as cli
from bacl_platform.report import experiment_report
from bacl_platform.report.pages import Section, Shown, Table

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
    return results.collect(plan, store, "bacl run tiny.yaml")


def bacl(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)


def cells(markdown, variant):
    """The cells of a variant's row in each table of a Markdown report."""
    lines = [line for line in markdown.splitlines() if line.startswith(f"| {variant} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_json_has_means_over_seeds_and_every_seed(study):
    content = json.loads(json.dumps(experiment_report.as_json(study), allow_nan=False))
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
    text = experiment_report.markdown(study, [], "bacl run tiny.yaml")
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
    report = results.collect(plan, store, "")
    row = next(row for row in experiment_report.rows(report) if row.name == "bacl")
    assert row.cells["AP"] == "30.0"
    assert row.differences["AP"] == "+10.0"
    assert experiment_report.legend(report).startswith("AP in points; categories: ")


def test_equal_values_are_all_best(plan, store, fill):
    fill(plan.jobs, dict.fromkeys(APS, 0.2))
    report = results.collect(plan, store, "")
    rows = experiment_report.rows(report)
    assert all(row.best == set(report.metrics) for row in rows)


def test_group_without_categories_is_a_dash_and_null(plan, store, fill):
    fill(plan.jobs, APS, rare=False)
    report = results.collect(plan, store, "")
    assert experiment_report.as_json(report)["variants"]["bacl"]["AP_r"] is None
    row = next(row for row in experiment_report.rows(report) if row.name == "bacl")
    assert row.cells["AP_r"] == row.differences["AP_r"] == "–"
    assert not any("AP_r" in row.best for row in experiment_report.rows(report))
    lines = list(csv.DictReader(experiment_report.per_category(report).splitlines()))
    assert {line["AP bacl"] for line in lines if line["frequency"] == "r"} == {""}


def test_per_category_csv_has_a_row_for_each_category(study, prepared):
    lines = list(csv.DictReader(experiment_report.per_category(study).splitlines()))
    assert [int(line["id"]) for line in lines] == [c.id for c in prepared.categories]
    assert [line["name"] for line in lines] == [c.name for c in prepared.categories]
    assert list(lines[0])[5:] == [f"AP {name}" for name in NAMES]
    frequent = next(line for line in lines if line["frequency"] == "f")
    assert float(frequent["AP bacl"]) == pytest.approx(0.32)


def test_mask_metrics_have_a_table_and_a_column_of_their_own(study):
    for result in study.results:
        result.metrics.update({f"mask_{k}": v / 2 for k, v in list(result.metrics.items())})
        for row in result.categories:
            row["mask_AP"] = row["AP"] / 2
    assert study.kinds["mask_AP"] == [f"mask_{name}" for name in study.kinds["AP"]]
    text = experiment_report.markdown(study, [], "")
    assert [row[2] for row in cells(text, "bacl")[:2]] == ["**32.0 ± 2.8**", "**16.0 ± 1.4**"]
    assert "<td><b>16.0 ± 1.4</b><small>" in experiment_report.html(study, [], "")
    assert experiment_report.as_json(study)["variants"]["bacl"]["mask_AP_r"] == pytest.approx(0.04)
    line = next(csv.DictReader(experiment_report.per_category(study).splitlines()))
    assert float(line["mask_AP bacl"]) == pytest.approx(float(line["AP bacl"]) / 2)


def test_groups_of_ones_own_are_told_by_their_counts(study):
    named = {"r": "1", "c": "2", "f": "3"}
    for category in study.results[0].categories:
        category["frequency"] = named[category["frequency"]]
    groups = Groups(by="instances", bounds=[19, 399], names=["1", "2", "3"])
    own = study.prepared.model_copy(update={"groups": groups})
    legend = experiment_report.legend(dataclasses.replace(study, prepared=own))
    assert re.search(
        r"\d+ group 1 \(0-19 instances\), \d+ group 2 \(20-399 instances\), \d+ group 3 \(400\+",
        legend,
    )


def test_seed_without_baseline_counts_for_the_mean_only(plan, store, fill):
    features, heads = plan.jobs[:2]
    other = plan.jobs[2:]
    fill([features, heads, *other[:1]], APS)
    report = results.collect(plan, store, "bacl run tiny.yaml")
    assert report.values("features", "AP") == [0.1, 0.1]
    assert report.differences("features", "AP") == pytest.approx([-0.1])
    seeds = {row.name: row.seeds for row in experiment_report.rows(report)}
    assert seeds == {"features": 2, "bacl": 1, "softmax": 1, "bce": 1}


def test_unfinished_jobs_are_named_with_what_to_run(plan, store, fill):
    fill(plan.jobs[:2], APS)
    report = results.collect(plan, store, "")
    assert list(experiment_report._notes(report, "bacl run tiny.yaml")) == [
        "Not in the store yet: features seed 1, heads seed 1. "
        "`bacl run tiny.yaml` runs what is missing."
    ]
    assert experiment_report.as_json(report)["unfinished"] == ["features seed 1", "heads seed 1"]


def test_different_evaluators_are_told(study):
    study.results[0].evaluator["version"] = "1.4.0"
    (note,) = experiment_report._notes(study, "")
    assert note.startswith("Not all rows compare") and "1.3.0" in note and "1.4.0" in note


def test_terminal_table_fits_eighty_columns(study):
    console = Console(width=80, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(experiment_report.table(study, study.metrics))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line.split() for line in lines if line.startswith("bacl")]
    assert row[:2] == ["bacl", "32.0±2.8*"]


def test_terminal_table_counts_seeds_where_they_differ(plan, store, fill):
    fill(plan.jobs[:3], APS)
    report = results.collect(plan, store, "")
    table = experiment_report.table(report, report.metrics)
    assert [column.header for column in table.columns][:2] == ["variant", "seeds"]
    assert list(table.columns[1].cells) == ["2", "1", "1", "1"]


def test_files_are_written_and_the_page_needs_no_other(study, tmp_path):
    out = tmp_path / "report"
    experiment_report.write(study, out, "bacl run tiny.yaml")
    pictures = re.findall(r"!\[.*\]\((.*)\)", (out / "report.md").read_text())
    assert pictures == [
        "ap_by_group.png",
        "ap_by_variant.png",
        "ap_by_count.png",
        "weight_norms.png",
        "training_features.png",
        "training_heads.png",
    ]
    for name in pictures:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="(.{20})', page)
    assert sources == ["data:image/png;base6"] * 6
    assert "<b>32.0 ± 2.8</b><small>+11.5 ± 2.1</small>" in page


def test_sections_come_with_their_tables_and_pictures(study, tmp_path):
    table = Table(["pair", "bacl"], [["cup ← mug", "3 of 5"]])
    shown = Shown("scene.png", "a scene", b"\x89PNG whole", b"\xff\xd8 small", "who finds what")
    experiment_report.write(
        study, tmp_path, "", [Section("Confusions", ["As told."], [table], [shown])]
    )
    text = (tmp_path / "report.md").read_text()
    assert "## Confusions\n\nAs told.\n" in text
    assert "| cup ← mug | 3 of 5 |" in text
    assert "![a scene](scene.png)\n\nwho finds what" in text
    assert (tmp_path / "scene.png").read_bytes() == b"\x89PNG whole"
    page = (tmp_path / "report.html").read_text()
    inside = base64.b64encode(b"\xff\xd8 small").decode()
    assert f'<img alt="a scene" src="data:image/jpeg;base64,{inside}">' in page
    assert "<td>cup ← mug</td><td>3 of 5" in page and "<figcaption>who finds what" in page
    assert page.index("Confusions") < page.index("Checkpoints")


@pytest.mark.slow
def test_command_looks_behind_the_ap_unless_it_is_to_be_quick(tiny, plan, store, fill, tmp_path):
    fill(plan.jobs, APS)
    words = ["report", tiny, "--store", store.root, "--set", SEEDS, "--set", THREE]
    assert bacl(*words, "--out", tmp_path / "quick", "--quick").exit_code == 0
    assert not (tmp_path / "quick/errors.png").exists()
    options = ["--json", "--images", 1, "--draw", "bce,bacl"]
    done = bacl(*words, "--out", tmp_path / "all", *options)
    assert done.exit_code == 0
    assert list(json.loads(done.stdout)["variants"]) == NAMES  # and nothing else is on stdout
    assert (tmp_path / "all/per_category.csv").is_file()
    assert {"errors.png", "confusion.png", "precision_recall.png", "scene_1.png"} <= {
        path.name for path in (tmp_path / "all").iterdir()
    }
    assert ": ground truth, bce, bacl](scene_1.png)" in (tmp_path / "all/report.md").read_text()
    done = bacl(*words, "--draw", "nobody")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "expected variants to draw among features, bacl, softmax, bce" in done.stderr


def test_options_that_would_do_nothing_are_told(tiny, store, tmp_path):
    done = bacl("report", tiny, "--store", store.root, "--quick", "--images", 3)
    assert (done.exit_code, done.stderr) == (
        2,
        "error: --quick draws nothing: leave out --images\n",
    )
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("name: s\nspace: {}\n")
    done = bacl("report", sweep, "--store", store.root, "--draw", "bacl")
    assert done.exit_code == 2
    assert done.stderr == f"error: --draw: expected an experiment, got the sweep {sweep}\n"


def test_command_prints_table_and_places(tiny, plan, store, fill):
    fill(plan.jobs[:2], APS)
    places = ["--store", store.root, "--set", SEEDS, "--set", THREE]
    done = bacl("report", tiny, *places, "--quick")
    assert done.exit_code == 0
    assert "30.0*" in done.stdout
    assert "Not in the store yet: features seed 1, heads seed 1." in done.stdout
    assert f"`bacl run {tiny} --store {store.root} --set 'seeds=[0, 1]'" in done.stdout
    entry = store.entry(plan.jobs[1].key)
    assert f"{entry}/variants/{{bacl,softmax,bce}}/checkpoint.pth" in done.stdout
    assert f"bacl ui --store {store.root}" in done.stdout
    assert (store.root / "reports/tiny/report.html").is_file()


def test_command_before_any_run_fails_in_a_sentence(tiny, store, prepared):
    done = bacl("report", tiny, "--store", store.root)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert re.fullmatch(r"error: no job of tiny is in the store .*\n", done.stderr)


MIXED = {("fcbl", 0): 0.28, ("bce", 0): 0.25, **APS}


def test_replayed_rows_are_marked_wherever_they_are_shown(planned, replayed, store, fill):
    plan = planned(*replayed)
    fill(plan.jobs, MIXED)
    report = results.collect(plan, store, "")
    assert report.replayed == ["fcbl", "bce"]
    text = experiment_report.markdown(report, [], "")
    assert [cells(text, name)[0][2] for name in ("bacl", "fcbl")] == ["exact", "replay"]
    assert "Replayed, not exact: fcbl, bce." in text
    page = experiment_report.html(report, [], "")
    assert "<td>replay</td>" in page and "Replayed, not exact: fcbl, bce." in page
    content = experiment_report.as_json(report)
    assert content["features"] == {
        "features": "exact",
        "bacl": "exact",
        "softmax": "exact",
        "fcbl": "replay",
        "bce": "replay",
    }
    head = experiment_report.per_category(report).splitlines()[0]
    assert "AP bacl,AP softmax,AP fcbl (replayed),AP bce (replayed)" in head
    console = Console(record=True, width=120)
    console.print(experiment_report.table(report, ["AP"]))
    assert re.search(r"fcbl +replay +28\.0\*", console.export_text())


def test_replayed_rows_are_compared_among_themselves(planned, replayed, store, fill):
    plan = planned(*replayed)
    fill(plan.jobs, MIXED)
    rows = {row.name: row for row in experiment_report.rows(results.collect(plan, store, ""))}
    assert "AP" in rows["bacl"].best and "AP" in rows["fcbl"].best  # 0.30 exact, 0.28 replayed
    assert rows["bce"].best == rows["softmax"].best == set()
    assert rows["bacl"].differences["AP"] == "+10.0"
    assert rows["fcbl"].differences == {}  # the baseline is exact


UNUSUAL = [
    "stages.heads.recipe.ema={momentum: 0.01}",
    "stages.heads.recipe.tta={flip: true}",
    "stages.heads.recipe.soft_nms={method: linear}",
]


def test_rows_say_with_what_they_were_evaluated_wherever_they_are_shown(planned, store, fill):
    plan = planned(*UNUSUAL)
    fill(plan.jobs, APS)
    report = results.collect(plan, store, "")
    words = "EMA, TTA, soft-NMS"
    assert report.evaluated_with == {"bacl": words, "softmax": words}
    text = experiment_report.markdown(report, [], "")
    assert [cells(text, name)[0][2] for name in ("features", "bacl")] == ["–", words]
    said = f"Evaluated in other ways than usual: bacl with {words}; softmax with {words}."
    assert said in text
    page = experiment_report.html(report, [], "")
    assert f"<td>{words}</td>" in page and said in page
    assert experiment_report.as_json(report)["evaluated_with"]["bacl"] == words
    head = next(csv.reader([experiment_report.per_category(report).splitlines()[0]]))
    assert head[-3:] == ["AP features", f"AP bacl ({words})", f"AP softmax ({words})"]
    console = Console(record=True, width=140)
    console.print(experiment_report.table(report, ["AP"]))
    assert re.search(rf"bacl +{words} +30\.0", console.export_text())


def test_report_without_replayed_rows_does_not_mention_them(study):
    text = experiment_report.markdown(study, [], "")
    assert "| variant | seeds | AP |" in text and "Replayed" not in text


def test_command_names_checkpoints_of_variants_alone(tiny, planned, replayed, store, fill):
    fill(planned(*replayed).jobs, MIXED)
    overrides = [word for one in replayed for word in ("--set", one)]
    done = bacl("report", tiny, "--store", store.root, "--quick", *overrides)
    assert done.exit_code == 0, done.output
    places = re.findall(r"checkpoints: .*/variants/(.*)/checkpoint\.pth", done.output)
    assert places == ["features", "{bacl,softmax}", "{fcbl,bce}"]


def test_lone_exact_row_is_not_the_best_of_its_kind(tiny, planned, replayed, store, fill):
    tiny.write_text(tiny.read_text().split("  heads:")[0])
    plan = planned(*replayed)
    fill(plan.jobs, MIXED)
    rows = {row.name: row for row in experiment_report.rows(results.collect(plan, store, ""))}
    assert rows.keys() == {"features", "fcbl", "bce"}
    assert "AP" in rows["fcbl"].best and rows["features"].best == set()
