"""The command line: quick to answer, sentences instead of tracebacks, exit codes."""

import errno
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from bacl.errors import RunError
from bacl_platform import cli, tracking


def bacl(*arguments: str, store=None):
    environment = {"BACL_STORE": str(store.root)} if store else {}
    return CliRunner().invoke(cli.app, list(arguments), env=environment)


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom bacl_platform import cli\n"
        "print([m for m in ('torch', 'ray', 'mlflow', 'pydantic', 'mmengine') if m in sys.modules])"
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

    monkeypatch.setattr(tracking, "serve", fail)
    result = bacl("ui", store=store)
    assert result.exit_code == code
    assert result.stderr == line


@pytest.mark.parametrize("place", [None, "/full/file"])
def test_full_disk_is_told_wherever_it_is_met(capsys, place):
    with pytest.raises(typer.Exit) as ended, cli.told(debug=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), place)
    assert ended.value.exit_code == 1
    told = capsys.readouterr().err
    assert f"error: no space left for {place or 'the store'}: free some" in told
