"""Images from a web server on this machine that behaves as badly as servers do."""

import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from PIL import Image
from web import Server, serving

from bacl.errors import UsageError
from bacl_platform.inference.remote import fetch_image, is_url


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        state.files["/a.png"] = picture()
        yield state


def picture() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "PNG")
    return file.getvalue()


@contextmanager
def answering(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and then does `answer` with the connection, each time."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    try:
                        answer(connection)
                    except OSError:  # the client has gone
                        continue

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def says(head: str, body: bytes = b"") -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(f"HTTP/1.1 {head}\r\n\r\n".encode() + body)


def test_image_is_fetched_whole(server):
    assert fetch_image(f"{server.base}/a.png") == picture()
    server.length = False
    assert fetch_image(f"{server.base}/a.png") == picture()


@pytest.mark.parametrize("length", [True, False])
def test_image_beyond_the_bound_is_refused(server, length):
    server.length = length
    size = len(picture())
    assert fetch_image(f"{server.base}/a.png", most_bytes=size) == picture()
    with pytest.raises(UsageError, match=rf"got .*more than {size - 1:,}"):
        fetch_image(f"{server.base}/a.png", most_bytes=size - 1)


def test_what_is_no_image_is_refused(server):
    server.files["/page"] = b"<html>not an image</html>"
    server.files["/empty"] = b""
    with pytest.raises(UsageError, match=r"/page: expected an image, got none of JPEG, PNG"):
        fetch_image(f"{server.base}/page")
    with pytest.raises(UsageError, match=r"/empty: expected an image, got an empty file"):
        fetch_image(f"{server.base}/empty")
    with pytest.raises(UsageError, match=r"got HTTP 404 Not Found"):
        fetch_image(f"{server.base}/none.png")


def test_answer_that_breaks_off_is_refused(server):
    server.drops = [1000]
    with pytest.raises(UsageError, match=r"expected an image, got (1,000 of|a broken answer)"):
        fetch_image(f"{server.base}/a.png")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/a.png", "http://", "http://[::1/a", "a.png", ""]
)
def test_other_addresses_are_refused(url):
    with pytest.raises(UsageError, match=r"no address that begins with http:// or https://"):
        fetch_image(url)


def test_server_that_is_not_there_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(UsageError, match=r"got no connection$"):
        fetch_image(f"http://me:secret@127.0.0.1:{port}/a.png?token=abc")


def test_password_is_not_told_in_errors():
    with pytest.raises(UsageError) as raised:
        fetch_image("http://me:secret@127.0.0.1:9/a.png?token=abc")
    assert "secret" not in str(raised.value) and "abc" not in str(raised.value)


def test_silent_and_slow_servers_are_left_in_time():
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(200):
            connection.sendall(b"a")
            time.sleep(0.05)

    for answer in (drip, lambda connection: time.sleep(3)):
        with answering(answer) as base:
            began = time.monotonic()
            with pytest.raises(UsageError, match=r"got no (whole )?answer in time"):
                fetch_image(f"{base}/a.png", timeout=0.4)
            assert time.monotonic() - began < 2


def moved_to(place: str) -> Callable[[socket.socket], None]:
    return says(f"302 Found\r\nLocation: {place}\r\nContent-Length: 0")


def test_redirects_are_followed_to_the_image(server):
    with answering(moved_to(f"{server.base}/a.png")) as base:
        assert fetch_image(f"{base}/moved") == picture()


@pytest.mark.parametrize(
    ("place", "told"),
    [("/again", "more than 5 redirects"), ("file:///etc/passwd", "no address that begins with")],
)
def test_redirects_that_lead_nowhere_are_told(place, told):
    with answering(moved_to(place)) as base, pytest.raises(UsageError, match=told):
        fetch_image(f"{base}/moved")


def test_only_hosts_that_are_allowed_are_asked(server):
    host = server.base.removeprefix("http://")
    assert fetch_image(f"{server.base}/a.png", hosts=["127.0.0.1"]) == picture()
    assert fetch_image(f"{server.base}/a.png", hosts=[host]) == picture()
    asked = len(server.asked)
    for hosts in ([], ["example.org"], ["127.0.0.1:9"]):
        with pytest.raises(UsageError, match=r"one of a host that may not be asked"):
            fetch_image(f"{server.base}/a.png", hosts=hosts)
    moved = moved_to(f"{server.base}/a.png")
    with answering(moved) as base, pytest.raises(UsageError, match=r"may not be asked"):
        fetch_image(f"{base}/moved", hosts=[base.removeprefix("http://")])
    # an address whose host two parsers take to be another
    with pytest.raises(UsageError):
        fetch_image(f"http://example.org\\@{host}/a.png", hosts=["127.0.0.1"])
    with pytest.raises(UsageError):
        fetch_image(f"http://127.0.0.1\\@{host}/a.png", hosts=["example.org"])
    assert len(server.asked) == asked


def test_passwords_of_netrc_are_not_sent(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    seen = []
    body = picture()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                with connection:
                    seen.append(connection.recv(65536))
                    says(f"200 OK\r\nContent-Length: {len(body)}", body)(connection)

        threading.Thread(target=serve, daemon=True).start()
        place = f"127.0.0.1:{listening.getsockname()[1]}"
        assert fetch_image(f"http://{place}/a.png") == body
        assert fetch_image(f"http://you:yours@{place}/a.png") == body
    assert b"Authorization" not in seen[0]
    assert b"Authorization: Basic eW91OnlvdXJz" in seen[1]


def test_addresses_are_told_from_paths():
    assert is_url("http://a/b.png") and is_url("HTTPS://a/b.png")
    assert not is_url("http.png") and not is_url("file:///a.png") and not is_url("C:\\a.png")
