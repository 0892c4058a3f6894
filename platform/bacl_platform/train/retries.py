"""What is worth another try: the one place that decides it, for all ranks of all jobs."""

from bacl.errors import BaclError, unwrapped

LASTING = (
    BaclError,  # what is told to the user, who has to do something about it
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)
"""Errors of the request, the data, the files or the code: they come again however often a job is
started. All else (a worker that died or lost its peers, memory, a device, a file system that does
not answer) may pass."""


def lasts(error: BaseException) -> bool:
    """Whether a job that failed so would fail again."""
    return isinstance(error, LASTING)


def failure(name: str, key: str, error: BaseException) -> str:
    """What to tell of an error that lasts, of a job with that name and key."""
    if isinstance(error, BaclError):
        return str(error)
    lines = unwrapped(str(error)).strip().splitlines()
    reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return f"job {name} ({key}) failed, as it would again: {reason}"
