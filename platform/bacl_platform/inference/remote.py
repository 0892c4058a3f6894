"""Images by their addresses on the web, fetched within bounds."""

import time
from collections.abc import Collection
from urllib.parse import urljoin, urlparse

import requests
from requests.auth import AuthBase, HTTPBasicAuth
from requests.utils import get_auth_from_url
from urllib3.exceptions import HTTPError, ReadTimeoutError

from bacl.datasets.decoding import ImageUnreadable, header
from bacl.errors import UsageError
from bacl_platform.redaction import redacted
from bacl_platform.texts import shortened

MOST_BYTES = 50 << 20
TIMEOUT = 30.0
"""Seconds for one image, its redirects among them."""
_MOST_REDIRECTS = 5
_BLOCK = 1 << 16
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
_PORTS = {"http": 80, "https": 443}


class _Unusable(Exception):
    """An address does not give an image; the text completes "expected an image, got ..."."""


def is_url(text: str) -> bool:
    """Whether a text is meant as an address on the web, and not as a file's path."""
    return text.lower().startswith(("http://", "https://"))


def fetch_image(
    url: str,
    most_bytes: int = MOST_BYTES,
    timeout: float = TIMEOUT,
    hosts: Collection[str] | None = None,
) -> bytes:
    """The bytes of the image at an address; its header has been read, its pixels not.

    timeout: in seconds, of the connection, of each wait for a header and of the whole. hosts: the
    only ones that are asked, also after a redirect, as `name` or `name:port`; None asks any. A
    password in the address is sent to its host alone, those of a `.netrc` are not sent.

    Raises:
        UsageError: the address is none, is of another host, does not answer in time, or gives
            something else than an image or more than `most_bytes`.
    """
    try:
        content = _fetched(url, most_bytes, time.monotonic() + timeout, hosts)
        header(content)
    except (_Unusable, ImageUnreadable) as error:
        shown = shortened(redacted(url), 200)
        raise UsageError(f"{shown}: expected an image, got {error}") from error
    return content


def _fetched(url: str, most: int, end: float, hosts: Collection[str] | None) -> bytes:
    allowed = None if hosts is None else {host.lower() for host in hosts}
    with requests.Session() as session:
        for _ in range(_MOST_REDIRECTS + 1):
            url = _checked(url, allowed)
            try:
                with session.get(
                    url,
                    headers=_HEADERS,
                    auth=_own_password(url),
                    allow_redirects=False,
                    stream=True,
                    timeout=max(end - time.monotonic(), 0.001),
                ) as response:
                    if not response.is_redirect:
                        return _body(response, most, end)
                    url = urljoin(url, response.headers["Location"])
                session.close()  # some servers close a connection without saying so, late
            except (requests.Timeout, ReadTimeoutError) as error:
                raise _Unusable("no answer in time") from error
            except (requests.RequestException, HTTPError) as error:  # the latter from a body
                raise _Unusable(_reason(error)) from error
    raise _Unusable(f"more than {_MOST_REDIRECTS} redirects")


def _checked(url: str, allowed: set[str] | None) -> str:
    """The address as it is sent, if it is one that may be asked.

    What sends it writes it anew first, so that no other host is asked than the one that is checked
    here, even where parsers read the user's own writing differently.
    """
    try:
        sent = requests.Request("GET", url).prepare().url or ""
        found = urlparse(sent)
        host, port = (found.hostname or "").lower(), found.port or _PORTS[found.scheme]
    except (requests.RequestException, ValueError, KeyError) as error:
        raise _Unusable("no address that begins with http:// or https://") from error
    if allowed is not None and not allowed & {host, f"{host}:{port}"}:
        raise _Unusable(f"one of a host that may not be asked ({host}:{port})")
    return sent


def _body(response: requests.Response, most: int, end: float) -> bytes:
    if response.status_code != 200:
        raise _Unusable(f"HTTP {response.status_code} {response.reason}")
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and int(length) > most:
        raise _Unusable(f"{int(length):,} bytes, more than {most:,}")
    content = bytearray()
    # read1 gives what is there: a server that sends byte by byte does not hold this up for ever
    while block := response.raw.read1(_BLOCK, decode_content=False):
        content += block
        if len(content) > most:
            raise _Unusable(f"more than {most:,} bytes")
        if time.monotonic() > end:
            raise _Unusable("no whole answer in time")
    if length.isdecimal() and len(content) < int(length):
        raise _Unusable(f"{len(content):,} of {int(length):,} bytes")
    return bytes(content)


class _Nothing(AuthBase):
    """No password, not even one of `.netrc`."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


def _own_password(url: str) -> AuthBase:
    user, password = get_auth_from_url(url)
    return HTTPBasicAuth(user, password) if user or password else _Nothing()


def _reason(error: Exception) -> str:
    if isinstance(error, requests.exceptions.SSLError):
        return "no safe connection (its certificate is not one that this machine trusts)"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return f"a broken answer ({type(error).__name__})"
