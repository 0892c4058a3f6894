"""What a source makes of a checkpoint, before it is fitted to a detector."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

Pixels = tuple[Sequence[float], Sequence[float]]
"""Means and deviations of an image's channels, in the order in which the detector has them."""


@dataclass
class Found:
    """A detector's weights under the names of a plain MMDetection 3 detector.

    Categories are in the checkpoint's own order, the background after them.
    """

    state: dict[str, Tensor] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Why something of the checkpoint is not in `state`, by its name there."""
    categories: Sequence[str] | None = None
    """Names of the categories; None where the checkpoint does not say them."""
    remarks: list[str] = field(default_factory=list)
    """What was decided in reading it, in sentences."""
    pixels: Pixels | None = None
    """What its images are normalised with, where the checkpoint says it."""


@dataclass(frozen=True)
class Options:
    """What a user says about a checkpoint that the file itself does not."""

    norm_eps: float | None = None
    """Eps of the batch norms that torchvision has frozen; None for that of its published
    weights."""
