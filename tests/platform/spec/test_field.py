"""The shipped experiments with the whole field: every method is in them, and can be planned."""

from bisect import bisect_left
from pathlib import Path

import pytest

from bacl.datasets.categories import Category
from bacl.method_settings.registry import METHODS
from bacl.settings import Groups
from bacl_platform.plan.planner import make_plan
from bacl_platform.spec.experiment import variants_of
from bacl_platform.spec.load import load
from bacl_platform.tools.stand_in import stand_in

FOLDER = Path(__file__).parents[3] / "experiments"
FIELDS = sorted(FOLDER.glob("*/*field*.yaml"))
each = pytest.mark.parametrize("path", FIELDS, ids=lambda path: f"{path.parent.name}-{path.stem}")
COCO_LT = Groups(by="instances", bounds=[19, 399, 7999], names=["1", "2", "3", "4"])
FOUNDATIONS = {"cosine", "fcbl"}
"""Methods that others stand on, of which the paper's table has no rows."""


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.setenv("BACL_DATA", "/data")


def methods(experiment):
    return {
        settings.method
        for name, stage in experiment.stages.items()
        for settings in variants_of(name, stage).values()
    }


def test_there_is_a_field_for_each_dataset():
    assert [f"{path.parent.name}/{path.stem}" for path in FIELDS] == [
        "coco_lt/field",
        "embedded/field",
        "lvis/v0.5_field_r50",
        "lvis/v1.0_field_r50",
    ]


@each
def test_every_method_is_in_the_field(path):
    without_trees = set() if path.parent.name == "embedded" else {"forest"}
    assert methods(load(path)) == METHODS.keys() - FOUNDATIONS - without_trees


@each
def test_stages_of_table_13_are_shared_with_it(path):
    table = {
        "coco_lt": "lvis/v1.0_table13_r50",
        "embedded": "embedded/table13",
    }.get(path.parent.name, f"lvis/{path.stem.replace('field', 'table13')}")
    stages, theirs = load(path).stages, load(FOLDER / f"{table}.yaml").stages
    changed = {name for name, stage in theirs.items() if stages[name] != stage}
    assert changed == ({"classifier_only", "calibration"} if "coco_lt" in path.parts else set())


def coco_lt_like(prepared):
    """A dataset of COCO-LT's four groups, in all of which BAGS finds categories."""
    counts = [round(100_000 ** (rank / 79)) for rank in range(80)]
    categories = [
        Category(
            id=rank,
            name=f"category {rank}",
            frequency=COCO_LT.names[bisect_left(COCO_LT.bounds, count)],
            image_count=-(-count // 2),
            instance_count=count,
        )
        for rank, count in enumerate(counts)
    ]
    return prepared.model_copy(update={"categories": categories, "groups": COCO_LT})


@pytest.mark.parametrize("name", ["coco_lt/field", "lvis/v0.5_field_r50", "lvis/v1.0_field_r50"])
def test_field_of_a_large_dataset_is_planned(name, prepared, store):
    experiment = load(FOLDER / f"{name}.yaml")
    if name.startswith("coco_lt"):
        data = coco_lt_like(prepared)
    else:
        data = prepared.model_copy(update={"categories": stand_in(1203).categories})
    plan = make_plan(experiment, data, store)
    assert len(plan.jobs) == len(experiment.stages)


def test_page_of_the_field_has_every_method_of_others():
    page = (FOLDER.parent / "docs" / "methods" / "field.md").read_text(encoding="utf-8")
    own = {"softmax", "sigmoid", "bce", "fcbl", "bacl"}
    assert {name for name in METHODS if f"`{name}`" not in page} == own
