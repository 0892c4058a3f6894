"""What a terminal shows of a table: whole words, the most important columns, and what is left
out."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bacl_platform.console import Console
from bacl_platform.report.result_table.rows import PaperTable
from bacl_platform.report.result_table.terminal import print_table

NAMES = ("AP", "AP50", "AP75", "AP_r", "AP_c", "AP_f")
LONG = "a_method_with_a_very_long_name_of_someones_own_package"


@pytest.fixture
def shown(monkeypatch):
    """Prints a table on a terminal that is so wide, or to a file; returns the lines."""

    def printed(table, width=None):
        if width is None:
            monkeypatch.delenv("COLUMNS", raising=False)
        console = Console(file=io.StringIO(), width=width, force_terminal=width is not None)
        print_table(table, Path("out"), console)
        text = console.file.getvalue()
        return re.sub(r"\x1b\[[0-9;]*m", "", text).split("\n")

    return printed


@pytest.fixture
def eight(row, table):
    """Table III's fields, beside a paper's table of another data set."""
    rows = [
        row(
            {"alpha": alpha, "weight_term": term, "hallucination": made},
            {name: [30.0 + n, 30.5 + n, 31 + n] for n, name in enumerate(NAMES)},
            paper={"AP": 22.0, "AP_r": 4.0, "AP_c": 21.0, "AP_f": 30.0},
        )
        for alpha in (0, 0.85)
        for term in ("none", "both")
        for made in (None, {"categories": 8})
    ]
    first = {"alpha": "0", "weight_term": "none", "hallucination": "none"}
    return table(*rows, paper=PaperTable("Table III", [(first, {"AP": 22.0})], "Another set"))


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_every_row_is_one_line_that_fits(eight, shown, width):
    lines = shown(eight, width)
    rows = [line for line in lines if re.match(r"0(\.85)? ", line)]
    assert len(rows) == 8
    assert all(len(line) <= width for line in rows)
    assert any("categories:8" in line for line in rows)


def test_columns_come_by_importance(eight, shown):
    def head(width):
        lines = shown(eight, width)
        rule = next(number for number, line in enumerate(lines) if "──" in line)
        return lines[rule - 1].split()

    fields = ["alpha", "weight_term", "hallucination"]
    assert head(60)[:4] == [*fields, "AP"] and "AP_r" not in head(60)
    assert head(80)[-3:] == ["AP_r", "AP_c", "AP_f"]
    assert "95%" not in head(80) and "95%" in head(100)
    assert "AP75" in head(160)


def test_what_does_not_fit_is_said_in_one_line(eight, shown):
    (line,) = [line for line in shown(eight, 100) if line.startswith("the page has")]
    assert "AP50" in line and "AP_r gain" in line
    assert not [line for line in shown(eight, 200) if line.startswith("the page has")]


def test_pipe_has_more_than_a_narrow_terminal(eight, shown):
    assert any("AP75" in line for line in shown(eight))


def test_long_values_are_cut_in_their_middle_and_many_fields_stand_in_one_column(row, table, shown):
    points = {name: [30.0] for name in NAMES}
    few = [row({"method": LONG, "n": n}, points) for n in range(2)]
    (first, _) = [line for line in shown(table(*few), 80) if line.startswith("a_method")]
    assert "…" in first and first.split()[1] == "0"
    fields = {f"recipe.some.long.name{n}": LONG for n in range(6)}
    lines = shown(table(row({**fields, "n": 1}, points), row({**fields, "n": 2}, points)), 80)
    start = next(n for n, line in enumerate(lines) if line.startswith("trial"))
    rows = lines[start + 2 : next(n for n, line in enumerate(lines) if "the page has" in line)]
    assert all(len(line) <= 80 for line in rows) and len(rows) == 14
    assert [line.split("=")[0] for line in rows[:7]] == [*fields, "n"]


def test_metric_of_the_sweep_comes_first_with_its_family(row, table, shown):
    names = ["AP", "AP_r", "APFixed", "APFixed_r", "APFixed_f", "ECE", "APPool_r", "mask_AP"]
    rows = [row({"tau": t}, {name: [10.0 + t] for name in names}) for t in (0, 1)]
    found = table(*rows, metric="APFixed_r")
    assert found.family == ["APFixed_r", "APFixed", "APFixed_f"]
    assert found.ordered[:3] == found.family and "AP" in found.ordered[3:]
    lines = shown(found, 160)
    assert any(line.split()[:4] == ["tau", *found.family] for line in lines)
    assert replace(found, metric="mask_AP").family == ["mask_AP"]
    assert replace(found, metric="ECE").family == ["ECE"]


def test_failures_are_told_below_and_states_in_the_table(row, table, shown):
    rows = [
        row({"alpha": 0}, {"AP": [30.0]}),
        row({"alpha": 1}, {}, "1 failed", error="job heads: loss is not finite"),
        row({"alpha": 2}, {}, "1 stopped"),
        row({"alpha": 3}, {}, "1 to run"),
    ]
    lines = [" ".join(line.split()) for line in shown(table(*rows), 80)]
    assert "1 - 1 failed" in lines and "2 - 1 stopped" in lines and "3 - 1 to run" in lines
    assert "alpha=1: job heads: loss is not finite" in lines


def test_terminal_has_the_best_of_many_rows_and_a_file_has_all(row, table, shown):
    rows = [row({"n": n}, {"AP": [float(n)]}) for n in range(130)]
    lines = shown(table(*rows), 80)
    assert sum(bool(re.match(r"\d+ +\d+\.0", line)) for line in lines) == 60
    assert "the best 60 of 130 rows; the page has all" in lines
    assert sum(bool(re.match(r"\d+ +\d+\.0", line)) for line in shown(table(*rows))) == 130


def test_gains_of_the_best_rows_are_over_a_first_row_that_is_not_shown(row, table, shown):
    rows = [row({"n": n}, {"AP": [float(n)]}, paper={"AP": 20.0}) for n in range(130)]
    paper = PaperTable("Table", [({"n": "0"}, {"AP": 20.0})], "Another set")
    lines = shown(table(*rows, paper=paper), 80)
    (last,) = [line for line in lines if line.startswith("129 ")]
    assert last.split()[:4] == ["129", "129.0*", "+129.0", "+0.0"]


def test_notes_come_first_and_empty_tables_say_so(table, row, shown):
    found = table(row({"gamma": 1}, {"AP": [3.0]}), notes=["Corrections, applied after training."])
    assert shown(found, 80)[:2] == ["sweep", "Corrections, applied after training."]
    assert "no rows yet" in shown(table(), 80)
