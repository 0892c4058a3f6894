"""Pictures of a table of results: what is drawn, read from the figures, and what is left out."""

import numpy as np
import pytest
from matplotlib.patches import PathPatch, Rectangle
from PIL import Image

from bacl_platform.report.plots import style
from bacl_platform.report.plots.fields import fields, shown_rows
from bacl_platform.report.plots.registry import Page, pictures
from bacl_platform.report.plots.table_bars import gains_of_rows, rows_by_metric
from bacl_platform.report.plots.table_curves import curves, gain_curves
from bacl_platform.report.plots.table_map import value_map
from bacl_platform.report.plots.table_parallel import parallel_axes
from bacl_platform.report.result_table.rows import PaperTable


def ap(*values):
    return {"AP": list(values), "AP_r": [value / 2 for value in values]}


def line_of(axes, colour):
    """The line of a colour that joins points."""
    (line,) = [
        one
        for one in axes.get_lines()
        if one.get_color() == colour and one.get_marker() == "o" and one.get_linestyle() != "None"
    ]
    return line


def words(figure):
    """All texts of a figure."""
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    return [*texts, *(t.get_text() for legend in figure.legends for t in legend.get_texts())]


@pytest.fixture
def alphas(row, table):
    """One number that varies, in no order, one of them failed; beside a paper's table."""
    theirs = {"0.5": 24.0, "0": 22.0, "1": 27.0}
    rows = [
        row({"alpha": 0.5}, ap(30, 32), paper={"AP": 24.0}),
        row({"alpha": 0}, ap(20, 24), paper={"AP": 22.0}),
        row({"alpha": 1}, {}, "2 failed", paper={"AP": 27.0}),
    ]

    def made(unlike=""):
        # the paper's first row is the second of ours
        order = ["0", "0.5", "1"]
        printed = [({"alpha": name}, {"AP": theirs[name]}) for name in order]
        return table(*rows, paper=PaperTable("Table", printed, unlike))

    return made


def test_curve_goes_through_the_means_in_order_and_the_papers_points_in_grey(alphas):
    figure = curves(alphas()).figure
    first, second = figure.axes[:2]
    ours = line_of(first, style.COLOURS[0])
    assert list(ours.get_xdata()) == [0, 0.5] and list(ours.get_ydata()) == [22, 31]
    theirs = line_of(first, "#999999")
    assert list(theirs.get_xdata()) == [0, 0.5, 1] and list(theirs.get_ydata()) == [22, 24, 27]
    assert (first.get_title(), second.get_title()) == ("AP", "AP_r")
    assert list(line_of(second, style.COLOURS[0]).get_ydata()) == [11, 15.5]
    assert {"ours", "the paper's", "failed", "best, seeds too few to tell"} <= set(words(figure))


def test_curve_of_another_data_set_has_gains_in_a_picture_of_its_own(alphas):
    found = alphas("Ours is another set")
    first = curves(found).figure.axes[0]
    assert not [line for line in first.get_lines() if line.get_color() == "#999999"]
    picture = gain_curves(found)
    axes = picture.figure.axes[0]
    assert list(line_of(axes, style.COLOURS[0]).get_ydata()) == [0, 9]  # means of 10 and 8
    assert list(line_of(axes, "#999999").get_ydata()) == [0, 2, 5]
    assert "gain over alpha=0" in axes.get_ylabel()
    assert picture.caption.endswith("Ours is another set.")
    assert gain_curves(alphas()) is None


def test_interval_over_three_seeds_is_drawn(row, table):
    rows = [row({"alpha": a}, {"AP": [10.0, 20.0, 30.0]}) for a in (0, 1)]
    (axes,) = curves(table(*rows)).figure.axes
    bars = [line.get_ydata() for line in axes.get_lines() if len(set(line.get_xdata())) == 1]
    # 4.303 * 10 / sqrt(3) to each side
    assert any(np.allclose(sorted(bar), [20 - 24.84, 20 + 24.84], atol=0.01) for bar in bars)


def test_fields_of_factors_have_a_logarithmic_axis(row, table):
    rows = [row({"lr": 10.0**-n}, ap(n)) for n in (4, 3, 2, 1)]
    assert curves(table(*rows, logarithmic={"lr"})).figure.axes[0].get_xscale() == "log"
    assert curves(table(*rows)).figure.axes[0].get_xscale() == "linear"


def test_choices_are_bars_and_the_best_stands_out(row, table):
    rows = [
        row({"flag": True}, ap(30, 31, 32)),
        row({"flag": None}, {}, "1 stopped"),
        row({"flag": {"a": 1}}, ap(40, 41, 42.1)),
    ]
    picture = rows_by_metric(table(*rows))
    first, second = picture.figure.axes[:2]
    assert [bar.get_width() for bar in first.patches] == pytest.approx([31, 41.03], abs=0.01)
    assert [bar.get_width() for bar in second.patches] == pytest.approx([15.5, 20.52], abs=0.01)
    assert first.patches[0].get_facecolor() != first.patches[1].get_facecolor()
    assert [label.get_text() for label in first.get_yticklabels()] == ["True", "none", "a:1"]
    assert {"stopped", "clearly best"} <= set(words(picture.figure))
    assert curves(table(*rows)) is None


def test_bars_of_another_data_set_are_gains_beside_the_papers(row, table):
    theirs = {"sce": 20.0, "rfs": 25.0, "bacl": 28.0}
    rows = [
        row({"variant": "sce"}, ap(30), paper={"AP": 20.0}),
        row({"variant": "rfs"}, {}, "-", paper={"AP": 25.0}),
        row({"variant": "bacl"}, ap(38), paper={"AP": 28.0}),
    ]
    printed = [({"variant": name}, {"AP": points}) for name, points in theirs.items()]
    found = table(*rows, paper=PaperTable("Table", printed, "Ours is another set"))
    (axes,) = gains_of_rows(found).figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0, 5, 8, 8]
    assert {"first row", "not in ours"} <= set(words(gains_of_rows(found).figure))
    same = table(*rows, paper=PaperTable("Table", printed))
    assert gains_of_rows(same) is None
    (axes, _) = rows_by_metric(same).figure.axes
    assert sorted(bar.get_width() for bar in axes.patches) == [20, 28, 30, 38]


def test_two_fields_are_a_map_with_cells_that_have_no_result(row, table):
    rows = [
        row({"alpha": a, "term": t}, *(({}, "1 failed") if (a, t) == (1, "x") else (ap(a + n),)))
        for a in (1, 0)
        for n, t in enumerate("xy")
    ]
    figure = value_map(table(*rows)).figure
    first = figure.axes[0]
    (image,) = first.get_images()
    values = np.ma.filled(image.get_array().astype(float), np.nan)
    assert np.array_equal(values, [[0, 1], [np.nan, 2]], equal_nan=True)  # alpha rises downwards
    assert [label.get_text() for label in first.get_yticklabels()] == ["0", "1"]
    assert "failed" in words(figure)
    (frame,) = [p for p in first.patches if isinstance(p, Rectangle) and p.get_linewidth() > 2]
    assert frame.get_xy() == (0.5, 0.5)  # around alpha 1, term y


def test_two_numbers_drawn_at_random_are_dots(row, table):
    rng = np.random.default_rng(0)
    rows = [row({"a": v, "b": w}, ap(30 + v)) for v, w in rng.uniform(1, 2, (12, 2))]
    axes = value_map(table(*rows, logarithmic={"b"})).figure.axes[0]
    (dots,) = axes.collections
    assert sorted(dots.get_offsets()[:, 1]) == pytest.approx(sorted(r.values["a"] for r in rows))
    assert axes.get_xscale() == "log" and not axes.get_images()


def test_three_fields_are_lines_that_end_at_their_points(row, table):
    rows = [
        row({"a": 0.0, "b": 1e-3, "c": "x"}, ap(10)),
        row({"a": 5.0, "b": 1e-2, "c": "y"}, ap(20)),
        row({"a": 10.0, "b": 1e-1, "c": None}, ap(15)),
        row({"a": 10.0, "b": 1e-1, "c": "y"}, {}, "1 stopped"),
    ]
    figure = parallel_axes(table(*rows, logarithmic={"b"})).figure
    (axes,) = figure.axes
    lines = [p.get_path().vertices for p in axes.patches if isinstance(p, PathPatch)]
    ends = sorted((line[0][1], line[3][1], len(line), line[-1][1]) for line in lines)
    # a and b where they lie between the least and the largest; points of 10 and 20 at 0 and 1
    whole = [end for end in ends if end[2] == 10]
    assert np.allclose([end[:2] for end in whole], [(0, 0), (0.5, 0.5), (0.5, 0.5), (1, 1)])
    assert sorted(end[3] for end in whole) == pytest.approx([0, 0.5, 1, 1])  # the best is outlined
    assert len([end for end in ends if end[2] == 7]) == 1  # what was stopped ends before
    assert "stopped" in words(figure)


def test_field_that_some_rows_lack_has_a_place_of_its_own(row, table):
    rows = [row({"a": 1.0}, ap(1)), row({"a": 2.0}, ap(2)), row({"b": "x"}, ap(3))]
    a, b = fields(table(*rows))
    assert a.numeric and a.gaps and list(a.labels) == ["–", "1", "2"]
    assert np.isnan(a.places(rows)[2]) and a.ranks(rows) == [1, 2, 0]
    assert not b.numeric and list(b.labels) == ["–", "x"]


def test_truths_are_no_numbers_and_constants_do_not_vary(row, table):
    rows = [row({"flag": flag, "same": 1}, ap(1)) for flag in (True, False)]
    (only,) = fields(table(*rows))
    assert only.name == "flag" and not only.numeric


def test_of_many_rows_the_best_are_shown_and_the_others_are_counted(row, table):
    rows = [row({"n": str(n)}, ap(n)) for n in range(60)]
    rows += [row({"n": "f"}, {}, "1 failed"), row({"n": "s"}, {}, "1 stopped")]
    shown, said = shown_rows(table(*rows), 40)
    assert len(shown) == 40 and shown[0].varied["n"] == "59"
    assert said == "The best 40 of 62 rows (1 failed, 1 stopped); the table has all."


@pytest.mark.parametrize("count", [0, 1, 3])
def test_nothing_is_drawn_of_what_has_no_results(row, table, count):
    rows = [row({"a": n, "b": -n, "c": str(n)}, {}, "1 failed") for n in range(count)]
    assert list(pictures(Page.TABLE, table(*rows))) == []
    assert list(pictures(Page.TABLE, table(row({"a": 1}, ap(30))))) == []


def test_pictures_are_pngs_of_one_width_whatever_the_names(row, table, tmp_path):
    odd = "$a_{b}$ & a very long name of something or other | 表"
    rows = [row({"x": odd, "y": n, "z": odd * (n % 2)}, ap(30 + n)) for n in range(4)]
    made = list(pictures(Page.TABLE, table(*rows)))
    assert [picture.file for picture in made] == ["rows.png", "map.png"]
    for picture in made:
        path = tmp_path / picture.file
        path.write_bytes(style.png(picture.figure))
        assert Image.open(path).width == 1600
