"""How much a process prints besides results, warnings and errors: --quiet and --verbose."""

import enum


class Volume(enum.Enum):
    """How much is printed besides results, warnings and errors."""

    QUIET = "no progress"
    NORMAL = "progress"
    VERBOSE = "progress in every step, and what jobs and libraries print"


class _Chosen:
    volume = Volume.NORMAL


def volume() -> Volume:
    """What this process prints; `set_volume` changes it."""
    return _Chosen.volume


def set_volume(chosen: Volume) -> None:
    """Choose how much this process prints besides results, warnings and errors."""
    _Chosen.volume = chosen
