"""How much commands print: --quiet and --verbose."""

import pytest
from typer.testing import CliRunner

from bacl_platform.cli.main import app
from bacl_platform.console import Console, Watching, remark, say
from bacl_platform.volume import Volume, set_volume, volume


@pytest.fixture(params=Volume)
def chosen(request):
    set_volume(request.param)
    yield request.param
    set_volume(Volume.NORMAL)


def test_quiet_leaves_out_remarks_and_progress_but_no_results(chosen, capsys):
    console = Console()
    say(console, "result")
    remark(console, "remark")
    with Watching(console) as watching:
        watching.say("event")
    quiet = chosen is Volume.QUIET
    assert capsys.readouterr().out.split() == ["result", *([] if quiet else ["remark", "event"])]


def test_option_chooses_for_its_command_alone(monkeypatch):
    seen = []
    monkeypatch.setattr(
        "bacl_platform.api.examples.demo", lambda *_: seen.append(volume()) or 1 / 0
    )
    for option in ("--quiet", "-q", "--verbose", "-v"):
        CliRunner().invoke(app, ["demo", option])
    CliRunner().invoke(app, ["demo"])
    assert seen == [Volume.QUIET] * 2 + [Volume.VERBOSE] * 2 + [Volume.NORMAL]


def test_quiet_and_verbose_at_once_are_refused():
    result = CliRunner().invoke(app, ["demo", "-q", "-v"])
    assert result.exit_code == 2
    assert "expected --quiet or --verbose, got both" in result.output
    assert volume() is Volume.NORMAL


def test_refused_line_leaves_nothing_quiet():
    assert CliRunner().invoke(app, ["demo", "-q", "--no-such"]).exit_code == 2
    assert volume() is Volume.NORMAL
