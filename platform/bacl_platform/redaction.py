"""Keeps passwords and tokens out of what is printed, logged, written and tracked."""

import re

_USER = re.compile(r"(?<=://)[^\s/'\"]*@")
_ARGUMENT = re.compile(
    r"(?i)([?&][^=&\s'\"]*(?:password|passwd|token|secret|signature|credential|api_?key)[^=&\s'\"]*"
    r"=)[^&\s'\"]+"
)


def redacted(text: str) -> str:
    """An address, or text with addresses in it, without their user:password@ and secret arguments.

    What is left tells servers apart: `https://me:pass@host/x?token=1` is
    `https://***@host/x?token=***`.
    """
    return _ARGUMENT.sub(r"\1***", _USER.sub("***@", text))
