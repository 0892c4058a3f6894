"""The page of all commands, which is made from their help."""

import importlib.util
from pathlib import Path

import typer

from bacl_platform.cli.main import app

SOURCE = Path(__file__).parents[2] / "docs/generate/commands.py"


def page():
    spec = importlib.util.spec_from_file_location("commands", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def test_page_has_every_command_with_example_options_and_defaults():
    text = page()
    sections = dict(part.split("\n", 1) for part in text.split("\n## ")[1:])
    root = typer.main.get_command(app)
    for name in root.commands:
        assert f"bacl {name}" in sections
    assert all("```bash\nbacl " in section for section in sections.values())
    assert "| `-p, --port PORT` | Port on this machine. [default: 5000; 1 to 65535] |" in text
    assert "[env var: BACL_STORE; default: bacl_store]" in sections["bacl store ls"]
    assert "\b" not in text
