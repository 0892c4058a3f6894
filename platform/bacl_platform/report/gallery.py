"""A page of images with their objects, category by category, that needs no other file.

Objects are drawn by the browser over the images, so that they stay sharp, can be asked for their
names, and can be left out by those who look.

P points of an outline, H x W pixels of an image.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bacl_platform.report.drawing import group_colour
from bacl_platform.report.pages import html_page, html_table
from bacl_platform.texts import html

LONGEST = 480
"""Units of the longer side of an image in the page, and most pixels that are kept of it."""
_QUALITY = 85
"""Of the page's JPEGs, in percent."""
_LETTER = 10
"""Units that a letter of a name is wide, on average."""
_ROUGH = 0.7
"""Units by which an outline drawn from pixels may differ from them."""


@dataclass(frozen=True)
class Thing:
    """An object in an image: its box (x1, y1, x2, y2) in pixels, and its mask, if it has one, as
    polygons (P, 2) or as pixels (H, W). note: what is special about it, such as `crowd`."""

    label: int
    box: Sequence[float]
    mask: Sequence[NDArray[Any]] | NDArray[Any] | None = None
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """An image (JPEG) with its things, as HTML."""

    drawn: str
    caption: str


@dataclass(frozen=True)
class Group:
    """A frequency group: its name, and in words which categories are in it."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Shelf:
    """A category and the pictures of it. facts: how often it is seen, in words."""

    name: str
    group: int
    facts: str
    pictures: Sequence[Picture]


def picture(
    pixels: NDArray[Any],
    things: Sequence[Thing],
    own: int,
    categories: Sequence[tuple[str, int]],
    caption: str,
) -> Picture:
    """An image (H, W, 3), as `bacl.datasets.decoding` reads it, with its things, for the page.

    own: the label of the category that it is shown for, whose things stand out. categories: name
    and group of each, by label.
    """
    height, width = pixels.shape[:2]
    scale = LONGEST / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    kept = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if scale < 1 else pixels
    _, content = cv2.imencode(".jpg", kept, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    data = base64.b64encode(content.tobytes()).decode()
    parts = [
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img">',
        f'<image width="{size[0]}" height="{size[1]}" preserveAspectRatio="none" '
        f'href="data:image/jpeg;base64,{data}"/>',
    ]
    for thing in sorted(things, key=lambda thing: thing.label == own):  # its own on top
        parts += _drawn(thing, thing.label == own, categories[thing.label], size, scale)
    return Picture("".join([*parts, "</svg>"]), caption)


def _drawn(
    thing: Thing, own: bool, category: tuple[str, int], size: tuple[int, int], scale: float
) -> Iterator[str]:
    """Parts of a picture that are an object: mask, box, and the name beside it."""
    name, group = category
    text = html(f"{name} ({thing.note})" if thing.note else name)
    ignored = " ignored" if thing.note.startswith("crowd") else ""
    yield f'<g class="{"own" if own else "other"}{ignored} group{group}"><title>{text}</title>'
    if path := _path(thing.mask, size, scale):
        yield f'<path class="mask" fill-rule="evenodd" d="{path}"/>'
    x1, y1, x2, y2 = (value * scale for value in thing.box)
    width, height = max(x2 - x1, 0), max(y2 - y1, 0)
    yield (
        f'<rect class="box" x="{x1:.1f}" y="{y1:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )
    above = y1 - 5 if y1 >= 20 else max(y1, 0) + 18  # or inside, where there is no room above
    left = max(min(x1 + 2, size[0] - _LETTER * (len(text) + 1)), 2)
    yield f'<text class="name" x="{left:.1f}" y="{above:.1f}">{text}</text></g>'


def _path(
    mask: Sequence[NDArray[Any]] | NDArray[Any] | None, size: tuple[int, int], scale: float
) -> str:
    """A mask as the path of an SVG; "" of none."""
    if mask is None:
        return ""
    if isinstance(mask, np.ndarray):
        shown = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
        found, _ = cv2.findContours(shown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        outlines = [cv2.approxPolyDP(one, _ROUGH, closed=True)[:, 0] + 0.5 for one in found]
    else:
        outlines = [np.asarray(polygon) * scale for polygon in mask]
    return "".join(f"M{' '.join(f'{x:.1f},{y:.1f}' for x, y in one)}Z" for one in outlines)


_LOOKS = """<style>
body { max-width: 112rem; }
.about { max-width: 60rem; }
#filter { position: sticky; top: 0; z-index: 1; background: #fff; padding: .6rem 0;
          border-bottom: 1px solid #ccc; display: flex; flex-wrap: wrap; gap: .4rem 1.2rem;
          align-items: baseline; }
.shelf h3 { margin: 1.6rem 0 .3rem; }
.shelf h3 small { display: inline; font-weight: normal; margin-left: .5rem; }
.badge { color: #fff; border-radius: .3rem; padding: .05rem .45rem; font-size: .85rem;
         margin-right: .5rem; }
.badge:not(:first-child) { margin-left: 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.pictures figure { margin: 0; width: 22rem; }
.pictures svg { width: 100%; height: auto; display: block; background: #eee; }
.box { fill: none; stroke-width: 1.2; }
.own .box { stroke-width: 3; }
.ignored .box { stroke-dasharray: 7 5; }
.mask { fill-opacity: .18; stroke-opacity: .7; stroke-width: .8; }
.own .mask { fill-opacity: .42; }
.name { font: 600 18px system-ui, sans-serif; fill: #fff; stroke: #000; stroke-width: 3px;
        paint-order: stroke; }
.other .name { font-weight: 400; font-size: 15px; }
figcaption { overflow-wrap: anywhere; }
.no-boxes .box, .no-masks .mask, .no-names .name, .no-others .other,
.few-names .other .name { display: none; }
GROUPS</style>"""

_FILTER = """<form id="filter">
<label>group <select id="group"><option value="">all</option>OPTIONS</select></label>
<label>category <input id="category" type="search" placeholder="part of its name"></label>
<label><input type="checkbox" data-off="no-boxes" checked> boxes</label>
<label><input type="checkbox" data-off="no-masks" checked> masks</label>
<label><input type="checkbox" data-off="no-names" checked> names</label>
<label><input type="checkbox" data-off="no-others" checked> other categories</label>
<label><input type="checkbox" data-off="few-names"> their names</label>
<output id="shown"></output>
</form>"""

_SCRIPT = """<script>
const shelves = [...document.querySelectorAll(".shelf")];
const group = document.getElementById("group"), category = document.getElementById("category");
function choose() {
  const part = category.value.trim().toLowerCase();
  let shown = 0;
  for (const shelf of shelves) {
    const fits = (!group.value || shelf.dataset.group === group.value)
      && shelf.dataset.name.toLowerCase().includes(part);
    shelf.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").value = `${shown} of ${shelves.length} categories shown`;
}
for (const box of document.querySelectorAll("[data-off]")) {
  const apply = () => document.body.classList.toggle(box.dataset.off, !box.checked);
  box.addEventListener("change", apply);
  apply();
}
document.getElementById("filter").addEventListener("submit", event => event.preventDefault());
group.addEventListener("change", choose);
category.addEventListener("input", choose);
choose();
</script>"""


def page(
    title: str,
    about: Iterable[str],
    groups: Sequence[Group],
    shelves: Iterable[Shelf],
    skipped: Sequence[str],
    table: tuple[Sequence[str], Iterable[Sequence[str]]],
) -> str:
    """The page: what it shows, the filter, a shelf of pictures for each category, and a table.

    about: paragraphs. skipped: a sentence for each image that could not be shown. table: head and
    body of one with all categories, as plain text.
    """
    colours = "".join(_style(number) for number in range(len(groups)))
    options = "".join(f'<option value="{n}">{html(g.name)}</option>' for n, g in enumerate(groups))
    legend = " ".join(
        f'<span class="badge badge{number}">{html(group.name)}</span>{html(group.meaning)}'
        for number, group in enumerate(groups)
    )
    body = [_LOOKS.replace("GROUPS", colours), '<div class="about">']
    body += [f"<p>{html(paragraph)}</p>" for paragraph in about]
    body.append(f"<p>{legend}</p>")
    if skipped:
        body.append("<p><b>Left out:</b></p><ul>")
        body += [*(f"<li>{html(sentence)}</li>" for sentence in skipped), "</ul>"]
    head, rows = table
    cells = ([html(cell) for cell in row] for row in rows)
    body.append("<details><summary>All categories</summary>")
    body += [html_table([html(cell) for cell in head], cells, "names"), "</details></div>"]
    body.append(_FILTER.replace("OPTIONS", options))
    for shelf in shelves:
        body += _shelf(shelf, groups)
    return html_page(title, [*body, _SCRIPT])


def _style(group: int) -> str:
    colour = f"rgb({', '.join(map(str, group_colour(group)))})"
    return (
        f".group{group} .box {{ stroke: {colour}; }}\n"
        f".group{group} .mask {{ fill: {colour}; stroke: {colour}; }}\n"
        f".badge{group} {{ background: {colour}; }}\n"
    )


def _shelf(shelf: Shelf, groups: Sequence[Group]) -> Iterator[str]:
    """Parts of the page that are a category."""
    yield (
        f'<section class="shelf" data-group="{shelf.group}" data-name="{html(shelf.name)}">'
        f'<h3><span class="badge badge{shelf.group}">{html(groups[shelf.group].name)}</span>'
        f'{html(shelf.name)}<small>{html(shelf.facts)}</small></h3><div class="pictures">'
    )
    for one in shelf.pictures:
        yield f"<figure>{one.drawn}<figcaption>{html(one.caption)}</figcaption></figure>"
    yield "</div></section>"
