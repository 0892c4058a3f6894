"""Base of all settings: a strict pydantic model, fields that describe what they expect, and fields
whose allowed names may be registered after their class was defined."""

from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import core_schema

_MODELS: list[type[BaseModel]] = []
"""All settings classes, each after those that its fields use."""


class Settings(BaseModel):
    """Base: unknown fields are errors, numbers are finite, values do not change once validated."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        _MODELS.append(cls)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> Any:
        found = handler(schema)
        for name, node in handler.resolve_ref_schema(found).get("properties", {}).items():
            node["description"] = description(cls, name)
        return found


def description(model: type[BaseModel], name: str) -> str:
    """What a field is, in one paragraph: its docstring, or that of the base's field of that name.

    Of a field that says which class it is of, such as a method's `method`, what the class is. Empty
    where nothing says it.
    """
    if tag(model, name) is not None:
        return " ".join((model.__doc__ or "").split())
    for owner in model.__mro__:
        own = owner.model_fields.get(name) if issubclass(owner, BaseModel) else None
        if own is not None and own.description:
            return " ".join(own.description.split())
    return ""


def tag(model: type[BaseModel], name: str) -> str | None:
    """The one text that a field allows and by which files name its class; None of other fields."""
    field = model.model_fields[name]
    values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return values[0] if len(values) == 1 and field.is_required() else None


def rebuild() -> None:
    """Rebuild all settings, so that they accept names registered since they were defined."""
    for model in _MODELS:
        model.model_rebuild(force=True)


def meaning(words: str) -> Any:
    """Annotation that describes what a text field expects, for its error message."""
    return Field(min_length=1, json_schema_extra={"meaning": words})


class Names:
    """Annotation of a text field that accepts the names in `tables` at the time of the last
    `rebuild`, and any that begins with `prefix` and goes on."""

    def __init__(self, *tables: Iterable[str], prefix: str | None = None) -> None:
        self.tables = tables
        self.prefix = prefix

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        names = core_schema.literal_schema([name for table in self.tables for name in table])
        if self.prefix is None:
            return names
        return core_schema.no_info_wrap_validator_function(self._or_prefixed, names)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Any:
        found = handler(schema)
        return found if self.prefix is None else {**found, "prefix": self.prefix}

    def _or_prefixed(self, value: Any, named: Any) -> Any:
        assert self.prefix is not None
        further = isinstance(value, str) and value.startswith(self.prefix) and value != self.prefix
        return value if further else named(value)
