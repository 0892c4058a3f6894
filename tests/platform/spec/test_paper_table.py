"""`bacl report --paper` of experiments: our numbers beside those that the paper prints."""

import csv
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bacl.datasets import sources
from bacl.datasets.formats import NAMED as NAMED_SETS
from bacl.datasets.prepare import prepare
from bacl.errors import UsageError
from bacl.settings import Groups
from bacl_platform.analysis.results import collect
from bacl_platform.api.experiment import Experiment, ExperimentReport
from bacl_platform.cli.main import app
from bacl_platform.plan.planner import make_plan
from bacl_platform.report.result_table import files
from bacl_platform.report.result_table.columns import columns
from bacl_platform.report.variants_beside_paper import beside_paper
from bacl_platform.spec import paper_table
from bacl_platform.spec.experiment import ClassifierStage, Paper, variants_of
from bacl_platform.spec.load import load
from bacl_platform.spec.paper_table import published
from bacl_platform.spec.yaml_files import read_yaml
from bacl_platform.tools.stand_in import stand_in

PAPER = """
datasets: {lvis_v0.5: {title: LVIS v0.5, categories: 9, val_images: 9, least_train_images: 9}}
tables:
  III:
    title: margin
    rows:
      - {trial: {alpha: 0}, points: {AP: 27.2}}
  XIII:
    title: the field
    dataset: {v0.5 R50: lvis_v0.5}
    rows:
      - {column: v0.5 R50, variant: softmax, points: {AP: 22.0, AP_r: 4.0}}
      - {column: v0.5 R50, variant: loce, points: {AP: 26.7, AP_r: 18.3}}
      - {column: v0.5 R50, variant: bacl, points: {AP: 27.8, AP_r: 20.1}}
      - {column: v1.0 R50, variant: bacl, points: {AP: 26.1, AP_r: 16.0}}
"""
FOLDER = Path(__file__).parents[3] / "experiments"
NAMED = "paper={file: paper.yaml, table: XIII, column: v0.5 R50}"
THREE = "seeds=[0, 1, 2]"
APS = {
    (name, seed): ap * (seed + 1)
    for name, ap in {"features": 0.04, "bacl": 0.1, "softmax": 0.12}.items()
    for seed in (0, 1, 2)
}


@pytest.fixture
def file(tiny):
    (tiny.parent / "paper.yaml").write_text(PAPER)
    return tiny


@pytest.fixture
def beside(file, planned, store, fill):
    """The table of the tiny experiment's first jobs, as many as are asked for."""

    def made(jobs=None):
        plan = planned(THREE, NAMED)
        fill(plan.jobs[:jobs], APS)
        return beside_paper(collect(plan, store, ""), file)

    return made


def test_variants_are_beside_the_papers_rows_in_its_order(beside):
    table = beside()
    assert table.paper.title == "Table XIII, v0.5 R50: the field"
    made = {column.name: list(column.cells) for column in columns(table)}
    names = ["AP", "AP gain", "paper's AP gain", "paper's AP"]
    names += [name.replace("AP", "AP_r") for name in names]
    assert list(made) == ["variant", "seeds", *names, "state"]
    assert made["variant"] == ["softmax", "loce", "bacl", "features"]
    assert made["seeds"] == ["3", "0", "3", "3"]
    assert made["state"] == ["done", "-", "done", "done"]
    # over the seeds 10, 20, 30: t(2) is 4.303 at 97.5 %, and 4.303 * 10 / sqrt(3) is 24.8
    assert made["AP"][2] == "20.0 ± 10.0 [-4.8, 44.8]"
    assert made["AP"][1] == "-"
    # bacl less softmax, seed by seed: -2, -4, -6; 4.303 * 2 / sqrt(3) is 5.0
    assert made["AP gain"] == ["+0.0", "-", "-4.0 ± 2.0 [-9.0, 1.0]", made["AP gain"][3]]
    assert made["paper's AP gain"] == ["+0.0", "+4.7", "+5.8", "-"]
    assert made["paper's AP_r"] == ["4.0", "18.3", "20.1", "-"]
    assert files.before(table)[-1] == (
        "The paper's points are of LVIS v0.5 (dataset.format lvis_v0.5), ours of the embedded "
        "set: compare the gains over the first row, softmax."
    )


def test_what_is_not_finished_is_told(beside):
    rows = {row.varied["variant"]: row for row in beside(4).rows}  # seed 2 lacks both stages
    assert rows["bacl"].state == rows["features"].state == "1 to run"
    assert rows["bacl"].found["AP"] == pytest.approx({0: 10, 1: 20})


@pytest.mark.parametrize(
    ("named", "problem"),
    [
        (None, r"paper: expected the table to compare with \(file and table\), got nothing"),
        ({"table": "XX"}, r"paper.table: expected one of paper.yaml's \(III, XIII\), got 'XX'"),
        ({"table": "III"}, "paper.table: expected a table whose rows are by variant, got 'III'"),
        (
            {"table": "XIII"},
            r"paper.column: expected one of the table's \(v0.5 R50, v1.0 R50\), got nothing",
        ),
        ({"table": "XIII", "column": "v2"}, r"paper.column: expected one of .*, got 'v2'"),
        ({"table": "III", "column": "v2"}, "paper.column: expected none, which .*, got 'v2'"),
    ],
)
def test_table_that_is_not_there_is_told_in_a_sentence(file, named, problem):
    source = named and Paper(file="paper.yaml", **named)
    with pytest.raises(UsageError, match=f"tiny.yaml: {problem}"):
        published(source, file, "variant")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("lvis_v0.5}", "lvis_v2}"), "expected one of the file's `datasets` .lvis_v0.5., got 'l"),
        (("{v0.5 R50: lvis_v0.5}", "{v1.0 R50: lvis_v1}"), "a name for column 'v0.5 R50', got n"),
        (("categories: 9", "categories: many"), "categories: expected a whole number .* 'many'"),
    ],
)
def test_data_set_that_is_not_described_is_told_in_a_sentence(file, change, problem):
    path = file.parent / "paper.yaml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(UsageError, match=f"paper.yaml: .*{problem}"):
        published(Paper(file="paper.yaml", table="XIII", column="v0.5 R50"), file, "variant")


def test_every_table_of_the_paper_is_of_a_data_set_that_experiments_can_name(monkeypatch):
    path = FOLDER / "paper.yaml"
    content = read_yaml(path)
    monkeypatch.setattr(paper_table, "read_yaml", lambda *_: content)  # read once
    for name, table in content["tables"].items():
        key = "trial" if "trial" in table["rows"][0] else "variant"
        for column in {row.get("column") for row in table["rows"]}:
            source = Paper(file="paper.yaml", table=str(name), column=column)
            of, described = published(source, path, key).dataset
            assert of in NAMED_SETS
            assert described.title in table["title"] or (column and column[1:4] in described.title)
            assert described.groups == (sources.NAMED[of].groups or Groups())


def test_command_writes_all_forms_and_shows_the_table(file, planned, store, fill):
    fill(planned(THREE, NAMED).jobs, APS)
    words = ["report", file, "--store", store.root, "--set", THREE, "--set", NAMED, "--quick"]
    words = [*map(str, words), "--paper"]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 0, run.output
    (line,) = [line for line in run.output.splitlines() if line.startswith("bacl ") and "[" in line]
    assert " ".join(line.split()).startswith("bacl 20.0 ± 10.0 [-4.8, 44.8] -4.0 +5.8 5.0 ")
    assert "3 seeds each" in run.output
    row = "| bacl | 3 | 20.0 ± 10.0 [-4.8, 44.8] | -4.0 ± 2.0 [-9.0, 1.0] | +5.8 | 27.8 |"
    folder = store.root / "reports/tiny"
    assert (folder / "report.html").is_file()
    assert {"rows.png", "gains.png"} <= {path.name for path in folder.iterdir()}
    assert row in (folder / "table.md").read_text()
    assert (
        r"20.0 $\pm$ 10.0 [-4.8, 44.8] & -4.0 $\pm$ 2.0 [-9.0, 1.0] & +5.8 & 27.8"
        in (folder / "table.tex").read_text()
    )
    assert "<td>+5.8</td><td>27.8</td>" in (folder / "table.html").read_text()
    lines = list(csv.reader((folder / "table.csv").read_text().splitlines()))
    assert lines[3][:5] == [
        "bacl",
        "3",
        "20.0 ± 10.0 [-4.8, 44.8]",
        "-4.0 ± 2.0 [-9.0, 1.0]",
        "+5.8",
    ]
    experiment = Experiment.load(file, [THREE, NAMED], store)
    table = beside_paper(experiment.found, file)
    shown = ExperimentReport(experiment.found, store, "", folder, table)
    rows = json.loads(json.dumps(shown.as_json()))["paper"]
    assert rows[2]["varied"] == {"variant": "bacl"}
    assert rows[2]["paper"] == {"AP": 27.8, "AP_r": 20.1}
    assert rows[2]["points"]["AP"] == pytest.approx([10, 20, 30])


def test_replayed_rows_are_beside_the_papers_only_if_asked(file, planned, replayed, store, fill):
    (file.parent / "paper.yaml").write_text(PAPER.replace("variant: loce", "variant: fcbl"))
    replayed = [*replayed, NAMED]
    aps = {(name, 0): 0.2 for name in ("features", "bacl", "softmax", "fcbl", "bce")}
    fill(planned(*replayed).jobs, aps)
    words = ["report", file, "--store", store.root, "--quick", "--paper"]
    words = [*map(str, words), *(word for one in replayed for word in ("--set", one))]
    run = CliRunner().invoke(app, words)
    assert run.exit_code == 2
    assert run.stderr == (
        f"error: {file}: fcbl: replayed (trained on stored features), while the paper's numbers "
        "are exact: run these with recipe.features: exact, or let --mixed set them beside each "
        "other all the same\n"
    )
    run = CliRunner().invoke(app, [*words, "--mixed"])
    assert run.exit_code == 0, run.output
    assert "MIXED: the paper's numbers are exact, and not these of ours: fcbl" in run.output
    # no gain of a replayed row over an exact one
    assert re.search(r"\nfcbl +replay +20\.0 +- +\+4\.7 ", run.output)
    assert re.search(r"\nbacl +exact +20\.0 +\+0\.0 +\+5\.8 ", run.output)


def test_command_without_a_table_fails_in_a_sentence(file, planned, store, fill):
    fill(planned().jobs, APS)
    run = CliRunner().invoke(app, ["report", str(file), "--store", str(store.root), "--paper"])
    assert run.exit_code == 2
    assert run.stderr.startswith(f"error: {file}: paper: expected the table to compare with")


TABLES = sorted(FOLDER.glob("*/*table13*.yaml"))
FOREST = {"forest_rcnn"}
"""On LVIS in files of its own: it needs trees that a stage of the table gives."""


def long_tailed(prepared):
    """A dataset with as many categories as LVIS, and counts of a long tail."""
    return prepared.model_copy(update={"categories": stand_in(1203).categories})


@pytest.mark.slow
@pytest.mark.parametrize("path", TABLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_table_13_is_planned_and_has_the_papers_rows(
    path, prepared, datasets, store, monkeypatch
):
    monkeypatch.setenv("BACL_DATA", "/data")
    experiment = load(path)
    embedded = path.parent.name == "embedded"
    data = prepare(experiment.dataset, datasets) if embedded else long_tailed(prepared)
    plan = make_plan(experiment, data, store)
    assert len(plan.jobs) == len(experiment.stages) * len(experiment.seeds)
    rows = published(experiment.paper, path, "variant").rows
    names = {n for name, s in experiment.stages.items() for n in variants_of(name, s)}
    missing = {name for name, _ in rows} - names
    assert missing == (set() if embedded else FOREST & {name for name, _ in rows})
    methods = {"v0.5_table13_r50": 19, "v1.0_table13_r101": 17, "table13": 20}
    assert len(rows) - len(missing) == methods.get(path.stem, 18)
    decoupled = [s for s in experiment.stages.values() if isinstance(s, ClassifierStage)]
    if not embedded:
        backbone = "resnet101" if path.stem.endswith("r101") else "resnet50"
        assert experiment.detector.backbone == backbone
        assert experiment.detector.weights == "torchvision"
        rest = {name for stage in decoupled for name in stage.variants}
        assert rest == {"bacl", "loce", "bags", "acsl", "disalign", "simcal"}


@pytest.mark.parametrize("depth", [50, 101])
def test_forests_row_is_planned_once_its_trees_are_there(
    depth, prepared, store, tmp_path, monkeypatch
):
    monkeypatch.setenv("BACL_DATA", "/data")
    path = FOLDER / "lvis" / f"v0.5_forest_r{depth}.yaml"
    data = long_tailed(prepared)
    trees = tmp_path / "trees.json"
    override = [f"stages.forest_rcnn.classifier.trees={trees}"]
    with pytest.raises(UsageError, match=r"trees\.json.*bacl trees"):
        make_plan(load(path, override), data, store)
    names = [category.name for category in data.categories]
    trees.write_text(json.dumps({"categories": names, "trees": {"visual": [0] * 1203}}))
    plan = make_plan(load(path, override), data, store)
    assert "forest_rcnn" in {variant for job in plan.jobs for variant in job.variants}
    assert plan.experiment.detector.backbone == f"resnet{depth}"
    assert load(path).stages["forest_rcnn"].classifier.trees == str(
        FOLDER / "lvis" / f"v0.5_trees_r{depth}.json"
    )


def test_there_is_a_table_13_for_each_column_of_the_paper(monkeypatch):
    monkeypatch.setenv("BACL_DATA", "/data")
    named = {load(path).paper.column: path for path in TABLES if path.parent.name == "lvis"}
    assert set(named) == {"v0.5 R50", "v0.5 R101", "v1.0 R50", "v1.0 R101"}
    assert all(path.stem.startswith(column[:4]) for column, path in named.items())
