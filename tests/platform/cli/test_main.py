"""The command line: quick to answer, sentences instead of tracebacks, exit codes."""

import errno
import os
import re
import shlex
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from bacl import __version__
from bacl.errors import RunError
from bacl_platform.cli import main as cli
from bacl_platform.tracking import ui


def bacl(*arguments: str, store=None):
    environment = {"BACL_STORE": str(store.root)} if store else {}
    return CliRunner().invoke(cli.app, list(arguments), env=environment)


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nimport bacl_platform.cli.main\n"
        "print([m for m in ('torch', 'numpy', 'pandas', 'ray', 'mlflow', 'pydantic', 'mmengine', "
        "'rich.console', 'yaml') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plan_shows_jobs_and_exits_0(tiny, store):
    result = bacl("plan", str(tiny), "--seeds", "0,1", store=store)
    assert result.exit_code == 0, result.output
    assert "0 of 4 jobs are in the store, 4 to run" in result.output


def test_mistake_in_a_file_exits_2_with_a_line_for_each(tiny, store):
    result = bacl("plan", str(tiny), "--set", "seeds=5", "--set", "baseline=4", store=store)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        f"error: {tiny}: seeds: expected a list of whole numbers with at least one entry, got 5",
        f"error: {tiny}: baseline: expected the name of a variant, or null, got 4: put it in "
        "quotes, which make it text",
    ]


@pytest.mark.parametrize("seeds", ["", "a", "1]", "0;1", "-1", "0,"])
def test_seeds_that_are_none_are_told_by_the_options_name(tiny, store, seeds):
    result = bacl("plan", str(tiny), "--seeds", seeds, store=store)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: --seeds: expected whole numbers with commas between, such as 0,1, got {seeds!r}\n"
    )


def test_debug_lets_the_traceback_through(tiny, store):
    result = bacl("plan", str(tiny), "--set", "name=5", "--debug", store=store)
    assert "Traceback" not in result.output
    assert type(result.exception).__name__ == "UsageError"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RunError("a\nb"), 1, "error: a\nerror: b\n"),
        (
            OSError(errno.EIO, os.strerror(errno.EIO)),
            1,
            "error: [Errno 5] Input/output error\n",
        ),
        (
            KeyboardInterrupt(),
            130,
            "stopped: the same command goes on from the last checkpoints\n",
        ),
    ],
)
def test_failure_is_told_and_sets_the_exit_code(monkeypatch, store, error, code, line):
    def fail(*_):
        raise error

    monkeypatch.setattr(ui, "show", fail)
    result = bacl("ui", store=store)
    assert result.exit_code == code
    assert result.stderr == line


def commands(group, words=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name))
        yield (*words, name), command


COMMANDS = dict(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_says_what_a_command_and_each_option_does(words, store):
    result = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    assert max(map(len, result.output.splitlines())) <= 80
    for pythonism in ("<", "Path", " else ", "None", "default: (", "x>=", "......"):
        assert pythonism not in " ".join(result.output.split())
    assert "\n  Example" in result.output
    assert all(f"bacl {word}" in result.output for word in [" ".join(words)])
    assert not re.search(r"\{[A-Z]", result.output)
    for param in COMMANDS[words].params:
        assert param.help, param.name


def test_version_is_the_packages():
    result = bacl("--version")
    assert (result.exit_code, result.output) == (0, f"bacl {__version__}\n")


def test_example_of_a_help_text_parses(monkeypatch, store):
    """Every `bacl ...` in an example names a command and options that there are."""
    root = typer.main.get_command(cli.app)
    seen = 0
    for words, command in [((), root), *COMMANDS.items()]:
        for line in (command.help or "").splitlines():
            if not line.strip().startswith("bacl ") or "COMMAND" in line:
                continue
            given = shlex.split(line)[1:]
            found = root
            while hasattr(found, "commands") and given:
                found = found.commands[given.pop(0)]
            context = found.make_context("bacl", given, resilient_parsing=False) if given else None
            seen += 1
            assert not words or context is None or found.name in line
    assert seen > 40


def test_lists_of_commands_cut_no_sentence():
    for words in ([], ["data"], ["store"], ["methods"]):
        result = CliRunner().invoke(cli.app, [*words, "--help"], env={"COLUMNS": "80"})
        assert "..." not in result.output.replace("ARGS]...", "")


def test_file_name_that_is_no_text_is_printed_with_escapes(tiny, tmp_path):
    words = ["data", "stats", tiny, "--store", tmp_path, "--out", os.fsencode(tmp_path) + b"/\xff"]
    command = [sys.executable, "-m", "bacl_platform", *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert r"/\udcff/long_tail.png" in done.stdout
    done = subprocess.run([*command[:-2], "--store", words[-1]], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == (
        f"error: --store {tmp_path}/\\udcff: expected a path that is text in UTF-8\n"
    )


def test_sweep_of_an_experiment_is_told_by_which_command_to_run_it(tiny, store):
    result = bacl("sweep", str(tiny), store=store)
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {tiny}: expected a sweep, got an experiment (a sweep has a `space`): `bacl run "
        f"{tiny}` runs it\n"
    )


@pytest.mark.parametrize("words", [["run"], ["complexity", "--categories", "3"], ["trees"]])
def test_commands_on_experiments_tell_which_ones_read_a_sweep(tiny, store, words):
    sweep = tiny.with_name("sweep.yaml")
    sweep.write_text("name: s\nbase: tiny.yaml\nspace: {variant.alpha: [0, 1]}\n")
    result = bacl(words[0], str(sweep), *words[1:], store=store)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {sweep}: expected an experiment, got a sweep")
    assert f"`bacl sweep {sweep}` runs it" in result.stderr


def test_what_only_the_dataset_can_refuse_names_file_and_field(tiny, store):
    field = "stages.heads.variants.bacl.hallucination.categories"
    result = bacl("plan", str(tiny), "--set", f"{field}=99", store=store)
    assert result.stderr == (
        f"error: {tiny}: {field}: expected at most the dataset's 6 categories, got 99\n"
    )
    sweep = tiny.with_name("sweep.yaml")
    sweep.write_text(
        "name: s\nbase: tiny.yaml\nstage: heads\nvariant: bacl\n"
        "space: {variant.hallucination.categories: [4, 99]}\n"
    )
    result = bacl("plan", str(sweep), store=store)
    assert result.stderr == (
        f"error: {sweep}: trial categories=99: variant.hallucination.categories: expected at most "
        "the dataset's 6 categories, got 99\n"
    )
