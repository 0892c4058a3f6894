"""Which failures are worth another attempt, decided here for all ranks of all jobs."""

from bacl.errors import BaclError, unwrapped

LASTING = (
    BaclError,  # for the user, who has to do something about it
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
    """Whether a job that failed with this error would fail again."""
    return isinstance(error, LASTING)


def sentence(error: BaseException) -> str:
    """What an error says, and its kind where it is none of ours."""
    if isinstance(error, BaclError):
        return str(error)
    lines = unwrapped(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def failure(name: str, key: str, error: BaseException) -> str:
    """The error message for a job with that name and key that would fail again."""
    if isinstance(error, BaclError):
        return str(error)
    return f"job {name} ({key}) failed, and would fail again: {sentence(error)}"
