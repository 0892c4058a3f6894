"""A web server on this machine that behaves as badly as servers do."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Server:
    """What a server does, and what it was asked."""

    base: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    drops: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off."""
    errors: list[int] = field(default_factory=list)
    """HTTP codes of the next answers."""
    ranges: bool = True
    length: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    """Paths and ranges."""


@contextmanager
def serving() -> Iterator[Server]:
    """A server on the loopback device that runs for as long as the context."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            wanted = self.headers.get("Range")
            state.asked.append((self.path, wanted))
            if state.errors:
                self.send_error(state.errors.pop(0))
                return
            content = state.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            tag = state.tags.get(self.path)
            start = 0
            if wanted and state.ranges and self.headers.get("If-Range") in (None, tag):
                start = int(re.match(r"bytes=(\d+)-$", wanted)[1])
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                last = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            if state.length:
                self.send_header("Content-Length", str(len(content) - start))
            if tag:
                self.send_header("ETag", tag)
            self.end_headers()
            body = content[start:]
            self.wfile.write(body[: state.drops.pop(0)] if state.drops else body)

    # daemon threads: a test ends while the server may still be writing
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    state.base = f"http://127.0.0.1:{http.server_port}"
    try:
        yield state
    finally:
        http.shutdown()
        http.server_close()
