"""Pages that commands leave behind: the same sections as Markdown and as one HTML file.

Tables can be LaTeX and CSV as well.
"""

import base64
import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from bacl_platform.texts import html, markdown, tex


@dataclass(frozen=True)
class Shown:
    """A picture in a page.

    file: its name beside the page. content: of that file, PNG. inside: what the HTML page holds
    instead where the file would be too large, PNG or JPEG. wide: shown wider than the text.
    """

    file: str
    title: str
    content: bytes
    inside: bytes | None = None
    caption: str = ""
    wide: bool = False


class Bold(str):
    """The text of a cell that stands out."""


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column is of names, the others of numbers."""

    head: Sequence[str]
    body: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A heading with what belongs under it, in this order."""

    title: str
    paragraphs: Sequence[str] = field(default_factory=list)
    tables: Sequence[Table] = field(default_factory=list)
    pictures: Sequence[Shown] = field(default_factory=list)


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> Iterator[str]:
    """Lines of a table; cells are plain text, `Bold` ones are set in bold."""
    yield _markdown_row(head)
    yield f"|{'---|' * len(head)}"
    yield from map(_markdown_row, body)


def _markdown_row(cells: Sequence[str]) -> str:
    shown = (f"**{markdown(c)}**" if isinstance(c, Bold) else markdown(c) for c in cells)
    return f"| {' | '.join(shown)} |"


def markdown_section(section: Section) -> Iterator[str]:
    """Lines of a section; pictures are links to files beside the page."""
    yield from (f"## {markdown(section.title)}", "")
    for paragraph in section.paragraphs:
        yield from (markdown(paragraph), "")
    for table in section.tables:
        yield from (*markdown_table(table.head, table.body), "")
    for picture in section.pictures:
        yield from markdown_picture(picture)


def markdown_picture(picture: Shown) -> Iterator[str]:
    """Lines of a link to the file beside the page, and of the caption."""
    yield from (f"![{markdown(picture.title)}]({picture.file})", "")
    if picture.caption:
        yield from (markdown(picture.caption), "")


def html_table(head: Sequence[str], body: Iterable[Sequence[str]], style: str = "") -> str:
    """A table whose cells are HTML already."""
    lines = [_html_row(head, "th"), *(_html_row(cells, "td") for cells in body)]
    return "\n".join([f'<table class="{style}">', *lines, "</table>"])


def _html_row(cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{cell}</{tag}>' for cell in cells)}</tr>"


def latex_table(head: Sequence[str], body: Iterable[Sequence[str]], columns: str) -> Iterator[str]:
    """Lines of a `tabular`; cells are plain text, `Bold` ones are set in bold.

    columns: their alignment, such as `lrr`.
    """
    yield from (rf"\begin{{tabular}}{{{columns}}}", r"\hline", _latex_row(head), r"\hline")
    yield from map(_latex_row, body)
    yield from (r"\hline", r"\end{tabular}")


def _latex_row(cells: Sequence[str]) -> str:
    shown = (rf"\textbf{{{tex(c)}}}" if isinstance(c, Bold) else tex(c) for c in cells)
    return " & ".join(shown) + r" \\"


def csv_table(head: Sequence[object], body: Iterable[Sequence[object]]) -> str:
    """A CSV file's text; an empty cell for None."""
    text = io.StringIO()
    csv.writer(text).writerows([head, *body])
    return text.getvalue()


def html_section(section: Section) -> Iterator[str]:
    """Parts of a page, pictures and all."""
    yield f"<h2>{html(section.title)}</h2>"
    for paragraph in section.paragraphs:
        yield f"<p>{html(paragraph)}</p>"
    for table in section.tables:
        body = [[html(cell) for cell in cells] for cells in table.body]
        yield html_table([html(cell) for cell in table.head], body, "names")
    for picture in section.pictures:
        yield from html_picture(picture)


def html_picture(picture: Shown) -> Iterator[str]:
    """Parts of a page that hold a picture and its caption."""
    content = picture.inside or picture.content
    kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
    data = base64.b64encode(content).decode()
    yield '<figure class="wide">' if picture.wide else "<figure>"
    yield f'<img alt="{html(picture.title)}" src="data:image/{kind};base64,{data}">'
    if picture.caption:
        yield f"<figcaption>{html(picture.caption)}</figcaption>"
    yield "</figure>"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; }}
h2 {{ margin-top: 3rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .5rem; border-bottom: 1px solid #ddd; text-align: right; }}
th {{ border-bottom: 2px solid #888; position: sticky; top: 0; background: #fff; }}
tr:hover td {{ background: #f4f6fa; }}
th:first-child, td:first-child, .left td, .left th {{ text-align: left; }}
small {{ display: block; color: #666; }}
td b {{ color: #005a8d; }}
img {{ display: block; max-width: 100%; }}
figure {{ margin: 1.5rem 0; }}
.wide {{ width: 94vw; margin-left: calc(50% - 47vw); }}
.wide img {{ margin: auto; }}
figcaption {{ font-size: .85rem; color: #444; margin-top: .3rem; }}
.scrolled {{ overflow-x: auto; box-sizing: border-box; width: max-content; min-width: 100%;
            max-width: 94vw; margin-left: 50%; transform: translateX(-50%); }}
.names td, td:not(:first-child) {{ white-space: nowrap; }}
.left td {{ white-space: normal; }}
.left {{ font-size: .85rem; }}
.left td:last-child {{ word-break: break-all; }}
</style>
<h1>{title}</h1>
{body}
</html>
"""


def html_page(title: str, body: Iterable[str]) -> str:
    """One page that needs no other file."""
    return _PAGE.format(title=html(title), body="\n".join(body))
