"""Exit codes are those of the page on the command line."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bacl_platform.cli import main as cli
from bacl_platform.tracking import ui

PAGE = Path(__file__).parents[3] / "docs/command-line.md"
CODES = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE)}


def stopped(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, ["--version"]),
        (1, ["logs-of-nothing"]),
        (2, ["plan", "nowhere.yaml"]),
        (2, ["plan", "--no-such-option"]),
        (130, ["ui"]),
    ],
)
def test_exit_code_is_the_documented_one(monkeypatch, tiny, store, code, words):
    monkeypatch.setattr(ui, "show", stopped)
    words = ["report", str(tiny)] if words == ["logs-of-nothing"] else words
    done = CliRunner().invoke(cli.app, words, env={"BACL_STORE": str(store.root)})
    assert done.exit_code == code


def test_page_has_the_codes_that_are_tried():
    assert sorted(CODES) == [0, 1, 2, 130]
