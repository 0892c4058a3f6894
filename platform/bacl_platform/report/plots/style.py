"""How all pictures look: colours, fonts, legends, and the bands of frequency groups.

Pictures are 800 units wide. A variant has one colour in all of them.
"""

import io
import warnings
from statistics import median
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

from bacl_platform.analysis.results import Report
from bacl_platform.texts import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's, which colour-blind readers tell apart."""
DASHES = ("-", "--", ":", "-.")
HATCHES = ("", "///", "...", "xxx")
SHADES = ("#fbe3e0", "#fdf3d8", "#e6f0e6", "#e3ecf7")
"""Hatches and backgrounds of frequency groups, fewest images first."""
_LEGEND_LINE = 0.25
"""Inches that a line of a legend takes."""
_LEGEND_WIDTH = 100
"""Letters that fit side by side under a picture, with six for each line's sample."""
MOST_NAMES = 60
"""Categories whose names still fit under a picture."""
_MOST_LETTERS = 28
"""Most letters of a name in a picture; longer ones are cut in their middle."""
_OTHER_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
    "Symbola",
)
"""Fonts for letters that matplotlib's own lacks, where this machine has them."""

# Names are shown as they are: a `$` begins no formula.
matplotlib.rcParams["text.parse_math"] = False
matplotlib.rcParams["font.family"] = [
    "DejaVu Sans",
    *(name for name in _OTHER_SCRIPTS if name in font_manager.get_font_names()),
]


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, 1600 pixels wide."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        # what no font has is drawn as an empty box, which says so by itself
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")
        figure.savefig(content, format="png", dpi=200)
    return content.getvalue()


def named(name: str) -> str:
    """The name of a category or variant as pictures show it."""
    return shortened(name, _MOST_LETTERS)


def shade_groups(axes: "Axes", groups: list[str], all_groups: list[str]) -> None:
    """Colour the background by frequency group, one band for each run of the same group."""
    start = 0
    for end in range(1, len(groups) + 1):
        if end == len(groups) or groups[end] != groups[start]:
            shade = SHADES[all_groups.index(groups[start]) % len(SHADES)]
            axes.axvspan(start - 0.5, end - 0.5, color=shade, linewidth=0, zorder=0)
            start = end


def name_groups(axes: "Axes", groups: list[str], words: dict[str, str]) -> None:
    """Write each group's name at the top, in the middle of its categories."""
    for group, word in words.items():
        places = [place for place, other in enumerate(groups) if other == group]
        if places:
            axes.text(
                median(places),
                0.97,
                word,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="top",
            )


def one_panel(height: float) -> tuple[Figure, "Axes"]:
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    plain_axes(axes)
    return figure, axes


def plain_axes(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def legend_below(figure: Figure, axes: "Axes", most: int = 7) -> None:
    """Put the legend below the axes, for which a long one makes the figure taller."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        columns = max(1, min(len(labels), most, _LEGEND_WIDTH // (max(map(len, labels)) + 6)))
        lines = -(-len(labels) // columns)
        figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * max(0, lines - 3))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def colour_of(names: list[str], name: str) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def line_style(names: list[str], name: str) -> dict[str, Any]:
    dashes = DASHES[names.index(name) // len(COLOURS) % len(DASHES)]
    return {"color": colour_of(names, name), "linestyle": dashes}


def spoken(kind: str) -> str:
    return {"AP": "AP", "mask_AP": "Mask AP"}[kind]


def categories_text(count: int) -> str:
    return f"{count} categories" if count != 1 else "1 category"


def over_seeds(report: Report) -> str:
    seeds = len({result.seed for result in report.results})
    return f", mean over {seeds} seeds" if seeds > 1 else ""
