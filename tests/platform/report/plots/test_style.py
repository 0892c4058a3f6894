"""What all pictures have in common: bands of groups, colours."""

import warnings

import pytest

from bacl_platform.report.plots import style


def test_shades_follow_the_groups_of_the_categories_in_order():
    _, axes = style.one_panel(3)
    style.shade_groups(axes, ["f", "f", "c", "f", "r"], ["r", "c", "f"])
    spans = [(band.get_x(), band.get_width()) for band in axes.patches]
    assert spans == [(-0.5, 2), (1.5, 1), (2.5, 1), (3.5, 1)]
    colours = [band.get_facecolor() for band in axes.patches]
    assert colours[0] == colours[2] and len(set(colours)) == 3


def test_more_variants_than_colours_stay_distinct():
    names = [f"variant{number}" for number in range(20)]
    styles = {
        (line["color"], line["linestyle"]) for n in names if (line := style.line_style(names, n))
    }
    assert len(styles) == len(names)


@pytest.mark.parametrize("many", [4, 70])
def test_legend_of_many_long_names_leaves_room_for_the_axes(many):
    figure, axes = style.one_panel(4.0)
    for number in range(many):
        axes.plot([0, 1], [0, number], label=f"alpha={number}, hallucination=categories:8")
    style.legend_below(figure, axes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        style.png(figure)
    box = axes.get_window_extent()
    assert box.height > 1.5 * figure.dpi
