"""The values that a sweep's fields take: lists, or ranges to draw from."""

import math
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from bacl.schema import Settings

Bounds = tuple[float, float]


def _of_any_type(schema: dict[str, Any]) -> None:
    """Let an axis be a list or a single value in its schema, too."""
    schema.pop("type")


class Axis(Settings):
    """The values of one field: a list, or a range to draw from.

    In a file, a list stands for `choice` and a single value for a list of one.
    """

    model_config = ConfigDict(json_schema_extra=_of_any_type)

    choice: Annotated[list[Any], Field(min_length=1)] | None = None
    """Values to take, each as likely where they are drawn."""
    uniform: Bounds | None = None
    """Least and largest of numbers that are drawn evenly."""
    loguniform: Bounds | None = None
    """Least and largest of numbers above 0 whose logarithms are drawn evenly."""
    randint: tuple[int, int] | None = None
    """Whole numbers from the first to the second, both included."""
    when: dict[str, Any] = {}
    """Other fields of the space and the value (or values) of theirs with which this one counts."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, given: Any) -> Any:
        if isinstance(given, list):
            return {"choice": given}
        return given if isinstance(given, dict) else {"choice": [given]}

    @model_validator(mode="after")
    def _one_kind(self) -> "Axis":
        kinds = ("choice", "uniform", "loguniform", "randint")
        given = [kind for kind in kinds if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of {', '.join(kinds)}, got {len(given)} of them")
        if self.choice is None:
            low, high = getattr(self, given[0])
            if not low < high or (given[0] == "loguniform" and low <= 0):
                least = "0 < low < high" if given[0] == "loguniform" else "low < high"
                raise ValueError(f"{given[0]}: expected {least}, got {low:g} and {high:g}")
        return self

    def draw(self, generator: np.random.Generator) -> Any:
        """A value at random."""
        if self.choice is not None:
            return self.choice[generator.integers(len(self.choice))]
        if self.randint is not None:
            return int(generator.integers(*self.randint, endpoint=True))
        if self.uniform is not None:
            return float(generator.uniform(*self.uniform))
        assert self.loguniform is not None  # by _one_kind
        low, high = self.loguniform
        return math.exp(generator.uniform(math.log(low), math.log(high)))

    def counts(self, values: dict[str, Any]) -> bool:
        """Whether the field counts beside these values of the others."""
        for path, wanted in self.when.items():
            allowed = wanted if isinstance(wanted, list) else [wanted]
            if path not in values or values[path] not in allowed:
                return False
        return True


Space = dict[str, Axis]
