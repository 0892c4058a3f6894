"""The two kinds of failure a user meets. Each message says what, where and what was expected."""

import re


class BaclError(Exception):
    """Base of all errors that are told to the user in a sentence, without a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        return unwrapped(super().__str__())


class UsageError(BaclError):
    """The request itself is wrong: a file, a field, an option. Exit code 2."""

    exit_code = 2


class RunError(BaclError):
    """The request was right but could not be carried out. Exit code 1."""


def unwrapped(text: str) -> str:
    """What an error says, also where torch raised it again, with a traceback as its message,
    because a process of a data loader had raised it."""
    caught = re.match(r"Caught (\w+) in .*\nOriginal Traceback", text)
    if caught is None:
        return text
    heads = list(re.finditer(rf"^(?:\w+\.)*{caught[1]}(?:: |$)", text, re.MULTILINE))
    return text[heads[-1].end() :].strip() if heads else text
