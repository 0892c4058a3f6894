"""`bacl ui`: which runs it asks for."""

import pytest
from typer.testing import CliRunner

from bacl_platform.cli import main as cli
from bacl_platform.tracking import ui
from bacl_platform.tracking.ui import Wanted


@pytest.fixture
def shown(monkeypatch):
    """Arguments of what is to be shown."""
    found = []
    monkeypatch.setattr(ui, "show", lambda *arguments: found.append(arguments))
    return found


def bacl_ui(store, *words):
    return CliRunner().invoke(cli.app, ["ui", *map(str, words), "--store", str(store.root)])


def test_file_is_that_of_its_plan(tiny, planned, store, shown):
    result = bacl_ui(store, tiny, "--seeds", "0,1", "--port", "5007")
    assert result.exit_code == 0, result.output
    ((found, wanted, port, _, browse),) = shown
    assert found.root == store.root and port == 5007 and browse is False  # no terminal
    command = f"bacl run {tiny} --store {store.root} --set 'seeds=[0, 1]'"
    assert wanted == Wanted("tiny", planned("seeds=[0, 1]").digest, command)


def test_sweep_is_told_by_its_command(sweep, store, shown):
    file = sweep()
    assert bacl_ui(store, file.path).exit_code == 0
    wanted = Wanted("alphas", file.digest, f"bacl sweep {file.path} --store {store.root}")
    assert shown[0][1] == wanted


def test_digest_of_a_sweep_stays_while_its_space_grows(sweep, alphas):
    grown = sweep(alphas.replace("[0, 0.5, 0.85]", "[0, 0.5, 0.85, 1]"), "grown.yaml")
    renamed = sweep(alphas.replace("name: alphas", "name: other"), "renamed.yaml")
    assert sweep().digest == grown.digest != renamed.digest


def test_without_a_file_it_is_what_ran_last(store, shown):
    assert bacl_ui(store).exit_code == 0
    assert shown[0][1] is None


def test_change_of_no_file_is_refused(store, shown):
    result = bacl_ui(store, "--seeds", "1")
    assert (result.exit_code, shown) == (2, [])
    assert result.stderr == "error: --set, --seeds: expected with a FILE, got none\n"
