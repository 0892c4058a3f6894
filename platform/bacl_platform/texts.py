"""Names and other texts that users chose: whether they are text, and how each kind of output wants
them. One place for each escaping.

Python's modules escape CSV and JSON; matplotlib and rich are set to take no text for markup
(`bacl_platform.report.plots.style`, `bacl_platform.console`).
"""

import re
import unicodedata
from html import escape

_LINE_BREAKS = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that turn the direction of what follows, beyond the name that they are in."""
_MARKDOWN = re.compile(
    r"[\\`*<|$~]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # emphasis; within a word it is plain, as in AP_r
    r"|&(?=#?\w+;)"
)
_HARMLESS = re.compile(r"(?:[^\[\]]|\[[^\[\]]*\](?![(\[:]))*")
"""Brackets in pairs that begin no link, as of an interval."""
_TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "–": "--",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def is_text(text: str) -> bool:
    """Whether UTF-8 can say it, without a null: names of files may have bytes that are no text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def one_line(text: str) -> str:
    """The text on one line, with nothing in it that acts instead of being shown.

    A line break is shown as ↵, a tab as a space; control characters, halves of characters and
    characters that turn the direction of what follows as �.
    """
    text = _LINE_BREAKS.sub("↵", text).replace("\t", " ")
    return "".join(
        "\ufffd" if unicodedata.category(c) in ("Cc", "Cs") or c in _DIRECTIONS else c for c in text
    )


def shortened(text: str, most: int) -> str:
    """`one_line` of the text, of which only the ends are left where it has more letters."""
    text = one_line(text)
    if len(text) <= most:
        return text
    end = (most - 1) // 3
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def markdown(text: str) -> str:
    """Markdown, within a line or a table's cell, that shows the text as it is."""
    marked = _MARKDOWN.sub(r"\\\g<0>", one_line(text))
    return marked if _HARMLESS.fullmatch(marked) else re.sub(r"[\[\]]", r"\\\g<0>", marked)


def html(text: str) -> str:
    """HTML, in an element or a quoted attribute, that shows the text as it is."""
    return escape(one_line(text))


def tex(text: str) -> str:
    """LaTeX, in a table's cell, that shows the text as it is."""
    # at the beginning of a row, `[` and `*` would be read with the end of the row before
    guard = "{}" if text.startswith(("[", "*")) else ""
    return guard + one_line(text).translate(_TEX)
