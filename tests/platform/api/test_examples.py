"""The experiment files that come with BACL: found wherever it is installed, listed, copied, run."""

import importlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bacl.errors import UsageError
from bacl_platform.api import examples
from bacl_platform.cli import main as cli

ROOT = Path(__file__).parents[3]


def bacl(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def test_files_are_the_repositorys_where_no_wheel_brought_them():
    assert examples.folder() == ROOT / "experiments"


def test_files_of_a_wheel_lie_in_the_package(monkeypatch, tmp_path):
    package = tmp_path / "site-packages/bacl_platform"
    (package / "experiments").mkdir(parents=True)
    monkeypatch.setattr(examples.bacl_platform, "__file__", str(package / "__init__.py"))
    assert examples.folder() == package / "experiments"


def test_every_file_is_listed_with_what_it_is():
    listed = bacl("examples").output
    names = examples.names()
    assert set(names) == {
        path.relative_to(ROOT / "experiments").as_posix()
        for path in (ROOT / "experiments").rglob("*.yaml")
    }
    assert all(names.values()) and all(name in listed for name in names)
    assert names["embedded/demo.yaml"].startswith("The main job: one stage-1 checkpoint")


def test_description_is_the_first_sentence_after_the_editors_line():
    content = "# yaml-language-server: $schema=../x.json\n# Of v1.0,\n# by Fig. 4. More.\nname: a\n"
    assert examples._about(content) == "Of v1.0, by Fig. 4"


def test_copies_plan_as_the_originals_do(tmp_path):
    from bacl_platform.spec.load import load

    copied = bacl("examples", "--copy", str(tmp_path / "mine"))
    assert copied.exit_code == 0, copied.output
    for name in ("embedded/replay.yaml", "embedded/corrected.yaml"):  # both have bases
        assert load(tmp_path / "mine" / name).stages == load(ROOT / "experiments" / name).stages
    assert json.loads((tmp_path / "mine/embedded/trees.json").read_text(encoding="utf-8"))


def test_copies_name_the_installed_schema(monkeypatch, tmp_path):
    package = tmp_path / "bacl_platform"
    (package / "experiments").mkdir(parents=True)
    line = "# yaml-language-server: $schema={}\nname: a\n"
    (package / "experiments/a.yaml").write_text(
        line.format("../platform/bacl_platform/spec/schemas/experiment.json"), encoding="utf-8"
    )
    monkeypatch.setattr(examples.bacl_platform, "__file__", str(package / "__init__.py"))
    (copy,) = examples.copy_to(tmp_path / "mine")
    schema = package / "spec/schemas/experiment.json"
    assert copy.read_text(encoding="utf-8") == line.format(schema)


def test_copies_replace_nothing(tmp_path):
    (tmp_path / "boards.yaml").write_text("mine", encoding="utf-8")
    refused = bacl("examples", "--copy", str(tmp_path))
    assert refused.exit_code == 2
    assert f"{tmp_path}: expected a folder that does not exist yet" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["boards.yaml"]
    with pytest.raises(UsageError):
        examples.copy_to(tmp_path)


def test_demo_is_the_shipped_file_run_from_anywhere_and_reported(monkeypatch, tmp_path):
    experiment = importlib.import_module("bacl_platform.api.experiment").Experiment
    done = []

    def run(self, address, console):
        done.append((self.file, self.store.root, self.settings.seeds, address))

    class Reported:
        def show(self, console):
            done.append("shown")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment, "run", run)
    monkeypatch.setattr(experiment, "report", lambda self: Reported())
    store = tmp_path / "store"
    told = bacl("demo", "--store", str(store), "--seeds", "3", "--address", "local")
    assert told.exit_code == 0, told.output
    file = ROOT / "experiments/embedded/demo.yaml"
    assert done == [(file, store, [3], "local"), "shown"]
    assert f"bacl ui {file} --store {store}" in told.output
