"""Gains over the first row of the paper's table."""

import pytest

from bacl_platform.report.result_table.columns import columns
from bacl_platform.report.result_table.gains import first_row, gains, gains_note, papers_gain
from bacl_platform.report.result_table.rows import PaperTable

PAPER = [
    ({"alpha": "0"}, {"AP": 22.0, "AP_r": 4.0}),
    ({"alpha": "0.5"}, {"AP": 24.0}),
    ({"alpha": "1"}, {"AP": 27.0, "AP_r": 20.0}),
]


@pytest.fixture
def beside(row, table):
    def made(*values, unlike="Another set", start=30.0):
        theirs = {match["alpha"]: points for match, points in PAPER}
        rows = [
            row({"alpha": a}, {"AP": [start + 10 * a, start + 8 * a]}, paper=theirs[f"{a:g}"])
            for a in values
        ]
        return table(*rows, paper=PaperTable("Table", PAPER, unlike))

    return made


def test_gains_are_seed_by_seed_over_the_papers_first_row(beside):
    found = beside(1, 0)
    first = first_row(found)
    assert first is found.rows[1]
    assert gains(found, found.rows[0], "AP", first) == pytest.approx([10, 8])
    assert papers_gain(found.rows[0], "AP", first) == pytest.approx(5)
    assert papers_gain(found.rows[0], "AP_r", first) == pytest.approx(16)
    assert gains_note(found) == ["Another set: compare the gains over the first row, alpha=0."]


def test_first_row_that_ours_lacks_is_replaced_by_the_next_that_is_named(beside):
    found = beside(1, 0.5)
    assert first_row(found).label == "alpha=0.5"
    assert papers_gain(found.rows[0], "AP", first_row(found)) == pytest.approx(3)
    assert papers_gain(found.rows[0], "AP_r", first_row(found)) is None
    said = "Another set: compare the gains over the first row that both have, alpha=0.5."
    assert gains_note(found) == [said]


def test_other_data_has_gains_and_no_difference(beside):
    names = [column.name for column in columns(beside(0, 1))]
    assert names == [
        *("alpha", "seeds", "AP", "AP gain", "paper's AP gain", "paper's AP"),
        *("paper's AP_r gain", "paper's AP_r", "state"),
    ]


def test_same_data_has_differences_and_no_gains(beside):
    made = {column.name: column.cells for column in columns(beside(0, 1, unlike="", start=20))}
    assert list(made) == [
        *("alpha", "seeds", "AP", "paper's AP", "AP difference", "paper's AP_r", "state"),
    ]
    assert made["AP difference"] == ["-2.0", "+2.0"]


def test_replayed_row_has_no_gain_over_an_exact_one(row, table):
    rows = [
        row({"alpha": 0}, {"AP": [30]}, paper={"AP": 22.0}),
        row({"alpha": 1}, {"AP": [40]}, paper={"AP": 27.0}, features="replay"),
    ]
    found = table(*rows, paper=PaperTable("Table", PAPER, "Another set"))
    assert gains(found, rows[1], "AP", rows[0]) == []
