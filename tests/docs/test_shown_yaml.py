"""Every YAML that the documents show is one that a command takes."""

import re
from pathlib import Path

import pytest
import yaml
from foreign import forgotten
from pages import ROOT, Block, blocks

from bacl.schema import rebuild
from bacl_platform.plan.trials import SweepFile
from bacl_platform.spec.load import load_unresolved

BASE = "experiments/lvis/v1.0_r50.yaml"
"""What a part of an experiment stands in, where the block does not say it."""
STAGE = {"recipe", "resources"}
"""Fields of a stage that a block may begin with."""
OTHERS = {"containers": "a pod of Kubernetes", "scrape_configs": "Prometheus"}
"""Files of other programs, by a field that they have."""

YAML = blocks("yaml")


def write_whole(given: dict, path: Path) -> None:
    """Write an experiment that says what a block shows of one."""
    if given.keys() <= STAGE:
        given = {"stages": {"classifier": given}}
    whole = {"name": "shown", **given}
    if "base" not in given and not {"dataset", "detector", "stages"} <= given.keys():
        base = yaml.safe_load((ROOT / BASE).read_text(encoding="utf-8"))
        replaced = {"baseline", *given} - {"stages"}
        rest = {field: value for field, value in base.items() if field not in replaced}
        path.with_name("base.yaml").write_text(yaml.safe_dump(rest), encoding="utf-8")
        whole["base"] = "base.yaml"
    path.write_text(yaml.safe_dump(whole), encoding="utf-8")


def write_modules(block: Block, names: list[str], folder: Path) -> None:
    """Write what a page's Python brings, as the module that its YAML imports."""
    text = block.page.read_text(encoding="utf-8")
    shown = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    without_tests = [code for code in shown if "def test_" not in code]
    for name in names:
        code = "\n\n".join(without_tests)
        code = re.sub(r"^class (\w+)\(Method\)", r"@_register\nclass \1(Method)", code, flags=re.M)
        register = "from bacl.method_settings.registry import register as _register\n"
        (folder / f"{name}.py").write_text(register + code, encoding="utf-8")


def test_pages_show_yaml():
    assert len(YAML) > 15


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_what_a_command_takes(block, tmp_path, monkeypatch):
    given = yaml.safe_load(block.text)
    if given.keys() & OTHERS.keys():
        return
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    named = re.match(r"# (experiments/\S+\.yaml)\n", block.text)
    if named:
        assert given == yaml.safe_load((ROOT / named[1]).read_text(encoding="utf-8"))
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BACL_DATA", str(tmp_path))
    path = tmp_path / "shown.yaml"
    if "space" in given:
        path.write_text(block.text, encoding="utf-8")
        file = SweepFile(path)
        for values in [*file.sweep.values()][:3] if file.sweep.search != "tpe" else []:
            file.trial(values)
        return
    with forgotten():
        write_modules(block, given.get("imports", []), tmp_path)
        write_whole(given, path)
        load_unresolved(path, [])
    rebuild()
