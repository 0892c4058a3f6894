"""Texts that users chose, read back by parsers of what they were written into."""

import csv
import html
import io
import re
from itertools import pairwise

import pytest
from markdown_it import MarkdownIt
from rich.table import Table

from bacl_platform import texts
from bacl_platform.console import Console
from bacl_platform.report.pages import (
    Bold,
    Section,
    Shown,
    html_section,
    markdown_section,
    markdown_table,
)
from bacl_platform.report.result_table import files
from bacl_platform.report.result_table.rows import ResultTable, Row

ODD = [
    "$1_$",
    "pipe | cell",
    "a\\|b",
    "back\\slash",
    "<b>bold</b> & <script>",
    "&amp; stays",
    "snake_case, _emphasis_ and **strong**",
    "[bold]red[/bold] :smile:",
    "[link](http://x)",
    "half [open",
    "[30.1, 33.2]",
    "`code` ~~gone~~",
    "100 % #1 {x}^2",
    'quote " and, comma',
    "שלום",
    "😀 crab",
    "n" * 300,
]


def rendered(tokens):
    """The visible text of parsed Markdown."""
    found = []
    for token in tokens:
        if token.children is not None:
            found.append(rendered(token.children) if token.type != "image" else token.content)
        elif token.type in ("text", "text_special"):
            found.append(token.content)
    return "".join(found)


@pytest.mark.parametrize("text", ODD)
def test_markdown_table_shows_any_text_in_its_own_cell(text):
    lines = list(markdown_table(["category", "AP"], [[text, "1"], ["plain", Bold(text)]]))
    assert len(lines) == 4
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse("\n".join(lines))
    cells = [inline for opened, inline in pairwise(tokens) if opened.type in ("th_open", "td_open")]
    assert [rendered([cell]) for cell in cells] == ["category", "AP", text, "1", "plain", text]
    kinds = [{child.type for child in cell.children} for cell in cells]
    assert kinds[2] <= {"text", "text_special"}
    assert {"strong_open", "strong_close"} < kinds[5]


@pytest.mark.parametrize("text", ODD)
def test_markdown_page_shows_any_text(text):
    picture = Shown("scene.png", text, b"", caption=f"{text}: found")
    section = Section(f"about {text}", [f"of {text}."], pictures=[picture])
    parsed = MarkdownIt("commonmark").parse("\n".join(markdown_section(section)))
    heading, paragraph, image, caption = (t for t in parsed if t.type == "inline")
    assert rendered([heading]) == f"about {text}"
    assert rendered([paragraph]) == f"of {text}."
    assert rendered([caption]) == f"{text}: found"
    (shown,) = image.children
    assert (shown.type, shown.attrs["src"], rendered(shown.children)) == (
        "image",
        "scene.png",
        text,
    )


@pytest.mark.parametrize("text", ODD)
def test_html_page_shows_any_text(text):
    parts = "".join(html_section(Section(text, pictures=[Shown("x.png", text, b"\x89PNG")])))
    assert html.unescape(re.search("<h2>(.*?)</h2>", parts)[1]) == text
    assert html.unescape(re.search('alt="(.*?)"', parts)[1]) == text
    assert "<b>" not in parts


def test_line_breaks_and_control_characters_are_shown_and_do_not_act():
    assert texts.one_line("line\nbreak\r\nand\ttab") == "line↵break↵and tab"
    assert texts.one_line("\x1b[31mred \u202eturned \ud83d") == "�[31mred �turned �"
    assert texts.one_line("é 😀 שלום \u200d") == "é 😀 שלום \u200d"


def test_long_names_keep_both_ends():
    cut = texts.shortened("abcdefghij" * 10, 28)
    assert len(cut) == 28
    assert cut.startswith("abcdefgh") and cut.endswith("fghij") and "…" in cut
    assert texts.shortened("short", 28) == "short"


def test_tex_commands_of_a_text_are_its_characters():
    made = texts.tex("a\\b_c {d} 50 % ^ ~ # & $x$ <|>")
    assert made == (
        r"a\textbackslash{}b\_c \{d\} 50 \% \textasciicircum{} \textasciitilde{} \# \& \$x\$ "
        r"\textless{}\textbar{}\textgreater{}"
    )
    assert texts.tex("[0, 1]") == "{}[0, 1]"


def test_terminal_shows_brackets_and_colons_as_they_are():
    console = Console(file=io.StringIO(), width=60)
    table = Table("category", title="[bold]title :smile:")
    table.add_row("[bold]red[/] [/oops] :crab:")
    console.print(table)
    console.print("[red]line")
    said = console.file.getvalue()
    assert "[bold]red[/] [/oops] :crab:" in said
    assert "[bold]title :smile:" in said
    assert "[red]line" in said


@pytest.mark.parametrize("text", [*ODD, "line\nbreak", "carriage\rreturn"])
def test_sweep_tables_keep_their_columns_in_every_form(text):
    row = Row({"variant.x": text}, "done", {"AP": {0: 1.0}}, seeds=1)
    table = ResultTable("sweep", ["AP"], [row], notes=[text])
    (_, read) = csv.reader(io.StringIO(files.as_csv(table), newline=""))
    assert read == [text, "1", "1.0", "done"]
    *_, line, _, _ = files.markdown(table).splitlines()
    assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 5
    latex = files.latex(table).splitlines()
    assert len(latex) == 7
    assert len(re.findall(r"(?<!\\)&", latex[4])) == 3
    assert files.html(table).count("<td>") == 4
