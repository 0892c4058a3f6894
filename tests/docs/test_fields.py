"""The page of every field: that it has them all, and what it says of keys."""

import importlib.util
import re
from pathlib import Path

import pytest

from bacl.method_settings.corrections import CORRECTIONS
from bacl.method_settings.registry import METHODS
from bacl.settings import Recipe
from bacl_platform.spec.experiment import Experiment
from bacl_platform.spec.sweep import Sweep

PATH = Path(__file__).parents[2] / "docs/generate/fields.py"


@pytest.fixture(scope="module")
def page():
    spec = importlib.util.spec_from_file_location("fields", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.page()


def entry(page, anchor):
    """What the page says of a field."""
    return page.split(f'<a id="{anchor}"></a>')[1].split("<a id=")[0]


def test_page_has_every_field_once(page):
    anchors = re.findall(r'<a id="([\w-]+)"></a>', page)
    assert len(anchors) == len(set(anchors)) > 200
    for model in (Experiment, Sweep):
        assert {f"{model.__name__.lower()}-{name}" for name in model.model_fields} <= set(anchors)
    recipe = {a.split("-")[1] for a in anchors if re.match("(image|evaluation|)recipe-", a)}
    assert recipe == set(Recipe.model_fields)
    for name, method in {**METHODS, **CORRECTIONS}.items():
        own = method.model_fields.keys() - {"method", "of"}
        assert {f"{method.__name__.lower()}-{field}" for field in own} <= set(anchors), name


def test_links_of_the_page_lead_to_its_parts(page):
    anchors = set(re.findall(r'<a id="([\w-]+)"></a>', page))
    titles = {title.lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", page, re.M)}
    assert {link for link in re.findall(r"\]\(#([\w-]+)\)", page)} <= anchors | titles


@pytest.mark.parametrize(
    ("anchor", "words"),
    [
        ("schedule-lr", ["number > 0", "default `0.02`", "trains anew"]),
        ("schedule-warmup", ["whole number ≥ 0", "unit: iterations", "trains anew"]),
        ("schedule-batch", ["unit: images per step"]),
        ("recipe-checkpoint_every", ["whole number > 0", "keeps results"]),
        ("recipe-schedule", ["[Schedule](#schedule)", "required"]),
        ("imagerecipe-flip", ["number ≥ 0 and ≤ 1", "trains anew"]),
        ("imagerecipe-loader_workers", ["keeps results"]),
        ("imagerecipe-scales", ["list of 2, each whole number > 0", "unit: pixels"]),
        ("dataset-train", ["where the data's content is another"]),
        ("detector-fc_channels", ["trains anew"]),
        ("resources-cpus", ["keeps results"]),
        ("resources-workers", ["whole number > 0 or list of 2", "keeps results"]),
        ("experiment-baseline", ["no part of jobs"]),
        ("experiment-seeds", ["trains anew"]),
        ("bacl-alpha", ["Range of the margin", "trains anew"]),
        ("hallucination-samples", ["trains anew"]),
        ("norcal-gamma", ["trains anew"]),
        ("sweep-search", ["one of `grid`, `random`, `tpe`"]),
    ],
)
def test_field_says_what_it_takes_and_what_a_change_does(page, anchor, words):
    said = entry(page, anchor)
    assert all(word in said for word in words), said


def test_no_line_is_a_pydantic_type(page):
    assert not re.search(r"Annotated|Literal|NoneType|pydantic|\$ref", page)


def test_every_field_of_an_experiment_says_what_a_change_does(page):
    experiments = page.split("## Methods")[0].split("## Detector")[1]
    fields = experiments.split("<a id=")[1:]
    silent = [
        field.split('"')[1]
        for field in fields
        if "-" in field.split('"')[1] and "**key**" not in field and "](#" not in field
    ]
    tags = ("-kind", "-type")
    assert [name for name in silent if not name.endswith(tags)] == []
