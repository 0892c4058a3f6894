"""Errors for users: wrong requests and failed runs. A message says what was wrong, where, and what
was expected."""

import re


class BaclError(Exception):
    """Base of all errors that are reported to the user in a sentence, without a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        return unwrapped(super().__str__())


class UsageError(BaclError):
    """Error in the request itself: a file, a field or an option. Exit code 2."""

    exit_code = 2


class RunError(BaclError):
    """Failure to carry out a valid request. Exit code 1."""


def unwrapped(text: str) -> str:
    """Message of an error. Where a data loader's process raised it, torch raises it again with a
    whole traceback as its text; the original message is taken out of that."""
    caught = re.match(r"Caught (\w+) in .*\nOriginal Traceback", text)
    if caught is None:
        return text
    heads = list(re.finditer(rf"^(?:\w+\.)*{caught[1]}(?:: |$)", text, re.MULTILINE))
    return text[heads[-1].end() :].strip() if heads else text
