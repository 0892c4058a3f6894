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
class Started(Message):
    """The job trains, from a step on."""

    step: int


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
