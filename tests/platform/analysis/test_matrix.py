"""Every pair of variants, beside comparisons of two and explicit corrections."""

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from bacl.errors import UsageError
from bacl_platform.analysis.compare import compare
from bacl_platform.analysis.contenders import contender
from bacl_platform.analysis.matrix import compare_all
from bacl_platform.analysis.uncertainty import holm

QUIET = Console(quiet=True)


def every(report):
    return [contender(report, name) for name in report.variants]


@pytest.fixture(scope="module")
def matrix(rivals):
    return compare_all(every(rivals), 60, QUIET)


def test_two_variants_are_compared_as_by_themselves(rivals):
    pair = [contender(rivals, name) for name in ("softmax", "bacl")]
    found, alone = compare_all(pair, 60, QUIET), compare(*pair, 60, QUIET)
    assert found.pairs == {(0, 1): alone.metrics}
    for name, change in alone.metrics.items():
        assert found.corrected[name] == {(0, 1): pytest.approx(change.p_value)}


def test_differences_are_those_of_pairs_and_their_p_values_corrected(rivals, matrix):
    assert len(matrix.pairs) == 3 and matrix.pooled
    for (first, second), pair in matrix.pairs.items():
        names = matrix.names[first], matrix.names[second]
        alone = compare(*(contender(rivals, name) for name in names), 60, QUIET)
        assert list(pair) == list(alone.metrics)
        for name, change in pair.items():
            assert change.difference == pytest.approx(alone.metrics[name].difference)
            assert change.of_images == pytest.approx(alone.metrics[name].of_images)
            # never less than the pair's own, where all variants say that seeds differ less
            assert change.of_seeds >= alone.metrics[name].of_seeds - 1e-12
    for name in matrix.metrics:
        values = [pair[name].p_value for pair in matrix.pairs.values()]
        assert list(matrix.corrected[name].values()) == pytest.approx(holm(np.array(values)))


def test_standings_are_opposite_and_follow_the_corrected_p_values(matrix):
    for name in matrix.metrics:
        for first, second in matrix.pairs:
            one, other = (matrix.standing(name, *p) for p in ((first, second), (second, first)))
            assert {one, other} in ({"."}, {"+", "-"})
            assert (one != ".") == (matrix.corrected[name][first, second] < 0.05)
            better = matrix.values[name][first] > matrix.values[name][second]
            assert one == "." or (one == "+") == better
            gain = matrix.gain(name, first, second)
            assert gain == pytest.approx(matrix.values[name][first] - matrix.values[name][second])
    best, worst = matrix.order("AP")[0], matrix.order("AP")[-1]
    assert (matrix.names[best], matrix.standing("AP", best, worst)) == ("bacl", "+")


def test_less_is_better_of_an_error(rivals):
    found = compare_all(every(rivals), 30, QUIET, metrics=["ECE"])
    assert found.falling == [name for name in found.metrics if name.startswith("ECE")] != []
    values = found.values["ECE"]
    assert [values[place] for place in found.order("ECE")] == sorted(values)
    marks = {
        (row, column): found.standing("ECE", row, column)
        for row in range(3)
        for column in range(3)
        if row != column
    }
    assert all(values[row] < values[column] for (row, column), m in marks.items() if m == "+")


def test_same_results_under_two_names_count_once(rivals):
    softmax, bacl = (contender(rivals, name) for name in ("softmax", "bacl"))
    again = replace(softmax, name="softmax of another file")
    found = compare_all([softmax, again, bacl], 20, QUIET)
    assert found.names == ["softmax", "bacl"]
    assert found.notes[0].startswith("softmax of another file is the same results as softmax")


@pytest.mark.parametrize(("count", "got"), [(1, "got one: features"), (53, "got 53")])
def test_one_variant_and_too_many_are_told(rivals, tmp_path, count, got):
    one = contender(rivals, "features")
    many = [
        replace(
            one, name=f"v{k}", results=[replace(r, folder=tmp_path / str(k)) for r in one.results]
        )
        for k in range(count)
    ]
    with pytest.raises(
        UsageError, match=r"^--all: expected from 2 to 52 finished variants.*" + got
    ):
        compare_all(many if count > 1 else [one], 20, QUIET)


def test_variants_that_share_no_stage_1_say_so(rivals):
    found = every(rivals)
    apart = replace(found[0], results=[replace(r, stage1=f"x{r.seed}") for r in found[0].results])
    matrix = compare_all([apart, *found[1:]], 20, QUIET)
    assert any(note.startswith("2 of 3 pairs do not share stage 1") for note in matrix.notes)
    assert not matrix.pooled  # of two alone, a pair's own variance is all there is
