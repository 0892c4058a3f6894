"""`bacl compare --all`: what is printed, the page, the picture and JSON."""

import itertools
import json
import re
from dataclasses import replace

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from bacl_platform.analysis.differences import Change
from bacl_platform.analysis.matrix import Matrix
from bacl_platform.cli import main as cli
from bacl_platform.report import matrix_report
from bacl_platform.report.plots.matrix import matrix_of
from bacl_platform.report.plots.style import png

SCOPES = {"AP": "", "AP50": "", "AP75": "", "AP_r": "r", "AP_c": "c", "AP_f": "f"}


def drawn(variants, name=lambda place: f"variant {place} with a long name, alpha=0.5,beta=0.95"):
    """A matrix in which each variant is a point better than the next, and better than those after
    that clearly."""
    pairs = {
        (a, b): {
            metric: Change(
                1 - a / 100, 1 - b / 100, 0.0, 0.0, [(a - b) / 100] * 3, 1e-9 if b > a + 1 else 0.5
            )
            for metric in SCOPES
        }
        for a, b in itertools.combinations(range(variants), 2)
    }
    return Matrix(
        title="many",
        names=[name(place) for place in range(variants)],
        seeds=[[0, 1, 2]] * variants,
        resamples=1000,
        images=500,
        metrics=SCOPES,
        measures=["AP"],
        pooled=True,
        values={m: [1 - place / 100 for place in range(variants)] for m in SCOPES},
        pairs=pairs,
        falling=[],
    )


@pytest.mark.parametrize("variants", [2, 5, 20, 52])
@pytest.mark.parametrize("name", [lambda k: f"v{k}", lambda k: f"変種 {k} " * 9])
def test_matrices_fit_80_columns(variants, name):
    lines = list(matrix_report.lines(drawn(variants, name)))
    assert max(map(cell_len, lines)) <= 80
    rows = [line for line in lines if "\\" in line]
    assert len(rows) % variants == 0 and sum(line.count("\\") for line in rows) == 4 * variants


def test_rows_say_who_is_better_than_whom():
    text = "\n".join(matrix_report.lines(drawn(4, lambda k: f"v{k}")))
    assert re.search(r"^A v0 +100\.0 \\\.\+\+", text, re.MULTILINE)
    assert re.search(r"^D v3 +97\.0 --\.\\", text, re.MULTILINE)


@pytest.mark.parametrize("variants", [2, 15])
def test_matrix_is_drawn(variants):
    assert png(matrix_of(drawn(variants), "AP").figure).startswith(b"\x89PNG")


def test_page_has_matrices_and_pairs(tmp_path):
    page = matrix_report.write(drawn(3), tmp_path)
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    assert "![Every pair of variants by AP](compare_all_many_AP.png)" in text
    assert "+2.0\\*" in text and "| <0.0001 |" in text.replace("\\<", "<")
    assert (tmp_path / "compare_all_many_AP.png").is_file()
    assert "variant 2 with" in page.read_text(encoding="utf-8")


def test_json_names_the_better_one_of_each_pair():
    content = json.loads(json.dumps(matrix_report.as_json(drawn(3)), allow_nan=False))
    found = {(p["first"][:9], p["second"][:9]): p["metrics"]["AP"] for p in content["pairs"]}
    assert found["variant 0", "variant 2"]["better"].startswith("variant 0")
    assert found["variant 0", "variant 1"]["better"] is None
    assert found["variant 0", "variant 2"]["p_value_holm"] == pytest.approx(3e-9)


def test_nothing_evaluated_is_a_page_without_matrices(tmp_path):
    bare = replace(drawn(2), metrics={}, measures=[], values={})
    assert matrix_report.write(bare, tmp_path).is_file()
    assert not list(matrix_report.lines(bare))


def test_command_compares_all_finished_variants_of_a_file(tiny, two_seeds, store, fill, rival_aps):
    fill(two_seeds.jobs, rival_aps)
    options = ["--store", store.root, "--set", "seeds=[0, 1]", "--resamples", 30]

    def ran(*words):
        line = [str(word) for word in ("compare", *words, *options)]
        return CliRunner().invoke(cli.app, line)

    done = ran(tiny, "--all")
    assert done.exit_code == 0, done.output
    assert re.search(r"^A bacl +\d+\.\d \\", done.stdout, re.MULTILINE)
    assert (store.root / "reports/tiny/compare_all_tiny.html").is_file()
    content = json.loads(ran(tiny, "bacl", "softmax", "--all", "--metrics", "AR", "--json").stdout)
    assert content["variants"] == ["bacl", "softmax"]
    assert list(content["values"]) == ["AR", "AR_r", "AR_c", "AR_f"]
    done = ran(tiny, "bacl", "--all")
    assert (done.exit_code, done.stderr) == (
        2,
        "error: --all: expected from 2 to 52 finished variants, of which to compare every pair, "
        "got one: bacl\n",
    )
    done = ran(tiny, "--all", "--metrics", "AP_r")
    assert done.exit_code == 2 and "--metrics: expected some of AP, APFixed," in done.stderr
    done = ran(tiny, "bacl", "softmax", "--metrics", "boundary_AP")
    assert done.exit_code == 2 and "of detections with masks, bacl has none" in done.stderr
