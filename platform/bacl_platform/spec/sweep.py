"""One sweep file as validated settings: a space, a search, a scheduler."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, model_validator

from bacl.method_settings.paper import CHANGEABLE
from bacl.schema import Settings, meaning
from bacl.settings import Seed
from bacl_platform.spec.experiment import Experiment, Name, Paper, Title
from bacl_platform.spec.space import Space
from bacl_platform.spec.yaml_files import read_yaml, says_sweep

VARIANT = "variant."
"""What the paths of the trial's own variant start with, in a space."""

OF_STAGE = ("recipe.", "resources.")
"""What the paths of other fields of the trial's stage start with."""

STAGE = "stage"
"""The field of a space that says which stage a trial is of."""


class Asha(Settings):
    """Successive halving: at each rung of evaluations, only the best share goes on."""

    type: Literal["asha"]
    grace: int = Field(1, gt=0)
    """Evaluations that every trial gets."""
    reduction: int = Field(3, gt=1)
    """One of so many trials goes on from a rung, and rungs are so many times further apart."""


class Median(Settings):
    """Stops trials that do worse than the median of the others' running means."""

    type: Literal["median"]
    grace: int = Field(1, gt=0)
    """Evaluations that every trial gets."""
    least: int = Field(3, gt=0)
    """Trials that the median needs."""


class Pbt(Settings):
    """Population-based training: the worst trials go on from the best's state, with other values.

    Its trials are the members of one bank, and the fields of its space such as may change while a
    variant trains.
    """

    type: Literal["pbt"]
    interval: int = Field(1, gt=0)
    """Evaluations between copies."""
    quantile: float = Field(0.25, gt=0, le=0.5)
    """Share of the trials that are replaced, and of those that are copied."""
    resample: float = Field(0.25, ge=0, le=1)
    """Chance that a field is drawn anew; else it moves by a fifth, or to a list's next value."""


class Screen(Settings):
    """Trains all trials on stored features first, and only the best of them as without it.

    A stage of kind `features` passes all images through the trunk once, and the trials replay what
    it stores.
    """

    views: int = Field(2, gt=0)
    """Augmented views of each training image."""
    negatives: int = Field(64, gt=0)
    """Background regions of each view that are kept; sampled regions of objects all are."""
    layers: list[Literal["pooled", "fc1"]] = []
    """Layers of the box head that are kept beside h, for methods that read them."""
    confirm: int = Field(gt=0)
    """How many of the best trials, by the mean of the sweep's metric over seeds, train exactly
    then; and the trial that equals the base's baseline, if there is one."""


class Sweep(Settings):
    """One sweep file."""

    name: Title = Field(examples=["alphas"])
    """Name of the sweep, under which its trials and its report are found."""
    base: Annotated[str, meaning("the path of an experiment file")] = Field(
        examples=["../embedded/demo.yaml"]
    )
    """The experiment that trials are made of, relative to the sweep's folder."""
    stage: Name = "classifier"
    """The stage whose trials they are, where the space has no field `stage` that says it; other
    stages stay as far as it needs them."""
    variant: (
        Annotated[
            Annotated[str, meaning("the name of a variant"), Tag("string")]
            | Annotated[dict[str, Any], meaning("a mapping of its settings"), Tag("object")],
            Discriminator(lambda given: "object" if isinstance(given, dict) else "string"),
        ]
        | None
    ) = None
    """What the trial's variant starts from: a name from the base's stage, or settings."""
    fixed: dict[str, Any] = Field({}, examples=[{"recipe.evaluate_every": 100}])
    """Fields of the base that are set for all trials."""
    space: Annotated[
        Annotated[Space, Tag("object")] | Annotated[list[Space], Tag("array")],
        Discriminator(lambda given: "array" if isinstance(given, list) else "object"),
    ] = Field(
        examples=[{"variant.alpha": [0, 0.5, 0.85], "recipe.schedule.lr": [0.01, 0.02, 0.04]}]
    )
    """Fields of the experiment by dotted paths, and their values; of a list of spaces, the trials
    of all. Paths begin with `variant.` for the trial's own variant, with `recipe.` and `resources.`
    for its stage, and otherwise at the top of the experiment file; `stage` says which stage a trial
    is of."""
    seeds: list[Seed] | None = Field(None, min_length=1)
    """Each trial runs once for each; without them, the base's."""
    metric: Annotated[str, meaning("the name of a metric such as AP")] = "AP"
    """Metric of evaluations, such as `AP` or `AP_r`, by which trials are ranked and judged."""
    mode: Literal["max", "min"] = "max"
    """Whether the largest or the smallest value of the metric is the best."""
    search: Literal["grid", "random", "tpe"] = "grid"
    """`grid`: all combinations; `random` and `tpe` (Optuna's) draw `samples` trials."""
    samples: int | None = Field(None, gt=0)
    """Number of trials that `random` or `tpe` draws."""
    search_seed: Seed = 0
    """Seed of what `random` or `tpe` draws."""
    scheduler: Annotated[Asha | Median | Pbt, Field(discriminator="type")] | None = Field(
        None, examples=[{"type": "asha", "grace": 2}]
    )
    """Judges trials by the metric of their evaluations (`recipe.evaluate_every`): `asha` and
    `median` stop some early, `pbt` lets some go on from others."""
    screen: Screen | None = Field(None, examples=[{"confirm": 3}])
    """Trains all trials on stored features, and the best of them exactly; null trains all
    exactly."""
    max_concurrent: int | None = Field(None, gt=0)
    """Jobs at a time; without it, as many as the cluster has room for."""
    variants_per_job: int | None = Field(None, gt=0)
    """Trials that share one trunk; without it, all that can."""
    paper: Paper | None = None
    """The published table that the trials repeat, for `bacl report --paper`."""

    @model_validator(mode="after")
    def _search_and_space_agree(self) -> "Sweep":
        spaces = self.spaces
        if not spaces or not all(spaces):
            raise ValueError("space: expected at least one field, got none")
        if self.search != "grid" and self.samples is None:
            raise ValueError(f"samples: expected how many trials {self.search} draws, got nothing")
        if self.search == "grid" and self.samples is not None:
            raise ValueError("samples: expected nothing of a grid, which has its own number")
        if self.search == "tpe" and len(spaces) > 1:
            raise ValueError("search: tpe expects one space, got a list of them")
        for space in spaces:
            for path, axis in space.items():
                if self.search == "grid" and axis.choice is None:
                    raise ValueError(
                        f"space.{path}: a grid expects a list of values; a range to draw from "
                        "needs `search: random` or `tpe`"
                    )
                if unknown := sorted(axis.when.keys() - space.keys()):
                    raise ValueError(
                        f"space.{path}.when: expected fields of the space, got {unknown[0]!r}"
                    )
                if any(space[other].when for other in axis.when):
                    raise ValueError(
                        f"space.{path}.when: expected fields that always count, got one that is "
                        "conditional itself"
                    )
        if self.competes:
            self._check_population()
        if self.screen is not None:
            self._check_screen(self.screen)
        return self

    def _check_screen(self, screen: Screen) -> None:
        """What screening can serve."""
        if self.scheduler is not None:
            raise ValueError(
                "scheduler: expected nothing with screen, which ranks trials by their final "
                f"results, got {self.scheduler.type}"
            )
        if screen.confirm > self.count():
            raise ValueError(
                f"screen.confirm: expected at most {self.count()}, as many as there are trials, "
                f"got {screen.confirm}"
            )
        own = (VARIANT, *OF_STAGE, f"stages.{self.stage}.")
        for path in (path for space in self.spaces for path in space):
            if not path.startswith(own):
                raise ValueError(
                    f"space.{path}: expected fields of stage {self.stage} alone with screen, whose "
                    "trials replay the features of one trunk"
                )

    def _check_population(self) -> None:
        """What population-based training can serve."""
        if self.search == "tpe" or len(self.spaces) > 1:
            raise ValueError(
                "scheduler: pbt expects one space and search grid or random, because its trials "
                "start together"
            )
        if self.variants_per_job is not None:
            raise ValueError(
                "variants_per_job: expected nothing with pbt, whose trials share a job"
            )
        for path, axis in self.spaces[0].items():
            field = path.removeprefix(VARIANT)
            if not path.startswith(VARIANT) or field not in CHANGEABLE:
                fields = ", ".join(VARIANT + name for name in CHANGEABLE)
                raise ValueError(
                    f"space.{path}: pbt expects fields that may change while a variant trains: "
                    f"{fields}"
                )
            if axis.when:
                raise ValueError(f"space.{path}.when: expected nothing with pbt")

    @property
    def stops(self) -> bool:
        """Whether a scheduler may stop trials early."""
        return isinstance(self.scheduler, Asha | Median)

    @property
    def competes(self) -> bool:
        """Whether trials go on from others' states."""
        return isinstance(self.scheduler, Pbt)

    @property
    def spaces(self) -> list[Space]:
        return self.space if isinstance(self.space, list) else [self.space]

    @property
    def adaptive(self) -> bool:
        """Whether trials cannot be known, or not known to finish, in advance."""
        return self.search == "tpe" or self.scheduler is not None

    def count(self) -> int:
        """How many trials there are at most."""
        if self.samples is not None:
            return self.samples
        return sum(
            math.prod(len(axis.choice or ()) for axis in space.values()) for space in self.spaces
        )

    def values(self) -> Iterator[dict[str, Any]]:
        """The values of each trial of a grid or random search, each combination once."""
        seen: list[dict[str, Any]] = []
        assert self.samples is not None or self.search == "grid"  # by _search_and_space_agree
        for values in self._grid() if self.samples is None else self.draws(self.samples):
            if values not in seen:
                seen.append(values)
                yield values

    def _grid(self) -> Iterator[dict[str, Any]]:
        for space in self.spaces:
            choices = [axis.choice or [] for axis in space.values()]
            for combination in itertools.product(*choices):
                yield _counting(space, dict(zip(space, combination, strict=True)))

    def draws(self, count: int) -> Iterator[dict[str, Any]]:
        """Points of the space at random, of each space in turn."""
        generator = np.random.default_rng(self.search_seed)
        for number in range(count):
            space = self.spaces[number % len(self.spaces)]
            yield _counting(space, {path: axis.draw(generator) for path, axis in space.items()})


SWEEP_FIELDS = Sweep.model_fields.keys() - Experiment.model_fields.keys() - {"base"}
"""Fields by which a file is a sweep and not an experiment, one that lacks its space too."""


def _counting(space: Space, values: dict[str, Any]) -> dict[str, Any]:
    return {path: value for path, value in values.items() if space[path].counts(values)}


def is_sweep(path: Path) -> bool:
    """Whether a file is a sweep, by its `space`, and not an experiment."""
    return says_sweep(read_yaml(path))
