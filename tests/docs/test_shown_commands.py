"""Every command that the documents show can be given, and those that are quick do what they say."""

import re
import shlex

import pytest
import typer
from pages import PAGES, ROOT, SHELLS, blocks, commands, expanded
from typer.testing import CliRunner

from bacl_platform.cli.main import app
from bacl_platform.spec.load import load_unresolved
from bacl_platform.spec.sweep import is_sweep

GROUP = typer.main.get_command(app)
COMMANDS = commands()
OURS = [
    (command, list(command.words[command.words.index("bacl") + 1 :]))
    for command in COMMANDS
    if command.words[0] == "bacl" or ("--" in command.words and "bacl" in command.words)
]
QUICK = (
    ["methods"],
    ["detectors"],
    ["plan"],
    ["status"],
    ["store", "ls"],
    ["store", "verify"],
)
"""Beginnings of commands that need seconds and no Ray, at most those of the embedded set."""


def only_read(command):
    """A command that reads its words and does nothing."""
    command.callback = lambda **_: None
    for inner in getattr(command, "commands", {}).values():
        only_read(inner)
    return command


READER = only_read(typer.main.get_command(app))


def shipped(words):
    """Words that name files of the repository."""
    names = [re.sub(r":\w+$", "", word) for word in words]
    folders = ("bacl/", "docs/", "docker/", "experiments/", "platform/", "tests/")
    return [name for name in names if name.startswith(folders)]


def test_pages_show_commands():
    assert len(OURS) > 80


@pytest.mark.parametrize(("command", "words"), OURS, ids=lambda value: str(value)[:60])
def test_command_is_read_by_the_command_line(command, words):
    try:
        READER.main(expanded(words), prog_name="bacl", standalone_mode=False)
    except Exception as error:
        pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize(
    "words", [["runn", "a.yaml"], ["run", "a.yaml", "--varant", "b"], ["run"], ["data", "look"]]
)
def test_command_that_there_is_not_is_told(words):
    with pytest.raises(Exception, match=r"No such|Missing"):
        READER.main(words, prog_name="bacl", standalone_mode=False)


def test_commands_name_files_that_are_there():
    written = re.compile(r"--out (\S+)")
    for command in COMMANDS:
        line = shlex.join(command.words)
        for name in shipped(expanded(command.words)):
            made = name in written.findall(line) or name.startswith("docker/client.env")
            assert made or (ROOT / name).exists(), f"{command}: there is no {name}"


def test_commands_name_targets_of_make():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    shown = {(str(c), word) for c in COMMANDS if c.words[0] == "make" for word in c.words[1:]}
    assert {word for _, word in shown} >= {"demo", "test", "docs"}
    assert [(c, word) for c, word in shown if "=" not in word and word not in targets] == []


@pytest.mark.parametrize(
    ("command", "words"),
    [(c, words) for c, words in OURS if "--set" in words and shipped(words)],
    ids=lambda value: str(value)[:60],
)
def test_changed_fields_are_fields(command, words):
    (file,) = shipped(words)
    changes = [words[place + 1] for place, word in enumerate(words) if word == "--set"]
    if not is_sweep(ROOT / file):
        load_unresolved(ROOT / file, changes)


INLINE = [
    (page, shown)
    for page in PAGES
    for shown in re.findall(r"`bacl ([^`]+)`", page.read_text(encoding="utf-8"))
]


def test_prose_names_commands_and_options_that_there_are():
    assert len(INLINE) > 150
    for page, shown in INLINE:
        words = [word for word in shown.split() if word != "\\"]
        found = [GROUP]
        while words and hasattr(found[0], "commands") and re.match(r"[a-z]", words[0]):
            names = words.pop(0).split("|")
            unknown = [name for name in names if name not in found[0].commands]
            if unknown:
                pytest.fail(f"{page.relative_to(ROOT)}: `bacl {shown}`: no command {unknown[0]}")
            found = [found[0].commands[name] for name in names]
        options = {opt for one in found for param in one.params for opt in param.opts} | {"--help"}
        for word in words:
            name = word.split("=")[0].strip("[],.")
            assert not name.startswith("--") or name in options, (
                f"{page.relative_to(ROOT)}: `bacl {shown}`: no option {name}"
            )


def quick_ones():
    """Quick commands, each once; plans are of the embedded set alone, which is drawn."""
    found = {}
    for command, words in OURS:
        files = shipped(words)
        drawn = bool(files) and all("embedded" in file for file in files)
        if any(words[: len(one)] == one for one in QUICK) and (words[0] != "plan" or drawn):
            marks = [pytest.mark.slow] if words[0] == "plan" else []
            found.setdefault(tuple(words), pytest.param(words, command, marks=marks))
    return list(found.values())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder to give commands in, with the repository's experiments."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    return folder


@pytest.mark.parametrize(("words", "command"), quick_ones(), ids=lambda value: str(value)[:60])
@pytest.mark.xdist_group("quick_commands")  # which share what plans draw
def test_quick_command_succeeds(words, command, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("BACL_STORE", str(place / "store"))
    result = CliRunner().invoke(app, expanded(words))
    assert result.exit_code == 0, f"{command}: {result.output[-500:]}"


def test_blocks_of_commands_say_that_they_are():
    """A block without a language is shown, not typed: a command in it would go unchecked."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fences = re.findall(r"^ *```(\w*)[^\n]*\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
        for language, content in fences:
            if language not in (*SHELLS, "python", "yaml", "json", "text"):
                typed = re.search(r"^\s*(bacl|make|python) \S+", content, re.MULTILINE)
                assert typed is None, f"{page.relative_to(ROOT)}: ```{language} has {typed[0]!r}"
    assert blocks(*SHELLS)
