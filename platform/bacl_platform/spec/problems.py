"""What pydantic finds wrong in a user's file, in sentences that a person would say.

A model's JSON schema knows what each field expects. A field whose text means something in
particular, such as a path, says what in its schema's `meaning` (`bacl.schema.meaning`).
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator
from datetime import date
from difflib import SequenceMatcher
from typing import Any

import yaml
from pydantic import ValidationError

from bacl.schema import Settings


def translate(error: ValidationError, model: type[Settings]) -> Iterator[str]:
    """What pydantic found wrong in a file for `model`, one sentence each."""
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    seen: set[str] = set()
    for problem in error.errors(include_url=False):
        sentence = _sentence(problem, schema, definitions)
        if sentence not in seen:  # of each entry that a list of fixed length lacks
            seen.add(sentence)
            yield sentence


def _sentence(problem: Any, schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    kind, given, location = problem["type"], problem["input"], problem["loc"]
    path, node = _locate(location, schema, definitions)
    if kind == "value_error":
        return f"{path}: {problem['ctx']['error']}" if path else str(problem["ctx"]["error"])
    if kind == "missing" and isinstance(location[-1], int):
        path, node = _locate(location[:-1], schema, definitions)
    elif kind == "missing":
        return f"{path}: is missing, expected {_expectation(node, definitions)}"
    if kind == "extra_forbidden" or (kind == "invalid_key" and "properties" in node):
        return _unknown_field(path, node)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        field = node["discriminator"]["propertyName"]
        known = list(node["discriminator"]["mapping"])
        if not isinstance(given, dict) or field not in given:
            return f"{path}.{field}: is missing, expected {one_of(known)}"
        return f"{path}.{field}: expected {one_of(known)}, got {_shown(given[field], known)}"
    if location and location[-1] == "[key]":
        _, around = _locate(location[:-2], schema, definitions)
        patterns = list(around.get("patternProperties", {}))
        name = f"a name of {_letters(patterns[0])}" if patterns else "text as the name"
        return f"{path}: expected {name}, got {show(given)}{_quotes(given)}"
    got = _shown(given, node.get("enum", []))
    if node.get("type") == "string" and "enum" not in node:
        got += _quotes(given)
    return f"{path}: expected {_expectation(node, definitions)}, got {got}".removeprefix(": ")


def truths(raw: Any, taken: Any, path: str = "") -> Iterator[str]:
    """Where raw content has true or false for a number, which pydantic takes for 1 or 0.

    taken: what it was validated to.
    """
    if isinstance(raw, bool) and isinstance(taken, int | float) and not isinstance(taken, bool):
        yield f"{path}: expected a number, got {show(raw)}"
    below: Iterable[tuple[Any, Any, Any]] = ()
    if isinstance(raw, dict) and isinstance(taken, Settings | dict):
        content = dict(taken)
        below = ((name, value, content.get(name)) for name, value in raw.items())
    elif isinstance(raw, list) and isinstance(taken, list | tuple):
        below = ((number, *pair) for number, pair in enumerate(zip(raw, taken)))
    for step, value, its in below:
        yield from truths(value, its, f"{path}.{step}" if path else str(step))


def _unknown_field(path: str, node: dict[str, Any]) -> str:
    name, known = path.rsplit(".", 1)[-1], list(node.get("properties", {}))
    if name in ("variants", "after", "freeze") and node.get("title") == "RepresentationStage":
        return (
            f"{path}: expected no such field in a representation stage, which trains all "
            "parts and one `classifier`; a stage with `variants` has `kind: classifier`"
        )
    close = likely(name, known)
    hint = f"did you mean `{close}`?" if close else f"expected {one_of(known)}"
    return f"{path}: unknown field, {hint}"


def _locate(
    location: tuple[Any, ...], schema: dict[str, Any], definitions: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """The dotted path as the file has it, and the schema of the deepest part of it that exists."""
    shown: list[str] = []
    node = schema
    for step in location:
        node = _resolve(node, definitions)
        if step == "[key]":
            break
        # pydantic names the chosen member of a union; the file has no such level
        if "discriminator" in node and step in node["discriminator"]["mapping"]:
            node = {"$ref": node["discriminator"]["mapping"][step]}
            continue
        if chosen := [option for option in node.get("oneOf", []) if option.get("type") == step]:
            node = chosen[0] | {name: node[name] for name in ("oneOf", "nullable") if name in node}
            continue
        shown.append(str(step).lower() if isinstance(step, bool) else str(step))
        if isinstance(step, int) and node.get("type") == "array":
            items = node.get("prefixItems")
            node = items[step] if items and step < len(items) else node.get("items", {})
        elif step in node.get("properties", {}):
            node = node["properties"][step]
        elif "properties" not in node:
            values = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
            node = next((value for value in values if isinstance(value, dict)), node)
    return ".".join(shown), _resolve(node, definitions)


def _resolve(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A schema without references, and with the null of an optional field as `nullable`."""
    if "$ref" in node:
        return _resolve(definitions[node["$ref"].rsplit("/", 1)[-1]], definitions)
    options = [option for option in node.get("anyOf", []) if option.get("type") != "null"]
    return _resolve(options[0], definitions) | {"nullable": True} if len(options) == 1 else node


_BOUNDS = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
_NOUNS = {
    "integer": "a whole number",
    "number": "a number",
    "string": "text",
    "boolean": "true or false",
}


def _expectation(node: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a value should be, in words."""
    node = _resolve(node, definitions)
    suffix = " or null" if node.get("nullable") else ""
    if "enum" in node or "const" in node:
        return one_of(node.get("enum") or [node["const"]]) + suffix
    if "discriminator" in node:
        tag, known = node["discriminator"]["propertyName"], list(node["discriminator"]["mapping"])
        return f"a mapping with a field `{tag}` ({one_of(known)}){suffix}"
    if "oneOf" in node:
        return " or ".join(_expectation(option, definitions) for option in node["oneOf"]) + suffix
    if "meaning" in node:
        return node["meaning"] + (suffix and ", or null")
    if node.get("type") == "object":
        return _mapping(node) + suffix
    if node.get("type") == "array":
        return _list(node, definitions) + suffix
    if pattern := node.get("pattern"):
        return f"a name of {_letters(pattern)}"
    bounds = " and ".join(
        f"{sign} {node[name]:.15g}" for name, sign in _BOUNDS.items() if name in node
    )
    return " ".join(filter(None, [_NOUNS[node["type"]], bounds])) + suffix


def _mapping(node: dict[str, Any]) -> str:
    if fields := list(node.get("properties", {})):
        needed = [name for name in fields if name in node.get("required", [])]
        some = needed or fields[:3]
        more = ", ..." if len(some) < len(fields) else ""
        return f"a mapping of fields ({', '.join(some)}{more})"
    return f"a mapping{' with at least one entry' if node.get('minProperties') else ''}"


def _list(node: dict[str, Any], definitions: dict[str, Any]) -> str:
    if each := node.get("prefixItems"):
        return f"a list of {len(each)} values"
    least = " with at least one entry" if node.get("minItems") else ""
    items = _resolve(node.get("items", {}), definitions)
    of = {"object": "mappings", "array": "lists", "integer": "whole numbers", "number": "numbers"}
    each = of.get(items.get("type", ""))
    return f"a list{f' of {each}' if each else ''}{least}"


def _letters(pattern: str) -> str:
    """The letters of a name, by its pattern, whose first may have a class of its own."""
    *first, allowed = re.findall(r"\[(.*?)\]", pattern)
    found = re.findall(r"\w-\w|.", allowed)
    begins = ", beginning with a letter or digit" if first else ""
    return f"{', '.join(found[:-1])} and {found[-1]}{begins}"


def one_of(names: Iterable[Any]) -> str:
    """The choices that there are, in words."""
    names = [str(name) for name in names]
    return names[0] if len(names) == 1 else "one of " + ", ".join(names)


def likely(name: Any, known: Collection[str]) -> str | None:
    """The known name that a wrong one is a typing error of; None where it may mean another thing.

    Numbers and short parts of a name tell sizes, versions and kinds apart (`swin_s` and `swin_t`,
    `resnet18` and `resnet101`), so only its longer words may differ, each by little.
    """
    if not isinstance(name, str):
        return None
    found = [other for other in known if _squeezed(other) == _squeezed(name)]
    found = found or [other for other in known if _mistyped(_words(name), _words(other))]
    return found[0] if len(found) == 1 else None


def _squeezed(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+|[0-9]+", name.lower())


def _mistyped(words: list[str], others: list[str]) -> bool:
    return len(words) == len(others) and all(map(_alike, words, others))


def _alike(word: str, other: str) -> bool:
    if word == other:
        return True
    if min(len(word), len(other)) < 3 or word.isdigit() or other.isdigit():
        return False
    return sorted(word) == sorted(other) or SequenceMatcher(None, word, other).ratio() > 0.8


def _shown(value: Any, known: Collection[str]) -> str:
    """What was given, with the known value that it may be a typing error of."""
    close = likely(value, known)
    return show(value) + (f" (did you mean `{close}`?)" if close else "")


def _quotes(value: Any) -> str:
    """What to do about a value that YAML does not take for text."""
    plain = isinstance(value, bool | int | float | date)
    return ": put it in quotes, which make it text" if plain else ""


def as_yaml(value: Any) -> str:
    """A value in one line as a file would have it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return text.removesuffix("\n").removesuffix("\n...")


def show(value: Any) -> str:
    """A value as its file has it, or what it is where that is long."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    text = _text(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):
        return f"the date {value.isoformat()}"
    if isinstance(value, list | tuple):
        return f"[{', '.join('null' if item is None else show(item) for item in value)}]"
    if isinstance(value, float) and not math.isfinite(value):
        return f".{value}".replace(".-", "-.")
    return repr(value)
