"""Images that others send to a server: decoded within bounds, or refused in a sentence."""

import base64
import binascii
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from bacl.datasets.decoding import ImageUnreadable, decode, seen_size
from bacl.errors import UsageError
from bacl_platform.inference import remote

MOST_BYTES = 20 << 20
MOST_PIXELS = 25_000_000
_ANY_HOST = "*"


class TooLarge(UsageError):
    """An image beyond the bounds."""


@dataclass(frozen=True)
class Bounds:
    """How large an image may be, and the hosts that one may be fetched from by its address.

    most_bytes: of its file. most_pixels: of its width times its height. url_hosts: as
    `remote.fetch_image` takes them, None for any; without one no address is fetched, since whoever
    may ask this server could ask with it what only this server reaches.
    """

    most_bytes: int = MOST_BYTES
    most_pixels: int = MOST_PIXELS
    url_hosts: Collection[str] | None = ()
    url_timeout: float = remote.TIMEOUT

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> "Bounds":
        """Those of BACL_MOST_BYTES, BACL_MOST_PIXELS and BACL_URL_HOSTS, for a server that takes no
        options.

        BACL_URL_HOSTS: `name` or `name:port`, with commas between; * stands for any. Raises
        UsageError for bounds that are no whole numbers above 0.
        """
        hosts = [host.strip() for host in environment.get("BACL_URL_HOSTS", "").split(",")]
        return cls(
            _number(environment, "BACL_MOST_BYTES", MOST_BYTES),
            _number(environment, "BACL_MOST_PIXELS", MOST_PIXELS),
            None if hosts == [_ANY_HOST] else [host for host in hosts if host],
        )


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal() or int(text) == 0:
        raise UsageError(f"{name}: expected a whole number above 0, got {text!r}")
    return int(text)


def check(content: bytes, bounds: Bounds) -> None:
    """Raise TooLarge for an image beyond the bounds, as its header says it, UsageError for what is
    no image; no pixel is decoded."""
    if len(content) > bounds.most_bytes:
        raise TooLarge(
            f"expected an image of at most {bounds.most_bytes:,} bytes, got {len(content):,}"
        )
    try:
        width, height = seen_size(content)
    except ImageUnreadable as error:
        raise UsageError(f"expected an image, got {error}") from error
    if width * height > bounds.most_pixels:
        raise TooLarge(
            f"expected an image of at most {bounds.most_pixels:,} pixels, got {width} x {height}"
        )


def pixels_of(content: bytes, bounds: Bounds) -> NDArray[Any]:
    """The pixels (height, width, 3) in blue, green, red of an image's file.

    Raises UsageError for what `check` refuses, and for a damaged image.
    """
    check(content, bounds)
    try:
        return decode(content)
    except ImageUnreadable as error:
        raise UsageError(f"expected an image, got {error}") from error


def content_of(text: str, bounds: Bounds) -> bytes:
    """The file of an image that is sent as base64, as a `data:` address or, if its host is allowed,
    as its address on the web; it has passed `check`.

    Raises UsageError for anything else.
    """
    if remote.is_url(text):
        if bounds.url_hosts is not None and not bounds.url_hosts:
            raise UsageError(
                "expected an image in base64, got an address, and this server fetches none unless "
                "it is started with BACL_URL_HOSTS"
            )
        content = remote.fetch_image(text, bounds.most_bytes, bounds.url_timeout, bounds.url_hosts)
    else:
        if text.startswith("data:"):
            text = text.partition(",")[2]
        if len(text) > bounds.most_bytes * 3 // 2:  # 4 letters for 3 bytes, and line breaks
            raise TooLarge(
                f"expected an image of at most {bounds.most_bytes:,} bytes, got base64 of "
                f"{len(text):,} letters"
            )
        try:
            content = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise UsageError(
                "expected an image in base64 or its address on the web, got neither"
            ) from error
    check(content, bounds)
    return content
