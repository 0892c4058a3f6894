"""The two kinds of failure a user meets. Each message says what, where and what was expected."""


class BaclError(Exception):
    """Base of all errors that are told to the user in a sentence, without a traceback."""

    exit_code = 1


class UsageError(BaclError):
    """The request itself is wrong: a file, a field, an option. Exit code 2."""

    exit_code = 2


class RunError(BaclError):
    """The request was right but could not be carried out. Exit code 1."""
