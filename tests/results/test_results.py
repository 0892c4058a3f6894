"""The page of results: what is trained, and what is said of it, from made-up matrices."""

import itertools
import math

import pytest
from claims import CLAIMS, Claim, judged
from make import replace_section
from studies import Row, Table, boards, embedded, exact, recipe, written
from tables import told_apart

from bacl_platform.analysis.differences import Change
from bacl_platform.analysis.matrix import Matrix
from bacl_platform.spec.load import load


def matrix(values, half):
    """A matrix of variants with values of AP, whose differences are known to ± `half`."""
    names = list(values)
    pairs = {}
    for a, b in itertools.combinations(range(len(names)), 2):
        first, second = values[names[a]], values[names[b]]
        found = second - first
        p_value = 0.001 if abs(found) > half else 0.9
        change = Change(first, second, found - half, found + half, [found], p_value)
        pairs[a, b] = {"AP": change}
    return Matrix(
        title="made up",
        names=names,
        seeds=[[0, 1]] * len(names),
        resamples=10,
        images=10,
        metrics={"AP": ""},
        measures=["AP"],
        values={"AP": list(values.values())},
        pairs=pairs,
        pooled=False,
        falling=[],
    )


ROWS = {"A": "a", "B": "b", "C": "c"}
VALUES = {"a": 0.30, "b": 0.40, "c": 0.405}


@pytest.mark.parametrize(
    ("claim", "verdict", "gains"),
    [
        (Claim("", "t", "B", ("A",), "AP"), "holds here", "+10.0 [8.0, 12.0]"),
        (Claim("", "t", "A", ("B",), "AP"), "does not hold here", "-10.0 [-12.0, -8.0]"),
        (Claim("", "t", "C", ("B",), "AP"), "cannot be told at this size", "+0.5 [-1.5, 2.5]"),
        (
            Claim("", "t", "C", ("A", "B"), "AP"),
            "cannot be told at this size",
            "+10.5 [8.5, 12.5] over A; +0.5 [-1.5, 2.5] over B",
        ),
        (Claim("", "t", "B", ("A",), "AP", without_loss=True), "holds here", "+10.0 [8.0, 12.0]"),
        (
            Claim("", "t", "C", ("B",), "AP", without_loss=True),
            "cannot be told at this size",
            "+0.5 [-1.5, 2.5]",
        ),
        (
            Claim("", "t", "A", ("B",), "AP", without_loss=True),
            "does not hold here",
            "-10.0 [-12.0, -8.0]",
        ),
    ],
)
def test_claim_is_judged_by_what_is_told_apart(claim, verdict, gains):
    assert judged(claim, matrix(VALUES, 0.02), ROWS) == (verdict, gains)


def test_rows_that_are_told_apart_are_named():
    table = Table("t", "made up", [Row(label, variant) for label, variant in ROWS.items()])
    found = told_apart(table, matrix(VALUES, 0.02), "AP")
    assert found == (
        "- AP: 2 of the 3 pairs of rows are told apart; A is clearly worse than all others."
    )
    assert told_apart(table, matrix(VALUES, math.inf), "AP") == (
        "- AP: none of the 3 pairs of rows is told apart."
    )
    assert "all 3 pairs" in told_apart(table, matrix(VALUES, 0.001), "AP")
    two = Table("t", "made up", table.rows[:2])
    assert told_apart(two, matrix(VALUES, 0.02), "AP") == "- AP: the two rows are told apart."
    assert "are not told" in told_apart(two, matrix(VALUES, math.inf), "AP")


def test_section_is_replaced_where_it_is_and_others_stay(tmp_path):
    page = tmp_path / "results.md"
    replace_section(page, "one", "first")
    replace_section(page, "two", "second")
    replace_section(page, "one", r"anew \1")
    text = page.read_text(encoding="utf-8")
    assert text.index("# Results") < text.index(r"anew \1") < text.index("second")
    assert "first" not in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "printed"),
    [
        (embedded, ["III", "IV", "V", "VI", "VII", "VIII", "IX", "XIII"]),
        (exact, ["X", "XIII"]),
        (recipe, ["I"]),
    ],
)
def test_rows_of_a_study_are_what_its_experiment_trains(make, printed, tmp_path):
    study = make()
    stages = load(written(study, tmp_path)).stages
    variants = {
        name
        for key, stage in stages.items()
        for name in (stage.variants if stage.kind == "classifier" else [key])
    }
    assert {row.variant for table in study.tables for row in table.rows} <= variants
    trained = {s.recipe.features for s in stages.values() if s.kind == "classifier"}
    assert trained == {embedded: {"replay"}, exact: {"exact"}, recipe: set()}[make]
    papers = [table.name for table in study.tables if any(row.paper for row in table.rows)]
    assert papers == printed


@pytest.mark.slow
def test_photographs_have_three_methods_trained_on_images_as_well(tmp_path, monkeypatch):
    monkeypatch.setenv("BACL_DATA", str(tmp_path))
    study = boards()
    stages = load(written(study, tmp_path)).stages
    recipes = {
        name: stage.recipe.features
        for stage in stages.values()
        if stage.kind == "classifier"
        for name in stage.variants
    }
    rows = study.table("exact").rows
    assert [recipes[row.variant] for row in rows] == ["exact"] * 3


@pytest.mark.slow
def test_claims_are_of_rows_of_a_study():
    tables = [(table.name, table) for make in (embedded, exact, recipe) for table in make().tables]
    for claim in CLAIMS:
        labels = {claim.better, *claim.others}
        assert any(
            name == claim.table and labels <= {row.label for row in table.rows}
            for name, table in tables
        ), claim.text
