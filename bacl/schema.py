"""Base of all settings: a strict pydantic model, fields that describe what they expect, and fields
whose allowed names may be registered after their class was defined."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import core_schema

_MODELS: list[type[BaseModel]] = []
"""All settings classes, each after those that its fields use."""


class Settings(BaseModel):
    """Base: unknown fields are errors, numbers are finite, values do not change once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        _MODELS.append(cls)


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

    def _or_prefixed(self, value: Any, named: Any) -> Any:
        assert self.prefix is not None
        further = isinstance(value, str) and value.startswith(self.prefix) and value != self.prefix
        return value if further else named(value)
