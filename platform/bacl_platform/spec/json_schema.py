"""JSON Schemas of experiment and sweep files, made of their models: for editors and validators.

Pydantic's own schema of a model leaves three things to code, which are written out here: a file
with a `base` gives only what differs from it, by the rules of `yaml_files`; which class a mapping
is of is said by a field of it (`kind`, `method`, `type`); some names go on after a prefix.
"""

import json
from typing import Any, Literal

from pydantic import TypeAdapter

from bacl.method_settings.registry import AnyVariant
from bacl_platform.spec.experiment import Experiment
from bacl_platform.spec.sweep import Sweep
from bacl_platform.spec.yaml_files import REPLACING

Kind = Literal["experiment", "sweep"]
"""The kinds of files that schemas are of."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"

BASE = (
    "Path of another experiment file, relative to this one's folder, that this file gives only the "
    "differences from. Mappings are merged, except that `variants`, and a mapping that says its "
    "own `kind`, `method` or `format`, replace the base's; a stage of null leaves the base's out."
)
"""What an experiment file's `base` is, which is read before the file becomes an `Experiment`."""

Node = dict[str, Any]


def schema_of(kind: Kind) -> Node:
    """The JSON Schema (draft 2020-12) of experiment or sweep files, with the methods, indicators
    and dataset formats that are registered at the time."""
    return _experiment() if kind == "experiment" else _sweep()


def text_of(schema: Node) -> str:
    """A schema as its file has it."""
    return json.dumps(schema, indent=1, ensure_ascii=False) + "\n"


def _experiment() -> Node:
    given = Experiment.model_json_schema()
    writer = _Writer(given.pop("$defs"))
    whole, part = writer.node(given), writer.node(given, partial=True)
    base = {"type": ["string", "null"], "minLength": 1, "description": BASE}
    for root in (whole, part):
        root.pop("description", None)  # an editor would offer it as one more choice
        root["properties"] = {"base": {**base, "examples": ["own_data.yaml"]}, **root["properties"]}
    stages = part["properties"]["stages"]
    stages["patternProperties"] = {
        pattern: {"anyOf": [stage, {"type": "null", "description": "Leaves the base's stage out."}]}
        for pattern, stage in stages["patternProperties"].items()
    }
    return {
        "$schema": DIALECT,
        "title": "BACL experiment",
        "description": "An experiment file of BACL: a dataset, a detector, stages.",
        "type": "object",
        "if": {"required": ["base"], "properties": {"base": {"type": "string"}}},
        "then": {"$ref": "#/$defs/ExperimentWithBase"},
        "else": {"$ref": "#/$defs/Experiment"},
        "$defs": {"Experiment": whole, "ExperimentWithBase": part, **writer.definitions},
    }


def _sweep() -> Node:
    given = Sweep.model_json_schema()
    variant = TypeAdapter(AnyVariant).json_schema()
    writer = _Writer({**variant.pop("$defs"), **given.pop("$defs")})
    root = writer.node(given)
    choices = root["properties"]["variant"]["anyOf"]
    # the space and `fixed` may give what its settings lack
    _exchange(
        choices, "object", {"type": "object", "$ref": writer.choice(variant, unfinished=True)}
    )
    return {
        "$schema": DIALECT,
        **root,
        "title": "BACL sweep",
        "description": "A sweep file of BACL: a space of an experiment's fields, and a search.",
        "$defs": writer.definitions,
    }


def _exchange(choices: list[Node], kind: str, other: Node) -> None:
    """Put `other` for the choice of type `kind`, at whatever depth it is."""
    for number, choice in enumerate(choices):
        if choice.get("type") == kind:
            choices[number] = other
        _exchange(choice.get("anyOf", []), kind, other)


class _Writer:
    """Turns pydantic's nodes into the schema's.

    given: pydantic's definitions. Each may become two: the whole, and, called `...WithBase`, that
    of a mapping which is merged over a base's.
    """

    def __init__(self, given: dict[str, Node]) -> None:
        self.given = given
        self.definitions: dict[str, Node] = {}
        self._choices: dict[str, str] = {}

    def node(self, node: Node, partial: bool = False) -> Node:
        """A node for the schema; partial: of content that is merged over a base's."""
        made = {n: v for n, v in node.items() if n not in ("title", "prefix", "meaning")}
        if "$ref" in node:
            made["$ref"] = self._defined(node["$ref"].rsplit("/", 1)[-1], partial)
            return made
        if "discriminator" in node:
            del made["discriminator"], made["oneOf"]
            return {**made, "$ref": self.choice(node, partial)}
        for several in ("anyOf", "oneOf"):
            if several in made:
                made.pop(several)
                made["anyOf"] = [self.node(option, partial) for option in node[several]]
        if "prefix" in node:
            names = {name: made.pop(name) for name in ("enum", "const") if name in made}
            made["anyOf"] = [names, {"pattern": f"^{node['prefix']}."}]
        if "properties" in node:
            made["properties"] = {
                name: self.node(field, partial and name != "variants")
                for name, field in node["properties"].items()
            }
            if partial:
                made.pop("required", None)
        for values in ("patternProperties", "prefixItems", "items", "additionalProperties"):
            if values in node:
                # a list replaces the base's, and has whole entries
                within = partial and values in ("patternProperties", "additionalProperties")
                made[values] = self._nodes(node[values], within)
        if "patternProperties" in made:
            made["additionalProperties"] = False
            made.pop("propertyNames", None)
        return made

    def _nodes(self, values: Any, partial: bool) -> Any:
        if isinstance(values, list):
            return [self.node(value, partial) for value in values]
        if not isinstance(values, dict):
            return values
        if values and all(name.startswith("^") for name in values):  # patterns
            return {name: self.node(value, partial) for name, value in values.items()}
        return self.node(values, partial)

    def _defined(self, name: str, partial: bool) -> str:
        """The reference to a definition, which is made where it is not yet."""
        given = self.given[name]
        partial = partial and self._differs(given, {name})
        called = f"{name}WithBase" if partial else name
        if called not in self.definitions:
            self.definitions[called] = {}  # it may refer to itself
            made = self.node(given, partial)
            own = [field for field in REPLACING if field in given.get("properties", {})]
            if partial and own:
                made = {
                    "if": {"anyOf": [{"required": [field]} for field in own]},
                    "then": {"$ref": self._defined(name, False)},
                    "else": made,
                }
            self.definitions[called] = made
        return f"#/$defs/{called}"

    def _differs(self, node: Any, passed: set[str]) -> bool:
        """Whether anything below a node must be given, unless a base gives it."""
        if isinstance(node, list):
            return any(self._differs(item, passed) for item in node)
        if not isinstance(node, dict):
            return False
        if node.get("required") or "discriminator" in node:
            return True
        if "$ref" in node:
            name = node["$ref"].rsplit("/", 1)[-1]
            return name not in passed and self._differs(self.given[name], passed | {name})
        return any(self._differs(value, passed) for value in node.values())

    def choice(self, node: Node, partial: bool = False, unfinished: bool = False) -> str:
        """The reference to a definition of a mapping whose class a field of it says.

        unfinished: nothing is required of it, though it says its class.
        """
        field, classes = node["discriminator"]["propertyName"], self._classes(node)
        suffix = "Unfinished" if unfinished else "WithBase" if partial else ""
        key = f"{field} {','.join(classes)}"
        called = self._choices.setdefault(key, f"Any{field.capitalize()}{len(self._choices) + 1}")
        called += suffix
        if called in self.definitions:
            return f"#/$defs/{called}"
        self.definitions[called] = {}
        merged = partial and field not in REPLACING
        made = {value: self._of_class(name, merged, unfinished) for value, name in classes.items()}
        about = {"anyOf": [self._says(field, value, name) for value, name in classes.items()]}
        found: Node = {
            "type": "object",
            "required": [field],
            "properties": {field: about},
            "allOf": [
                {
                    "if": {"properties": {field: {"const": value}}, "required": [field]},
                    "then": content,
                }
                for value, content in made.items()
            ],
        }
        if partial or unfinished:
            del found["required"]
            found["allOf"].append(
                {
                    "if": {"not": {"required": [field]}},
                    "then": self._union(list(classes.values()), field, about, partial),
                }
            )
        self.definitions[called] = found
        return f"#/$defs/{called}"

    def _classes(self, node: Node) -> dict[str, str]:
        """Definitions by the values that say them."""
        mapping = node["discriminator"]["mapping"]
        return {value: reference.rsplit("/", 1)[-1] for value, reference in mapping.items()}

    def _of_class(self, name: str, merged: bool, unfinished: bool) -> Node:
        if not unfinished:
            return {"$ref": self._defined(name, merged)}
        return {n: v for n, v in self.node(self.given[name]).items() if n != "required"}

    def _says(self, field: str, value: str, name: str) -> Node:
        about = self.given[name]["properties"][field].get("description", "")
        return {"const": value, "description": about}

    def _union(self, classes: list[str], field: str, about: Node, partial: bool) -> Node:
        """A mapping that does not say its class: any field that one of the classes has."""
        fields: dict[str, list[Node]] = {}
        for name in classes:
            for own, node in self.given[name]["properties"].items():
                made = self.node(node, partial and own != "variants")
                if own != field and made not in fields.setdefault(own, []):
                    fields[own].append(made)
        properties = {n: v[0] if len(v) == 1 else {"anyOf": v} for n, v in fields.items() if v}
        return {"properties": {field: about, **properties}, "additionalProperties": False}
