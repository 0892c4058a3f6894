"""Registry of the methods that an experiment may name."""

from functools import reduce
from operator import or_
from typing import Annotated, Any, get_args

from pydantic import Field

from bacl.errors import UsageError
from bacl.method_settings import (
    adaptive,
    classifiers,
    paper,
    priors,
    resampling,
    suppression,
)
from bacl.method_settings.base import Method
from bacl.schema import rebuild

METHODS: dict[str, type[Method]] = {}
"""The settings of each method by its name."""


class _Registered:
    """Pydantic's schema of `Variant`."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        known: Any = reduce(or_, METHODS.values())
        return handler.generate_schema(Annotated[known, Field(discriminator="method")])


Variant = Annotated[Method, _Registered]
"""Settings of a variant in an experiment file: those of one of METHODS."""


def register(settings: type[Method]) -> type[Method]:
    """Register a method that is not BACL's own, so that experiments can name it; decorates its
    settings.

    The method's variant is registered by the same name in `bacl.variants.METHODS`.

    Raises:
        UsageError: a method of that name exists, or the settings have no field `method` that names
            it.
    """
    name = _name(settings)
    if name in METHODS:
        raise UsageError(
            f"method {name} of {settings.__module__} is registered already by "
            f"{METHODS[name].__module__}: expected another name"
        )
    METHODS[name] = settings
    rebuild()
    return settings


def _name(settings: type[Method]) -> str:
    names = get_args(settings.model_fields["method"].annotation)
    if len(names) != 1 or not isinstance(names[0], str):
        raise UsageError(
            f"{settings.__module__}.{settings.__name__}: expected a field `method: Literal[NAME]`, "
            "which names the method"
        )
    return names[0]


METHODS |= {
    _name(own): own
    for own in (
        paper.Softmax,
        paper.Sigmoid,
        paper.BCE,
        paper.FCBL,
        paper.BACL,
        suppression.EQL,
        suppression.DropLoss,
        priors.BALMS,
        adaptive.EQLv2,
        adaptive.Seesaw,
        suppression.ACSL,
        classifiers.BAGS,
        classifiers.DisAlign,
        classifiers.Cosine,
        classifiers.TDE,
        adaptive.PCB,
        resampling.FASA,
        resampling.SimCal,
        classifiers.Forest,
        resampling.LOCE,
        resampling.RIO,
        adaptive.Focal,
        priors.ClassBalanced,
        priors.LDAM,
        priors.LogitAdjusted,
        suppression.Federated,
        suppression.GOL,
        priors.ECM,
        adaptive.ROG,
    )
}
