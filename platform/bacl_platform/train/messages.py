"""Messages of a job to the driver, and the functions by which its ranks send them.

Messages are plain and picklable: they go from Ray's processes to the driver's.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Message:
    """A message of the job with a key."""

    key: str


@dataclass(frozen=True)
class Placed(Message):
    """The job's workers have been placed on the cluster."""


@dataclass(frozen=True)
class Short(Message):
    """There is no room for the fewest workers that the job, which has a range, trains with."""


@dataclass(frozen=True)
class Started(Message):
    """The job trains, from a step on."""

    step: int


@dataclass(frozen=True)
class Lost:
    """What interruptions have cost."""

    steps: int = 0
    """Those, as far as they are known, that are trained once more."""
    seconds: float = 0.0
    """About how long they take."""
    idle: float = 0.0
    """Seconds between the workers before, when they were last seen to train, and those after."""

    def __add__(self, other: "Lost") -> "Lost":
        return Lost(self.steps + other.steps, self.seconds + other.seconds, self.idle + other.idle)

    def __str__(self) -> str:
        steps = f"{self.steps} step{'' if self.steps == 1 else 's'}"
        again = f" ({self.seconds:.0f} s)" if self.steps else ""
        return f"{steps} trained again{again}, {self.idle:.0f} s without training"


@dataclass(frozen=True)
class Gathered(Message):
    """So many workers train the job, from a step on."""

    step: int
    workers: int
    lost: Lost | None = None
    """By the interruption before; None where there was none."""


@dataclass(frozen=True)
class Logged(Message):
    """Rows of losses and metrics, each with its `step`."""

    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Measured(Message):
    """Rows on a rank's machine, each with its `step`."""

    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Checkpointed(Message):
    """A checkpoint of a step is whole."""

    step: int


@dataclass(frozen=True)
class Troubled(Message):
    """A worker stopped; Ray Train may restart the job."""

    sentence: str


@dataclass(frozen=True)
class VariantsFailed(Message):
    """Variants left the bank because they failed: a sentence for each, by name."""

    sentences: dict[str, str]


@dataclass(frozen=True)
class Reached:
    """How far a job has come."""

    step: int
    pace: float
    """Seconds that a step takes."""
    left: float
    """Seconds that the steps which lack will take."""


@dataclass(frozen=True)
class Moved:
    """How an attempt at a job ended whose workers are to be started again.

    step: what it goes on from. why: what the start is for, in words.
    """

    step: int
    why: str


Tell = Callable[[Message], None]
"""Sends a message to the driver."""
Report = Callable[[dict[str, Any]], None]
"""`ray.train.report`, which all ranks call together."""
Stopped = Callable[[int], Collection[str]]
"""Names of variants that need not go on, given the number of evaluations so far."""
Asked = Callable[[], bool]
"""Whether the driver asks to write a checkpoint and end."""

CHECKPOINT = "checkpoint"
"""What a report of a checkpoint has, its step; reports of evaluations have metrics and `step`."""
