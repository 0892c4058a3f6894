"""`bacl init` on the command line."""

from typer.testing import CliRunner

from bacl_platform.cli import main as cli


def test_command_writes_a_file_and_refuses_what_it_cannot_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    made = run(cli.app, ["init", "--device", "cpu"])
    assert made.exit_code == 0 and "next: bacl run mine.yaml" in made.output
    assert (tmp_path / "mine.yaml").read_text(encoding="utf-8").count("name: embedded") == 1
    again = run(cli.app, ["init"])
    assert again.exit_code == 2 and "--force replaces it" in again.output
    lost = run(cli.app, ["init", "--data", "nowhere", "--out", "other.yaml"])
    assert lost.exit_code == 2 and "--data nowhere: expected a folder or" in lost.output
    odd = run(cli.app, ["init", "--device", "tpu", "--out", "other.yaml"])
    assert "--device: expected auto, cpu or gpu, got 'tpu'" in odd.output
