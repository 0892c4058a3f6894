"""What a change of each field does to the keys of jobs, found by changing it and planning again.

Experiments that have all classes of settings in them are planned for the small embedded set; then
each field gets another value, and the jobs are compared.
"""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bacl.datasets.prepare import prepare
from bacl.errors import UsageError
from bacl.method_settings.base import Method
from bacl.method_settings.corrections import CORRECTIONS
from bacl.method_settings.registry import METHODS
from bacl.schema import Settings, tag
from bacl.settings import Dataset, EvaluationRecipe, Groups, ImageRecipe, Recipe
from bacl_platform.plan.planner import make_plan
from bacl_platform.spec.checks import broken_edges, disagreements
from bacl_platform.spec.experiment import Experiment
from bacl_platform.store.store import Store

KEY, CONTENT, RUN, NOTHING = "key", "content", "run", "nothing"
STRENGTH = {NOTHING: 0, RUN: 1, KEY: 2}
"""`CONTENT` is not found by planning: it is what the digest of the prepared data does to keys."""

Effects = dict[tuple[str, str], str]
"""Effects by the class of settings and the field."""

DATASET: dict[str, Any] = {"format": "embedded", "size": "small"}
STAGE = {"recipe": {"schedule": {"iterations": 100}}}
TOP: dict[str, Any] = {"name": "probed", "dataset": DATASET}
REPRESENTATION = {"kind": "representation", **STAGE}
CLASSIFIER = {"kind": "classifier", "after": "first", **STAGE}
SOFTMAX = {"method": "softmax"}

RICH_RECIPE = {
    "schedule": {"iterations": 100, "milestones": [50]},
    "sampler": "repeat_factor",
    "soft_nms": {"method": "gaussian"},
    "tta": {"scales": [[64, 64], [96, 96]]},
    "ema": {},
    "clip_grad": {"max_norm": 35},
    "optimizer": {"type": "sgd", "paramwise": {"custom_keys": {"backbone": {"lr_mult": 0.1}}}},
    "proposal_nms": [0.9, 0.8, 0.7],
    "evaluate_every": 10,
    "checkpoint_every": 10,
}

CANDIDATES: dict[str, list[Any]] = {
    "after": ["other"],
    "baseline": ["other"],
    "betas": [[0.8, 0.99]],
    "categories": [2, 3, ["other"]],
    "checkpoint": [__file__],
    "classifier": [SOFTMAX, {"method": "sigmoid"}],
    "custom_keys": [{"neck": {"lr_mult": 0.5}}],
    "freeze": [["backbone"], ["backbone", "neck"]],
    "labels": [{"zone": "a"}],
    "custom": [{"licence": 1}],
    "of": ["other"],
    "paper": [{"file": "paper.yaml", "table": "I"}],
    "paramwise": [{"bias_lr_mult": 2}],
    "recipe": [{"test_scale": [64, 64]}, {"flip": 0}],
    "temperatures": [[1, 2, 1]],
    "trunk": [{"compile": True}],
    "variants": [{"further": SOFTMAX}],
    "weights": [__file__],
}
"""Values to try for fields whose own say too little of what else they may be."""

KNOWN: Effects = {
    # to read a configuration or transforms is to import MMDetection, which takes seconds
    ("Detector", "config"): KEY,
    **{(s.__name__, "augmentations"): KEY for s in (ImageRecipe, EvaluationRecipe, Recipe)},
    ("Augmentation", "type"): KEY,
    # its file has to fit the dataset; the file's content enters the key
    ("Forest", "trees"): KEY,
    # it needs another stage before, which alone makes other keys
    ("Recipe", "features"): KEY,
    ("Experiment", "dataset"): CONTENT,
    **{(s.__name__, field): CONTENT for s in (Dataset, Groups) for field in s.model_fields},
}


def effects(schema: dict[str, Any]) -> Effects:
    """The effect of every field of an experiment.

    schema: that of experiment files, which says what values fields may have.
    """
    found: Effects = dict(KNOWN)
    # plans read all sources, which do not change between hundreds of them
    same = patch("bacl_platform.plan.planner.source_digest", return_value="0")
    with tempfile.TemporaryDirectory() as folder, same:
        trial = _Trial(Store(Path(folder) / "store"), schema["$defs"])
        for raw in _experiments(folder):
            trial.change_all_of(raw, Settings, found)
        for raw in _experiments_of_methods():
            trial.change_all_of(raw, Method, found)
    return found


def _experiments(folder: str) -> Iterator[dict[str, Any]]:
    """Raw contents of experiment files that have each class of settings but methods."""
    checkpoint = Path(folder) / "detector.pth"
    checkpoint.write_bytes(b"weights")
    top = TOP
    first = {**REPRESENTATION, "recipe": RICH_RECIPE}
    yield {
        **top,
        "stages": {
            "first": first,
            "other": copy.deepcopy(REPRESENTATION),
            "heads": {
                **CLASSIFIER,
                "recipe": {**RICH_RECIPE, "trunk": {"precision": "bfloat16"}},
                "variants": {"a": SOFTMAX, "b": {"method": "bacl"}},
            },
        },
    }
    yield {
        **top,
        "stages": {
            "first": {
                **REPRESENTATION,
                "recipe": {
                    "schedule": {"epochs": 3, "lr": 1e-4},
                    "optimizer": {"type": "adamw"},
                    "augmentation": "copy_paste",
                },
                "resources": {"workers": [1, 2], "gpus": 1},
            },
        },
    }
    yield {
        **top,
        "stages": {
            "first": REPRESENTATION,
            "other": copy.deepcopy(REPRESENTATION),
            "kept": {"kind": "features", "after": "first", "recipe": {"trunk": {}}},
            "heads": {
                "kind": "classifier",
                "after": "kept",
                "variants": {"a": SOFTMAX},
                "recipe": {"features": "replay", **STAGE["recipe"]},
            },
        },
    }
    yield {
        **top,
        "stages": {
            "first": {"kind": "imported", "checkpoint": str(checkpoint), "source": "torchvision"},
            "heads": {**CLASSIFIER, "variants": {"a": SOFTMAX}},
        },
    }


def _experiments_of_methods() -> Iterator[dict[str, Any]]:
    """Raw contents of experiment files with one method or correction each, but `forest`."""
    top = TOP
    for name, correction in CORRECTIONS.items():
        kind = correction.scores[0]
        trained = {"softmax": SOFTMAX, "tde": {"method": "tde"}}[kind]
        own = {"temperature": {"temperatures": [2, 1, 1]}, "tde_alpha": {"alpha": 1}}.get(name, {})
        yield {
            **top,
            "stages": {
                "first": REPRESENTATION,
                "heads": {**CLASSIFIER, "variants": {"a": trained, "other": trained}},
                "more": {
                    "kind": "corrections",
                    "after": "heads",
                    "variants": {"c": {"method": name, "of": "a", **own}},
                },
            },
        }
    for name, method in METHODS.items():
        if name == "forest":
            continue
        own = {"bags": {"bounds": [10]}}.get(name, {})
        recipe = {**STAGE["recipe"], **({"sampler": method.sampler} if method.sampler else {})}
        variant = {"method": name, **own}
        before = {"classifier": {"method": method.follows[0]}} if method.follows else {}
        yield {
            **top,
            "stages": {
                "first": {**REPRESENTATION, **before},
                "heads": {**CLASSIFIER, "recipe": recipe, "variants": {"a": variant}},
            },
        }


class _Trial:
    """Plans of experiments with one field changed."""

    def __init__(self, store: Store, definitions: dict[str, Any]) -> None:
        self.store, self.definitions = store, definitions
        self.prepared = prepare(Dataset(**DATASET), store.datasets)

    def change_all_of(self, raw: dict[str, Any], kind: type[Settings], found: Effects) -> None:
        """Change each field of an experiment's settings of a kind, but those whose effect is found
        to be the strongest already, and note what that does."""
        before = self._planned(raw)
        if before is None and kind is Method:
            return  # the small set does not have what it needs, such as categories for its groups
        assert before is not None, raw
        experiment, jobs = before
        for path, settings, field in _fields(experiment):
            place = type(settings).__name__, field
            told = tag(type(settings), field) is not None
            if told or not isinstance(settings, kind) or found.get(place) in (KEY, CONTENT):
                continue
            for other in self._others(*place, getattr(settings, field)):
                after = self._planned(_with(raw, [*path, field], other))
                if after is None or after[0] == experiment:
                    continue
                effect = _compared(jobs, after[1])
                found[place] = max(found.get(place, NOTHING), effect, key=STRENGTH.__getitem__)
                if effect == KEY:
                    break

    def _planned(self, raw: dict[str, Any]) -> tuple[Experiment, dict[str, Any]] | None:
        """The experiment and its jobs; None where it is not one that can be planned."""
        try:
            experiment = Experiment.model_validate(raw)
            if list(disagreements(experiment)) or list(broken_edges(raw["stages"])):
                return None
            jobs = make_plan(experiment, self.prepared, self.store).jobs
        except (UsageError, ValueError, KeyError):
            return None
        return experiment, {
            f"{job.name} {number}": (job.variant_keys, job.model_dump(exclude={"key"}))
            for number, job in enumerate(jobs)
        }

    def _others(self, name: str, field: str, value: Any) -> Iterator[Any]:
        """Other values that a field may have."""
        yield from CANDIDATES.get(field, [])
        node = self.definitions[name]["properties"].get(field, {})
        yield from self._of_node(node, value)

    def _of_node(self, node: dict[str, Any], value: Any) -> Iterator[Any]:
        yield from node.get("examples", [])
        for option in node.get("anyOf", []):
            yield from self._of_node(option, value)
        if "$ref" in node:
            yield from self._of_node(self.definitions[node["$ref"].rsplit("/", 1)[-1]], value)
        yield from (other for other in node.get("enum", []) if other != value)
        kind = node.get("type")
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind == "boolean":
            yield from (other for other in (True, False) if other is not value)
        elif kind == "integer":
            yield from ([value + 2, value * 2, value + 1, value - 1] if number else [10, 2, 1])
        elif kind == "number":
            yield from ([value / 2, value * 2, value + 1] if number else [0.5, 2.0])
        elif kind == "string" and "enum" not in node:
            yield "other"
        elif kind == "null" and value is not None:
            yield None
        elif kind == "object" and value is None:
            yield {}
        elif kind == "array" and isinstance(value, list | tuple) and len(value) > 1:
            yield (
                [*list(value)[:-1], list(value)[-1] + 1] if _number(value[-1]) else list(value)[:-1]
            )
        elif kind == "array":
            for one in self._of_node(node.get("items", {}), None):
                yield [one]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _compared(before: dict[str, Any], after: dict[str, Any]) -> str:
    """The effect that made other jobs of some."""
    if sorted(_keys(before)) != sorted(_keys(after)):
        return KEY
    return NOTHING if before == after else RUN


def _keys(jobs: dict[str, Any]) -> Iterator[str]:
    for keys, _ in jobs.values():
        yield from keys.values()


def _fields(settings: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Settings, str]]:
    """(path, settings, field) of all fields of settings and of those within them."""
    if isinstance(settings, Settings):
        for name in type(settings).model_fields:
            yield path, settings, name
            yield from _fields(getattr(settings, name), (*path, name))
    elif isinstance(settings, dict):
        for name, value in settings.items():
            yield from _fields(value, (*path, name))


def _with(raw: dict[str, Any], path: list[Any], value: Any) -> dict[str, Any]:
    """A copy of raw content with another value at a path, whose mappings are made where absent."""
    made = copy.deepcopy(raw)
    at = made
    for step in path[:-1]:
        if at.get(step) is None:
            at[step] = {}
        at = at[step]
    at[path[-1]] = value
    return made
