"""Wrong values in files: every kind of value in every kind of field, and what is said of it."""

import copy
import datetime
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from pydantic import ValidationError

from bacl.method_settings.registry import METHODS
from bacl_platform.spec.experiment import Experiment
from bacl_platform.spec.problems import likely, translate, truths
from bacl_platform.spec.sweep import Sweep

STAGES = {
    "one": {
        "kind": "representation",
        "classifier": {"method": "bce"},
        "recipe": {
            "schedule": {"epochs": 2, "milestones": [1], "batch": 2, "lr": 0.1},
            "scales": [[3, 4]],
            "test_scale": [3, 4],
            "proposal_nms": [0.1],
            "keep_best": False,
            "sampler": "random",
        },
        "resources": {"workers": 1, "gpus": 1, "accelerator": "H100", "labels": {"a": "b"}}
        | {"custom": {"a": 1.0}},
    },
    "two": {
        "kind": "classifier",
        "after": "one",
        "freeze": ["neck"],
        "variants": {
            "x": {"method": "bacl", "hallucination": {"categories": 3, "beta": 0.1}},
            "f": {"method": "forest", "trees": "t"},
            "p": {"method": "pcb", "passes": [1.0]},
        },
        "variants_per_job": 1,
        "recipe": {"schedule": {"iterations": 2}},
    },
}
PAPER = {"file": "f", "table": "t", "column": "c"}
DATASET = {"format": "coco", "train": "t", "val": "v", "images": "i", "seed": 0}
GROUPS = {"by": "images", "bounds": [1], "names": ["r", "f"]}
EXPERIMENT = {
    "name": "a",
    "seeds": [0],
    "dataset": {**DATASET, "groups": GROUPS},
    "detector": {"type": "faster_rcnn", "weights": None, "nms_iou": 0.5},
    "stages": STAGES,
    "baseline": "x",
    "paper": PAPER,
}
AXIS = {"uniform": [0, 1], "when": {"variant.q": 1}}
SWEEP = {
    "name": "a",
    "base": "b",
    "stage": "two",
    "variant": "x",
    "fixed": {"a": 1},
    "space": {"variant.alpha": AXIS, "variant.q": [1, 2]},
    "seeds": [0],
    "metric": "AP",
    "search": "random",
    "samples": 1,
    "scheduler": {"type": "asha", "grace": 1},
    "paper": PAPER,
}
SWEEP_OF_SPACES = {**SWEEP, "space": [SWEEP["space"], {"a": [1]}], "variant": {"method": "bacl"}}
FILES = [(Experiment, EXPERIMENT), (Sweep, SWEEP), (Sweep, SWEEP_OF_SPACES)]

VALUES: list[Any] = [
    *(None, 5, -5, 0, 2.5, 1e300, 10**400, float("inf"), float("nan"), True, "text", ""),
    *([], ["a"], [1], [None], [[1]], [1, 2, 3], {}, {"a": 1}, {5: 1}, {None: 1}, {True: 1}),
    datetime.date(2024, 1, 1),
]
ABSENT = object()


def places(raw: Any, path: tuple = ()) -> Iterator[tuple]:
    steps = raw if isinstance(raw, dict) else range(len(raw)) if isinstance(raw, list) else ()
    for step in steps:
        yield (*path, step)
        yield from places(raw[step], (*path, step))


def changed(raw: dict, path: tuple, value: Any) -> dict:
    raw = copy.deepcopy(raw)
    place: Any = raw
    for step in path[:-1]:
        place = place[step]
    if value is ABSENT:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return raw


def told(model: type, raw: Any, kinds: set[str] | None = None) -> list[str]:
    try:
        taken = model.model_validate(raw)
    except ValidationError as error:
        if kinds is not None:
            kinds |= {problem["type"] for problem in error.errors()}
        return list(translate(error, model))
    return list(truths(raw, taken))


KINDS = {
    *("bool_parsing", "bool_type", "dict_type", "extra_forbidden", "finite_number"),
    *("float_parsing", "float_type", "greater_than", "greater_than_equal", "int_from_float"),
    *("int_parsing", "int_parsing_size", "int_type", "invalid_key", "less_than"),
    *("less_than_equal", "list_type", "literal_error", "missing", "model_attributes_type"),
    *("model_type", "string_pattern_mismatch", "string_too_short", "string_type", "too_long"),
    *("too_short", "tuple_type", "union_tag_invalid", "union_tag_not_found", "value_error"),
}
"""What pydantic finds in these models; a new kind wants its sentence read."""


def test_no_sentence_expects_what_it_got_or_speaks_of_types(monkeypatch):
    for model in (Experiment, Sweep):  # its schema is made anew for each of thousands of errors
        monkeypatch.setattr(model, "model_json_schema", cache(model.model_json_schema))
    kinds: set[str] = set()
    sentences: set[str] = set()
    for model, raw in FILES:
        assert told(model, raw) == []
        for path in places(raw):
            where = ".".join(map(str, path))
            for value in [*VALUES, ABSENT]:
                found = told(model, changed(raw, path, value), kinds)
                sentences |= set(found)
                if found and not isinstance(value, dict | list) and value is not ABSENT:
                    places_told = [line.split(": ")[0] for line in found]
                    assert any(
                        where.startswith(place) or place.startswith(where) for place in places_told
                    ), (path, value, found)
        for value in VALUES:
            sentences |= set(told(model, value, kinds))
    assert kinds <= KINDS
    assert kinds >= KINDS - {"model_type"}
    for sentence in sentences:
        assert not re.search(
            r"a text|another value|Input should|(?<!\.)None(?!:)|datetime|\bstr\b", sentence
        )
        assert "got" not in sentence or not re.search(
            r"expected (a mapping)\b(?!.*entry)(?!.*field).*, got \1", sentence
        ), sentence
        _, _, got = sentence.rpartition(", got ")
        assert f"expected {got}" not in sentence


METHOD_NAMES = ", ".join(sorted(METHODS))
QUOTES = ": put it in quotes, which make it text"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("name",), ABSENT, "is missing, expected a name of A-Z, a-z, 0-9, ., _ and -, "
         "beginning with a letter or digit"),
        (("seeds",), 5, "expected a list of whole numbers with at least one entry, got 5"),
        (("seeds", 0), True, "expected a number, got true"),
        (("seeds", 0), 2**32, "expected a whole number >= 0 and < 4294967296, got 4294967296"),
        (("dataset",), None, "expected a mapping of fields (format, ...), got nothing"),
        (("dataset", "train"), 5, f"expected the path of a file, or null, got 5{QUOTES}"),
        (("dataset", "seed"), -1, "expected a whole number >= 0 and < 4294967296, got -1"),
        (("dataset", "groups", "names", 0), "a b", "expected a name of A-Z, a-z, 0-9 and -, "
         "got 'a b'"),
        (("detector", "nms_iou"), float("nan"), "expected a number > 0 and <= 1, got .nan"),
        (
            ("detector", "weights"),
            {"a": 1},
            "expected torchvision, a checkpoint file or its address, or null, got a mapping",
        ),
        (("stages",), {}, "expected a mapping with at least one entry, got an empty mapping"),
        (("stages", "one"), 5, "expected a mapping with a field `kind` (one of classifier, "
         "corrections, features, imported, representation), got 5"),
        (("stages", "one", "recipe", "keep_best"), "maybe", "expected true or false, got 'maybe'"),
        (("stages", "one", "recipe", "test_scale"), [1], "expected a list of 2 values, got [1]"),
        (("stages", "one", "recipe", "scales"), 5, "expected a list of lists, got 5"),
        (("stages", "one", "resources", "labels", "a"), datetime.date(2024, 1, 1),
         f"expected text, got the date 2024-01-01{QUOTES}"),
        (("stages", "two", "after"), None, "expected the name of a stage, got nothing"),
        (("stages", "two", "variants", "f", "trees"), ABSENT, "is missing, expected the path of a "
         "file that `bacl trees` has made"),
    ],
)  # fmt: skip
def test_wrong_value_is_told_as_a_person_would(path, value, sentence):
    assert told(Experiment, changed(EXPERIMENT, path, value)) == [
        f"{'.'.join(map(str, path))}: {sentence}"
    ]


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("space",), 5, "space: expected a mapping or a list of mappings, got 5"),
        (("space",), ABSENT, "space: is missing, expected a mapping or a list of mappings"),
        (("variant",), 5, "variant: expected the name of a variant or a mapping of its settings "
         f"or null, got 5{QUOTES}"),
        (("space", "variant.alpha", "uniform"), [1], "space.variant.alpha.uniform: expected a list "
         "of 2 values or null, got [1]"),
        (("space", "variant.alpha", "unifrom"), [1, 2], "space.variant.alpha.unifrom: unknown "
         "field, did you mean `uniform`?"),
        (("fixed",), {5: 1}, f"fixed.5: expected text as the name, got 5{QUOTES}"),
        (("scheduler", "type"), "asa", "scheduler.type: expected one of asha, median, pbt, got "
         "'asa' (did you mean `asha`?)"),
    ],
)  # fmt: skip
def test_wrong_value_of_a_sweep_is_told_as_a_person_would(path, value, sentence):
    assert sentence in told(Sweep, changed(SWEEP, path, value))


@pytest.mark.parametrize(
    ("wrong", "known", "meant"),
    [
        ("tinny", ["tiny", "resnet50"], "tiny"),
        ("ResNet-50", ["resnet50", "resnet101"], "resnet50"),
        ("resnet_50", ["resnet50", "resnet101"], "resnet50"),
        ("backbnoe", ["backbone", "weights"], "backbone"),
        ("lrbatch", ["lr", "lr_batch"], "lr_batch"),
        ("swin_s", ["resnet50", "swin_t"], None),
        ("resnet18", ["resnet50", "resnet101"], None),
        ("lvis_v2", ["lvis_v0.5", "lvis_v1"], None),
        ("eqlv3", ["eql", "eqlv2"], None),
        ("fast_rcnn", ["faster_rcnn", "mask_rcnn"], None),
        ("retina", ["faster_rcnn", "mask_rcnn"], None),
        (5, ["5a"], None),
    ],
)
def test_only_likely_typing_errors_are_suggested(wrong, known, meant):
    assert likely(wrong, known) == meant


def test_no_method_backbone_or_field_is_taken_for_another():
    for names in (METHODS, ["faster_rcnn", "cascade_rcnn", "mask_rcnn"], ["lvis_v0.5", "lvis_v1"]):
        for name in names:
            assert likely(name, [other for other in names if other != name]) is None
