"""What the documents show to be typed: their blocks, and the commands in them."""

import glob
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(path for path in sorted((ROOT / "docs").rglob("*.md"))),
]
SHELLS = ("sh", "bash", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    """Of its first line, from 1."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a block, without variables before it."""

    place: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.place}: {shlex.join(self.words)}"


def blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in some languages, also indented ones."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        pattern = r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$"
        for match in re.finditer(pattern, text, re.DOTALL | re.MULTILINE):
            indent, language, content = match.groups()
            if language in languages:
                lines = (line.removeprefix(indent) for line in content.splitlines())
                number = text.count("\n", 0, match.start()) + 2
                found.append(Block(page, number, language, "\n".join(lines)))
    return found


def commands() -> list[Command]:
    """The commands of all shell blocks."""
    return [command for block in blocks(*SHELLS) for command in _commands(block)]


def _commands(block: Block) -> Iterator[Command]:
    lines = block.text.split("\n")
    for number, line in enumerate(lines):
        if number and lines[number - 1].endswith("\\"):
            continue
        while line.endswith("\\"):
            number += 1
            line = line[:-1] + lines[number]
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word.strip(";&|"):
                words.append(word)
            elif words := list(_without_variables(words)):
                place = f"{block.page.relative_to(ROOT)}:{block.line + number}"
                yield Command(place, tuple(words))
                words = []


def _without_variables(words: list[str]) -> list[str]:
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    return words


def expanded(words: tuple[str, ...]) -> list[str]:
    """Words as a shell in the repository would hand them on: braces and patterns of files."""
    found = []
    for word in chain.from_iterable(map(_braces, words)):
        matches = sorted(glob.glob(word, root_dir=ROOT)) if re.search(r"[*\[]", word) else []
        found += matches or [word]
    return found


def _braces(word: str) -> list[str]:
    match = re.fullmatch(r"([\w./-]*)\{([^{}]*,[^{}]*)\}([\w./\[\]*-]*)", word)
    if match is None:
        return [word]
    before, inside, after = match.groups()
    return [f"{before}{one}{after}" for one in inside.split(",")]
