"""The page of every field of experiment and sweep files, made of their models.

What fields are, may be and are by default is their JSON Schema's; what a change does to keys is
found by planning (`effects`).
"""

import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from bacl.method_settings.corrections import CORRECTIONS
from bacl.method_settings.registry import METHODS
from bacl.settings import EvaluationRecipe, ImageRecipe
from bacl_platform.spec.json_schema import schema_of
from bacl_platform.spec.problems import as_yaml

INTRODUCTION = """\
# Every field

Made of the models that read the files: what a field is, which values it may have, and what it is where a
file does not give it. Editors show the same (`bacl schema`).

What a change of a field does to finished jobs stands beside **key**, and was found by changing it and planning
again:

- *trains anew*: the key changes, of the jobs whose results depend on the field, and they are done again;
- *keeps results*: keys stay, and only how jobs run or what is kept of them is different;
- *no part of jobs*: neither.

A field that is written out with its default's value changes nothing.
"""

SECTIONS: list[tuple[str, list[tuple[str, str]]]] = [
    ("Experiment files", [("Experiment", "the file"), ("Paper", "`paper`")]),
    ("Data", [("Dataset", "`dataset`"), ("Groups", "`dataset.groups`")]),
    ("Detector", [("Detector", "`detector`")]),
    (
        "Stages",
        [
            ("RepresentationStage", "`stages.NAME` with `kind: representation`"),
            ("ClassifierStage", "`stages.NAME` with `kind: classifier`"),
            ("FeaturesStage", "`stages.NAME` with `kind: features`"),
            ("ImportedStage", "`stages.NAME` with `kind: imported`"),
            ("CorrectionsStage", "`stages.NAME` with `kind: corrections`"),
            ("Resources", "`stages.NAME.resources`"),
        ],
    ),
    (
        "Recipe",
        [
            ("ImageRecipe", "`stages.NAME.recipe` of every kind of stage: how images are shown"),
            ("EvaluationRecipe", "`stages.NAME.recipe`, but of `features`: how it is evaluated"),
            ("Recipe", "`stages.NAME.recipe` of stages that train: how they train"),
            ("Schedule", "`stages.NAME.recipe.schedule`"),
            ("SGD", "`stages.NAME.recipe.optimizer` with `type: sgd`"),
            ("AdamW", "`stages.NAME.recipe.optimizer` with `type: adamw`"),
            ("Paramwise", "`stages.NAME.recipe.optimizer.paramwise`"),
            ("Multipliers", "`stages.NAME.recipe.optimizer.paramwise.custom_keys.NAME`"),
            ("Clipping", "`stages.NAME.recipe.clip_grad`"),
            ("Averaging", "`stages.NAME.recipe.ema`"),
            ("SoftNMS", "`stages.NAME.recipe.soft_nms`"),
            ("SeveralViews", "`stages.NAME.recipe.tta`"),
            ("Augmentation", "an entry of `stages.NAME.recipe.augmentations`"),
            ("Trunk", "`stages.NAME.recipe.trunk`"),
        ],
    ),
    ("Methods", []),
    ("Corrections", []),
    (
        "Sweep files",
        [
            ("Sweep", "the file"),
            ("Axis", "a field of `space`, where it is no list of values"),
            ("Asha", "`scheduler` with `type: asha`"),
            ("Median", "`scheduler` with `type: median`"),
            ("Pbt", "`scheduler` with `type: pbt`"),
            ("Screen", "`screen`"),
        ],
    ),
]
"""Titles, with the classes of each and where their fields stand in a file."""

NOTES = {
    "Data": "Keys hold the digest of what the data are, not where they lie: moving files changes no key, "
    "and another content, other groups or another seed of the embedded set train all jobs anew.",
    "Methods": "A variant, and the `classifier` of a stage, says its `method` and that method's options. "
    "`bacl methods show NAME` has the equations and costs of each.",
    "Corrections": "A variant of a stage of kind `corrections` says its `method`, the variant it is `of`, and "
    "options.",
    "Sweep files": "Trials are jobs of the experiment that their values make, and have its keys: what a sweep "
    "says beside `fixed` and `space` chooses trials. Only the members of population-based training "
    "have the sweep's own settings in their keys, because they depend on each other.",
}

IN_WORDS = {
    "key": "trains anew",
    "content": "trains anew where the data's content is another",
    "run": "keeps results",
    "nothing": "no part of jobs",
}

_NOUNS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "mapping",
}
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
_UNIT = re.compile(
    r"(?:\bin |^)(pixels|iterations|epochs|seconds|GiB|images per step|strides)\b", re.I
)
"""How descriptions of numbers say their unit: they begin with it, or say what the number is in."""


def page() -> str:
    """The page, in Markdown."""
    return "\n".join(_Page().lines())


class _Page:
    def __init__(self) -> None:
        experiment, sweep = schema_of("experiment"), schema_of("sweep")
        self.classes: dict[str, dict[str, Any]] = {
            **sweep["$defs"],
            "Sweep": sweep,
            **experiment["$defs"],
        }
        self.classes["EvaluationRecipe"] = _own(self.classes["EvaluationRecipe"], ImageRecipe)
        self.classes["Recipe"] = _own(self.classes["Recipe"], EvaluationRecipe)
        self.effects = _neighbour("effects").effects(experiment)

    def lines(self) -> Iterator[str]:
        yield INTRODUCTION
        for title, classes in SECTIONS:
            yield f"## {title}\n"
            if title in NOTES:
                yield f"{NOTES[title]}\n"
            if title == "Methods":
                yield from self._of_methods(METHODS, ("method",))
                yield from self._class("Hallucination", "`hallucination` of `bacl`", ())
            elif title == "Corrections":
                yield from self._of_methods(CORRECTIONS, ("method", "of"))
            for name, place in classes:
                yield from self._class(name, place, ())

    def _of_methods(self, methods: Any, left_out: tuple[str, ...]) -> Iterator[str]:
        for name, settings in methods.items():
            yield from self._class(settings.__name__, f"`method: {name}`", left_out)

    def _class(self, name: str, place: str, left_out: tuple[str, ...]) -> Iterator[str]:
        node = self.classes[name]
        yield f'<a id="{_anchor(name)}"></a>\n'
        yield f"### {name}\n"
        yield f"{place[:1].upper()}{place[1:]}.\n"
        if about := " ".join(node.get("description", "").split()):
            yield f"{about}\n"
        fields = {n: f for n, f in node["properties"].items() if n not in left_out}
        if left_out and not fields:
            yield "It has no options.\n"
        for field, own in fields.items():
            yield from self._field(name, field, own, field in node.get("required", []))

    def _field(self, name: str, field: str, node: dict[str, Any], required: bool) -> Iterator[str]:
        yield f'<a id="{_anchor(name)}-{field}"></a>\n**`{field}`**  '
        facts = [self._words(node)]
        if required:
            facts.append("required")
        elif "default" in node:
            facts.append(f"default {self._default(node)}")
        about = node.get("description", "")
        if (unit := _UNIT.search(about)) and re.search(r"number|list", facts[0]):
            facts.append(f"unit: {unit[1] if unit[1] == 'GiB' else unit[1].lower()}")
        rows = ["; ".join(facts), about]
        if examples := node.get("examples"):
            rows.append("For example " + " or ".join(f"`{as_yaml(one)}`" for one in examples))
        if effect := self._effect(name, field):
            rows.append(f"**key**: {IN_WORDS[effect]}")
        yield "  \n".join(row for row in rows if row) + "\n"

    def _effect(self, name: str, field: str) -> str | None:
        """The effect of a field, in whichever class of recipes it was found."""
        family = {
            "ImageRecipe": ("ImageRecipe", "EvaluationRecipe", "Recipe"),
            "EvaluationRecipe": ("EvaluationRecipe", "Recipe"),
        }.get(name, (name,))
        found = [self.effects[n, field] for n in family if (n, field) in self.effects]
        return next((effect for effect in IN_WORDS if effect in found), None)

    def _default(self, node: dict[str, Any]) -> str:
        value = node["default"]
        if isinstance(value, dict) and value:
            return "each of its fields' own"
        return f"`{'null' if value is None else as_yaml(value)}`"

    def _words(self, node: dict[str, Any]) -> str:
        """What values a field takes."""
        if "$ref" in node:
            return self._link(node["$ref"].rsplit("/", 1)[-1])
        if "const" in node:
            return f"`{as_yaml(node['const'])}`"
        if "enum" in node:
            values = [f"`{as_yaml(value)}`" for value in node["enum"]]
            return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
        if "anyOf" in node:
            return " or ".join(dict.fromkeys(self._words(option) for option in node["anyOf"]))
        if "pattern" in node and "type" not in node:
            return f"`{node['pattern'].strip('^.')}NAME`"
        if node.get("type") == "array":
            return self._list(node)
        if isinstance(node.get("type"), list):
            return " or ".join(_NOUNS[kind] for kind in node["type"])
        if node.get("type") == "object":
            values = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
            value = next((v for v in values if isinstance(v, dict)), None)
            return f"mapping of names to {self._words(value)}" if value else "mapping"
        bounds = [f"{sign} {node[name]:.10g}" for name, sign in _BOUNDS.items() if name in node]
        return " ".join(
            [_NOUNS.get(node.get("type", ""), "anything"), " and ".join(bounds)]
        ).strip()

    def _list(self, node: dict[str, Any]) -> str:
        if each := node.get("prefixItems"):
            return f"list of {len(each)}, each {self._words(each[0])}"
        least = ", at least one" if node.get("minItems") else ""
        items = self._words(node["items"]) if node.get("items") else "values"
        return f"list{least}: {items}"

    def _link(self, name: str) -> str:
        name = name.removesuffix("WithBase").removesuffix("Unfinished")
        node = self.classes[name]
        if not name.startswith("Any"):
            return f"[{name}](#{_anchor(name)})"
        classes = [choice["then"].get("$ref", "") for choice in node["allOf"]]
        linked = [reference.rsplit("/", 1)[-1] for reference in classes if reference]
        if name.startswith("AnyMethod"):
            corrects = "NorCal" in linked and "Softmax" not in linked
            return "[a correction](#corrections)" if corrects else "[a method](#methods)"
        return " or ".join(self._link(one) for one in linked)


def _own(node: dict[str, Any], base: Any) -> dict[str, Any]:
    """A class without the fields of a base, which have a section themselves."""
    fields = {n: f for n, f in node["properties"].items() if n not in base.model_fields}
    return {**node, "properties": fields}


def _anchor(name: str) -> str:
    return name.lower()


def _neighbour(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


if __name__ == "__main__":
    print(page())
