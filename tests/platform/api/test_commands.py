"""Nothing is doable by a command alone: the documentation's table names what each calls."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import bacl_platform as bp
from bacl_platform.cli.main import app

PAGE = Path(__file__).parents[3] / "docs/python-api.md"
ROWS = dict(re.findall(r"^\| `bacl ([^`]+)` \| (.+) \|$", PAGE.read_text(), re.MULTILINE))


def commands(group, before=""):
    """Callbacks by the words that call them."""
    found = {
        before + (command.name or command.callback.__name__): command.callback
        for command in group.registered_commands
    }
    for inner in group.registered_groups:
        words = f"{before}{inner.name} " if inner.name else before
        callback = inner.typer_instance.registered_callback
        if callback is not None and callback.callback is not None:
            found[words.strip()] = callback.callback
        found |= commands(inner.typer_instance, words)
    return found


COMMANDS = commands(app)


def test_table_has_every_command_and_no_other():
    assert set(ROWS) == set(COMMANDS) and len(COMMANDS) > 30


def resolved(path):
    """What a dotted path of the table names."""
    kind, *names = path.split(".")
    found = {"experiment": bp.Experiment, "sweep": bp.Sweep, "bp": bp}.get(kind)
    if found is None:
        for length in range(len(names), 0, -1):
            try:
                found = importlib.import_module(".".join([kind, *names[:length]]))
            except ModuleNotFoundError:
                continue
            names = names[length:]
            break
    for name in names:
        found = getattr(found, name)
    return found


@pytest.mark.parametrize("words", COMMANDS)
def test_command_calls_what_the_table_says(words):
    paths = re.findall(r"`([\w.]+)`", ROWS[words])
    assert paths and all(resolved(path) is not None for path in paths)
    source = inspect.getsource(inspect.getmodule(COMMANDS[words]))
    assert re.search(rf"\b{paths[0].split('.')[-1]}\b", source), f"{words}: not called"
