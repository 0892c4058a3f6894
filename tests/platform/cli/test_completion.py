"""What shells complete on the line of a command."""

import pytest
from typer.testing import CliRunner

from bacl_platform.cli import completion
from bacl_platform.cli.main import app


def complete(line, monkeypatch):
    """The words that bash is told for a line that ends at the cursor."""
    words = line.split(" ")
    environment = {
        "_BACL_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, [], prog_name="bacl")
    return result.output.split()


@pytest.fixture
def files(tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text(
        "stages: {first: {kind: representation}, second: {variants: {one: {method: bce}}}}",
        encoding="utf-8",
    )
    (tmp_path / "own.yaml").write_text(
        "base: base.yaml\nstages: {second: {variants: {other: {}, our: {}}}}", encoding="utf-8"
    )
    (tmp_path / "broken.yaml").write_text("stages: [", encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def test_commands_options_and_methods_are_completed(monkeypatch):
    assert {"report", "rehearse", "register"} <= set(complete("bacl re", monkeypatch))
    assert complete("bacl report --stor", monkeypatch) == ["--store"]
    assert set(complete("bacl methods show ba", monkeypatch)) == {"bacl", "bags", "balms"}


def test_variants_are_those_of_the_file_on_the_line(files, monkeypatch):
    assert complete("bacl compare own.yaml o", monkeypatch) == ["other", "our"]
    assert complete("bacl compare base.yaml o", monkeypatch) == ["one"]
    assert complete("bacl compare broken.yaml o", monkeypatch) == []


def test_stages_come_from_bases_as_well(files, monkeypatch):
    monkeypatch.setenv("COMP_WORDS", "bacl report own.yaml --stage ")
    assert completion.stages("") == ["first", "second"]
