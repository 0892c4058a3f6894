"""Methods and indicators from outside: found, checked, named in errors, and in versions."""

import pytest
import torch
from foreign import INDICATOR, METHOD, forgotten
from training import build, config_of, train

from bacl import extensions
from bacl.errors import UsageError
from bacl.method_settings.paper import BACL
from bacl.method_settings.registry import METHODS
from bacl.result_versions import versions_of
from bacl.settings import Detector, Recipe, Schedule


@pytest.fixture(autouse=True)
def outside(tmp_path):
    (tmp_path / "my_losses").mkdir()
    (tmp_path / "my_losses" / "__init__.py").touch()
    (tmp_path / "my_losses" / "smoothed.py").write_text(METHOD)
    (tmp_path / "my_indicator.py").write_text(INDICATOR)
    with forgotten():
        yield


def versions(variant):
    return versions_of(Detector(), Recipe(schedule=Schedule(iterations=1)), variant)


def test_bank_trains_a_method_and_an_indicator_from_outside(tmp_path, dataset_info):
    extensions.load(["my_losses.smoothed", "my_indicator"], [tmp_path])
    variants = {
        "smoothed": METHODS["smoothed"].model_validate({"method": "smoothed", "smoothing": 0.2}),
        "rarity": BACL(method="bacl", indicator="rarity"),
    }
    config = config_of(dataset_info, variants)
    model = build(config)
    before = {k: v.clone() for k, v in model.state_dict().items() if "fc_cls.weight" in k}
    told: list[dict] = []
    train(config, model, 1, told=told)
    assert {"smoothed.loss_cls", "rarity.loss_cls"} <= told[0].keys()
    assert len(before) == 2
    assert all(not torch.equal(value, model.state_dict()[key]) for key, value in before.items())


def test_versions_hold_the_sources_of_the_whole_package(tmp_path):
    extensions.load(["my_losses.smoothed", "my_indicator"], [tmp_path])
    smoothed = METHODS["smoothed"].model_validate({"method": "smoothed"})
    first = versions(smoothed)["method.smoothed"]
    assert isinstance(first, str) and versions(smoothed)["training"] == 1
    (tmp_path / "my_losses" / "helper.py").write_text("HALF = 0.5\n")
    assert versions(smoothed)["method.smoothed"] != first
    rarity = versions(BACL(method="bacl", indicator="rarity"))
    assert isinstance(rarity["indicator.rarity"], str)
    assert rarity["method.bacl"] == rarity["method.fcbl"] == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            METHOD.replace('"smoothed"', '"bce"'),
            "imports.0: method bce of mine is registered already by bacl.method_settings.paper: "
            "expected another name",
        ),
        (
            INDICATOR.replace('"rarity"', '"mean_score"'),
            "imports.0: indicator mean_score of mine is registered already by bacl.indicators: "
            "expected another name",
        ),
        (
            METHOD.replace('    method: Literal["smoothed"]\n', ""),
            "imports.0: mine.Smoothed: expected a field `method: Literal[NAME]`, which names the",
        ),
        (
            "x = 1\ny = x / 0\n",
            "imports.0: mine cannot be imported: ZeroDivisionError: division by",
        ),
        (
            "import no_such_thing\n",
            "imports.0: mine cannot be imported: ModuleNotFoundError: No module named",
        ),
    ],
)
def test_module_that_cannot_be_used_is_told(tmp_path, content, problem):
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UsageError) as error:
        extensions.load(["mine"], [tmp_path])
    assert str(error.value).startswith(problem)
    if "cannot be imported" in problem:
        line = len(content.splitlines())
        assert str(error.value).endswith(f"({tmp_path / 'mine.py'}, line {line})")


@pytest.mark.parametrize("name", ["no_such", "my_losses.no_such", "no_such.module"])
def test_module_that_is_not_there_is_told_with_where_it_was_looked_for(tmp_path, name):
    with pytest.raises(UsageError) as error:
        extensions.load(["my_losses.smoothed", name], [tmp_path])
    assert str(error.value) == (
        f"imports.1: expected a module that Python finds, in {tmp_path} or installed, got '{name}'"
    )


@pytest.mark.parametrize("broken", [False, True])
def test_installed_package_announces_its_method(tmp_path, monkeypatch, broken):
    info = tmp_path / "my_losses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-losses\nVersion: 1.0\n")
    module = "my_losses.no_such" if broken else "my_losses.smoothed"
    (info / "entry_points.txt").write_text(f"[bacl.methods]\nsmoothed = {module}\n")
    monkeypatch.syspath_prepend(tmp_path)
    if broken:
        with pytest.raises(UsageError) as error:
            extensions.load_installed()
        assert str(error.value) == (
            "the installed package my-losses, entry point smoothed of bacl.methods: expected a "
            "module that Python finds, got 'my_losses.no_such'"
        )
    else:
        extensions.load_installed()
        assert "smoothed" in METHODS
