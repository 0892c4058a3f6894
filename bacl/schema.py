"""What all settings are built on: a strict base, fields that say what they expect, and names that
may be registered after the settings that take them were defined."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import core_schema

_MODELS: list[type[BaseModel]] = []
"""All settings, each after those that it is made of."""


class Settings(BaseModel):
    """Base: unknown fields are errors, numbers are finite, values do not change once validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        _MODELS.append(cls)


def rebuild() -> None:
    """Have all settings take what has been registered since they were defined."""
    for model in _MODELS:
        model.model_rebuild(force=True)


def meaning(words: str) -> Any:
    """What a field that takes text expects, for the sentence about one that is wrong."""
    return Field(min_length=1, json_schema_extra={"meaning": words})


class Names:
    """Pydantic's schema of text that is one of the names in tables, whatever is there by then."""

    def __init__(self, *tables: Iterable[str]) -> None:
        self.tables = tables

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        return core_schema.literal_schema([name for table in self.tables for name in table])
