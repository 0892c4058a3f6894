"""JSON Schemas of files: that every field is described, what they accept, that they are current."""

import json
import os
from functools import cache
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

import bacl_platform.spec
from bacl.schema import Settings, description
from bacl_platform.spec.json_schema import DIALECT, schema_of, text_of
from bacl_platform.spec.yaml_files import read_yaml, says_sweep

KINDS = ("experiment", "sweep")
ROOT = Path(__file__).parents[3]
SCHEMAS = Path(bacl_platform.spec.__file__).parent / "schemas"
SHIPPED = [
    path
    for path in sorted((ROOT / "experiments").rglob("*.yaml"))
    if path.name != "paper.yaml"  # tables, not an experiment
]

WHOLE = """
name: mine
dataset: {format: coco, train: "${DATA}/train.json", val: "${DATA}/val.json", images: "${DATA}"}
detector: {backbone: timm/resnet50d}
stages:
  representation:
    kind: representation
    recipe: {schedule: {epochs: 12}}
  classifier:
    kind: classifier
    after: representation
    variants:
      bacl: {method: bacl, hallucination: null}
      focal: {method: focal}
    recipe:
      schedule: {epochs: 12}
      optimizer: {type: adamw}
      augmentations: [{type: RandomCrop, crop_size: [64, 64]}]
"""
PART = """
base: whole.yaml
detector: {fc_channels: 64}
stages:
  representation: null
  classifier:
    recipe: {optimizer: {weight_decay: 0.1}}
    resources: {workers: [1, 2]}
  more: {kind: features, after: classifier}
paper: {column: v1.0}
"""
SWEEP = """
name: alphas
base: whole.yaml
variant: {method: focal}
space:
  variant.alpha: [0.2, 0.3]
  recipe.schedule.lr: {loguniform: [0.01, 0.1]}
  stage: classifier
search: random
samples: 3
"""


made = cache(schema_of)


def problems(kind, content):
    """(place, sentence) of all that a schema finds in a file's content."""
    validator = Draft202012Validator(made(kind))
    return [(error.json_path, error.message) for error in validator.iter_errors(content)]


def fields(schema):
    """(class, field, node) of all fields that mappings may have."""
    for name, node in {"file": schema, **schema["$defs"]}.items():
        classes = [node, node.get("else", {}), *(c["then"] for c in node.get("allOf", []))]
        for mapping in classes:
            if mapping.get("additionalProperties") is False:
                for field, own in mapping.get("properties", {}).items():
                    yield name, field, own


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_described(kind):
    found = list(fields(made(kind)))
    assert len(found) > 100
    bare = [
        f"{name}.{field}"
        for name, field, node in found
        if not node.get("description") and not all(o.get("description") for o in _options(node))
    ]
    assert not bare, f"write a docstring below: {', '.join(bare)}"


def _options(node):
    return node.get("anyOf", [{}])


def test_field_without_a_docstring_has_no_description_and_others_take_their_base_s():
    class Base(Settings):
        size: int = 1
        """Length in pixels."""

    class Own(Base):
        size: int = 2
        bare: int = 3

    assert description(Own, "size") == "Length in pixels."
    assert description(Own, "bare") == ""


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_one_and_its_defaults_and_examples_are_what_it_accepts(kind):
    schema = made(kind)
    assert schema["$schema"] == DIALECT
    Draft202012Validator.check_schema(schema)
    checked = 0
    for name, field, node in fields(schema):
        validator = Draft202012Validator({**node, "$defs": schema["$defs"]})
        for value in [*node.get("examples", []), *([node["default"]] if "default" in node else [])]:
            assert validator.is_valid(value), f"{name}.{field}: {value}"
            checked += 1
    assert checked > 50


def test_shipped_files_are_accepted():
    assert len(SHIPPED) > 40
    for path in SHIPPED:
        content = read_yaml(path)
        assert problems("sweep" if says_sweep(content) else "experiment", content) == [], path


@pytest.mark.parametrize(
    ("kind", "text"), [("experiment", WHOLE), ("experiment", PART), ("sweep", SWEEP)]
)
def test_file_that_is_right_is_accepted(kind, text):
    assert problems(kind, yaml.safe_load(text)) == []


HEADS = ("stages", "classifier")


@pytest.mark.parametrize(
    ("text", "place", "value", "found"),
    [
        (WHOLE, (*HEADS, "recipe", "evaluate_evry"), 3, "$.stages.classifier.recipe"),
        (WHOLE, (*HEADS, "recipe", "schedule"), {"epochs": "x"}, "recipe.schedule.epochs"),
        (WHOLE, (*HEADS, "recipe", "flip"), 2, "$.stages.classifier.recipe.flip"),
        (WHOLE, (*HEADS, "variants", "bacl", "alpa"), 1, "$.stages.classifier.variants.bacl"),
        (WHOLE, (*HEADS, "variants", "focal", "alpha"), 3, "variants.focal.alpha"),
        (WHOLE, (*HEADS, "variants", "bacl", "method"), "bcal", "variants.bacl.method"),
        (WHOLE, (*HEADS, "variants", "Up"), {"method": "bce"}, "$.stages.classifier.variants"),
        (WHOLE, (*HEADS, "kind"), "clasifier", "$.stages.classifier.kind"),
        (WHOLE, (*HEADS, "recipe", "augmentations", 0, "sze"), 1, "recipe.augmentations[0]"),
        (WHOLE, ("detector", "backbone"), "timm/", "$.detector.backbone"),
        (WHOLE, ("seeds",), [-1], "$.seeds[0]"),
        (WHOLE, ("dataset",), {"root": "x"}, "$.dataset"),
        (WHOLE, ("stages", "representation"), None, "$.stages.representation"),
        (PART, ("dataset",), {"rot": "x"}, "$.dataset"),
        (PART, ("stages", "more"), {"kind": "features"}, "$.stages.more"),
        (PART, (*HEADS, "recipe", "flp"), 1, "$.stages.classifier.recipe"),
        (PART, (*HEADS, "variants"), {"a": {"alpha": 1}}, "$.stages.classifier.variants.a"),
        (SWEEP, ("sarch",), "grid", "$"),
        (SWEEP, ("space",), 3, "$.space"),
        (SWEEP, ("space", "variant.alpha"), {"uniform": 1}, "$.space['variant.alpha'].uniform"),
        (SWEEP, ("variant",), {"method": "focal", "alfa": 1}, "$.variant"),
        (SWEEP, ("scheduler",), {"type": "asha", "grace": 0}, "$.scheduler.grace"),
    ],
)
def test_mistake_is_refused_where_it_is(text, place, value, found):
    content = yaml.safe_load(text)
    at = content
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    places = list(_places("sweep" if text is SWEEP else "experiment", content))
    assert any(path.endswith(found) for path in places), places


def _places(kind, content):
    """Where errors are, and within those of choices, where the errors of each choice are."""
    waiting = list(Draft202012Validator(made(kind)).iter_errors(content))
    while waiting:
        error = waiting.pop()
        yield error.json_path
        waiting += error.context


@pytest.mark.parametrize("kind", KINDS)
def test_shipped_schema_is_that_of_the_models(kind):
    path = SCHEMAS / f"{kind}.json"
    same = path.read_text(encoding="utf-8") == text_of(made(kind))
    assert same, f"write it anew: bacl schema {kind} --out {path.relative_to(ROOT)}"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_file_names_its_schema_first(path):
    kind = "sweep" if says_sweep(read_yaml(path)) else "experiment"
    schema = Path(os.path.relpath(SCHEMAS / f"{kind}.json", path.parent)).as_posix()
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first == f"# yaml-language-server: $schema={schema}"
    assert json.loads((path.parent / schema).read_text(encoding="utf-8"))["$schema"] == DIALECT
