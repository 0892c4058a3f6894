"""Text is UTF-8 whatever the locale says."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("bacl", "platform/bacl_platform", "docker")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def _leaves_it_to_the_locale(call: ast.Call) -> bool:
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    options = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in options:
        return False
    if name in ("run", "Popen", "check_output"):
        return "text" in options
    if name == "read_text":  # of a path; a bucket's takes the name of an object
        return not call.args
    if name == "write_text":  # of a path; the store's own function takes the path as well
        return isinstance(function, ast.Attribute) and len(call.args) == 1
    if name == "open":
        if getattr(getattr(function, "value", None), "id", "") in ("Image", "os", "tarfile"):
            return False
        places = call.args[isinstance(function, ast.Name) :]
        mode = options.get("mode", places[0] if places else ast.Constant("r"))
        modes = [n.value for n in ast.walk(mode) if isinstance(n, ast.Constant)]
        return any("b" not in text for text in modes)  # an archive's takes the name of a member
    return False


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_text_is_read_or_written_in_the_locales_encoding(path):
    calls = [n for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.Call)]
    found = [f"{path}:{call.lineno}" for call in calls if _leaves_it_to_the_locale(call)]
    assert found == []


@pytest.mark.parametrize(
    "environment, encoding, umlaut",
    [
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "utf-8", "ü"),
        ({"PYTHONIOENCODING": "ascii"}, "ascii", "\\xfc"),
        ({"PYTHONIOENCODING": "latin-1"}, "latin-1", "ü"),
    ],
)
def test_command_reads_and_says_what_the_locale_cannot(tmp_path, environment, encoding, umlaut):
    (tmp_path / "größe.yaml").write_text("name: [grün]\ndetector: {tüpe: x}\n", encoding="utf-8")
    known = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    code = "from bacl_platform.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "plan", os.fsencode("größe.yaml")],
        cwd=tmp_path,
        env=known | environment,
        capture_output=True,
    )
    said = (done.stdout + done.stderr).decode(encoding)
    assert done.returncode == 2, said
    assert f"t{umlaut}pe" in said and "Traceback" not in said


def test_tables_are_shown_without_the_letters_of_the_locale():
    code = """
from bacl_platform.cli import main as cli
from rich.console import Console
from rich.table import Table
def show():
    table = Table("AP · mean", "± deviation")
    table.add_row("41.6 ± 1.7", "größe")
    Console().print(table)
cli.app = show
cli.main()
"""
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert b"41.6 \\xb1 1.7" in done.stdout and done.stdout.isascii()
