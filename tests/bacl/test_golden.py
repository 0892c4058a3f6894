"""Results are those recorded, or a version of results was raised."""

import re
from dataclasses import replace
from typing import get_args
from unittest.mock import patch

import golden
import pytest

from bacl import result_versions
from bacl.method_settings.indicators import INDICATORS
from bacl.method_settings.registry import METHODS
from bacl.settings import Detector, Recipe
from bacl.variants import Softmax


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return golden.cases(tmp_path_factory.mktemp("golden"))


def test_results_are_those_recorded(found):
    recorded = golden.read()
    problems = [golden.problem(name, case, recorded.get(name)) for name, case in found.items()]
    assert not any(problems), "\n".join(filter(None, problems))
    assert recorded.keys() == found.keys()


def test_every_part_has_a_case(found):
    kinds = {
        "detector": get_args(Detector.model_fields["type"].annotation),
        "sampler": get_args(Recipe.model_fields["sampler"].annotation),
        "augmentation": get_args(Recipe.model_fields["augmentation"].annotation),
        "method": METHODS,
        "indicator": INDICATORS,
    }
    parts = {f"{kind}.{name}" for kind, names in kinds.items() for name in names}
    parts |= {"training", "evaluation", "resampling", "hallucination", "features"}
    assert {part for case in found.values() for part in case.versions} == parts
    assert set(result_versions.VERSIONS) <= parts


def test_result_that_changes_without_a_version_is_told_with_its_part(tmp_path):
    def changed(variant, logits, labels):
        return 1.001 * loss(variant, logits, labels)

    loss = Softmax.loss
    with patch.object(Softmax, "loss", changed):
        case = golden.cases(tmp_path)["resampling: softmax"]
    told = golden.problem("resampling: softmax", case, golden.read()["resampling: softmax"])
    assert re.fullmatch(
        r"resampling: softmax: results changed \(loss_cls\[0\] is [\d.]+, was [\d.]+\): if that is "
        r"on purpose, raise the version of the part that changed \(method\.softmax, resampling, "
        r"augmentation\.multi_scale, sampler\.random, detector\.faster_rcnn, evaluation, "
        r"training\) in bacl/result_versions\.py and record anew with `python "
        r"tests/bacl/golden\.py`; finished jobs that used the part are then trained again\.",
        told,
    )


def test_defaults_are_those_recorded():
    recorded = golden.read(golden.DEFAULTS)
    now = golden.defaults()
    problems = [
        golden.default_problem(part, found, recorded.get(part)) for part, found in now.items()
    ]
    assert not any(problems), "\n".join(filter(None, problems))
    assert recorded.keys() == now.keys()


def test_default_that_changes_without_a_version_is_told_with_its_part(monkeypatch):
    recorded = golden.read(golden.DEFAULTS)["method.fcbl"]
    now = {**recorded, "defaults": {**recorded["defaults"], "alpha": 0.5}}
    assert golden.default_problem("method.fcbl", now, recorded) == (
        "method.fcbl: the default of alpha is 0.5, was 0.85: raise the version of method.fcbl in "
        "bacl/result_versions.py, because keys of jobs leave defaults out, and record anew with "
        "`python tests/bacl/golden.py`."
    )
    assert "not recorded for version 2" in golden.default_problem(
        "method.fcbl", {**now, "version": 2}, recorded
    )


CASE = golden.Case({"method.softmax": 1, "training": 1}, {"loss_cls": [1.0, 2.0]})


@pytest.mark.parametrize(
    ("values", "versions", "told"),
    [
        ({"loss_cls": [1.00005, 2.0]}, {"method.softmax": 1, "training": 1}, None),
        ({"loss_cls": [1.0002, 2.0]}, {"method.softmax": 1, "training": 1}, "results changed"),
        ({"loss_cls": [1.0]}, {"method.softmax": 1, "training": 1}, "has 2 values, had 1"),
        ({"loss_bbox": [1.0]}, {"method.softmax": 1, "training": 1}, "values are loss_cls, were"),
        ({"loss_cls": [1.0, 2.0]}, {"method.softmax": 1, "training": 2}, "changed (training 1)"),
        ({"loss_cls": [9.0, 2.0]}, {"method.softmax": 1, "training": 2}, "changed (training 1)"),
    ],
)
def test_recorded_case_holds_only_with_its_values_and_versions(values, versions, told):
    found = golden.problem("x", CASE, {"values": values, "versions": versions})
    assert found is None if told is None else told in found


def test_recording_refuses_what_changed_without_a_version(tmp_path, monkeypatch):
    file = tmp_path / "golden.json"
    monkeypatch.setattr(golden, "FILE", file)
    monkeypatch.setattr(golden, "DEFAULTS", tmp_path / "defaults.json")
    monkeypatch.setattr(golden, "cases", lambda folder: {"x": CASE})
    golden.main()
    first = file.read_text()
    changed = replace(CASE, values={"a": [1.0]})
    monkeypatch.setattr(golden, "cases", lambda folder: {"x": changed})
    with pytest.raises(SystemExit, match="x: results changed"):
        golden.main()
    assert file.read_text() == first
    changed.versions["training"] = 2
    golden.main()
    assert golden.read()["x"] == {
        "versions": {"method.softmax": 1, "training": 2},
        "values": {"a": [1.0]},
    }
