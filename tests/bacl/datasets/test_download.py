"""Downloads from a local server that behaves as badly as servers do, and archives as bad ones."""

import errno
import hashlib
import json
import os
import re
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bacl.datasets import download
from bacl.datasets.download import Wanted, checked, fetch, unpack
from bacl.errors import RunError

CONTENT = bytes(range(256)) * 3000  # 768,000 bytes


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


@pytest.fixture
def server() -> Iterator[Server]:
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
    state.files["/a.bin"] = CONTENT
    state.tags["/a.bin"] = '"one"'
    yield state
    http.shutdown()
    http.server_close()


def wanted(server, *paths, content=CONTENT, digest=True, size=True) -> Wanted:
    return Wanted(
        "a.bin",
        [server.base + path for path in paths or ("/a.bin",)],
        len(content) if size else None,
        hashlib.sha256(content).hexdigest() if digest else None,
    )


def get(wanted, target, watch=lambda *_: None, waited=None):
    return fetch(wanted, target, watch, pause=(waited if waited is not None else []).append)


def left(folder) -> list[str]:
    return sorted(os.listdir(folder))


@pytest.fixture
def small_blocks(monkeypatch):
    """So that what arrived before a break is on the disk, as with large files."""
    monkeypatch.setattr(download, "BLOCK", 1000)


def test_file_is_fetched_with_progress(server, tmp_path):
    seen = []
    address, digest = get(wanted(server), tmp_path / "new" / "a.bin", lambda *w: seen.append(w))
    assert (tmp_path / "new" / "a.bin").read_bytes() == CONTENT
    assert (address, digest) == (f"{server.base}/a.bin", hashlib.sha256(CONTENT).hexdigest())
    assert ("downloading a.bin", len(CONTENT), len(CONTENT)) in seen
    assert seen[-1] == ("checking a.bin", len(CONTENT), len(CONTENT))
    assert left(tmp_path / "new") == ["a.bin"]


def test_broken_connection_goes_on_where_it_stopped(server, tmp_path, small_blocks):
    server.drops = [300_000, 200_000]
    waited = []
    get(wanted(server), tmp_path / "a.bin", waited=waited)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=300000-", "bytes=500000-"]
    assert len(waited) == 2


def test_another_process_goes_on_from_the_part(server, tmp_path, small_blocks):
    server.drops = [300_000] + [0] * 10
    with pytest.raises(RunError, match=r"a\.bin could not be downloaded"):
        get(wanted(server), tmp_path / "a.bin")
    assert left(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    server.drops, server.asked = [], []
    get(wanted(server), tmp_path / "a.bin")
    assert server.asked == [("/a.bin", "bytes=300000-")]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_server_without_ranges_begins_anew(server, tmp_path, small_blocks):
    server.drops, server.ranges = [300_000], False
    get(wanted(server), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_file_that_changes_on_the_way_is_fetched_anew(server, tmp_path, small_blocks):
    other = CONTENT[::-1]
    server.drops = [300_000]

    def change(_):
        server.files["/a.bin"], server.tags["/a.bin"] = other, '"two"'

    fetch(wanted(server, content=other), tmp_path / "a.bin", lambda *_: None, change)
    assert (tmp_path / "a.bin").read_bytes() == other


def test_file_that_shrinks_on_the_way_is_fetched_anew(server, tmp_path, small_blocks):
    server.drops, server.tags = [300_000], {}

    def change(_):
        server.files["/a.bin"] = CONTENT[:1000]

    wish = wanted(server, digest=False, size=False)
    fetch(wish, tmp_path / "a.bin", lambda *_: None, change)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[:1000]


def test_whole_part_is_only_checked(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    note = {"address": f"{server.base}/a.bin", "validator": '"one"'}
    (tmp_path / "a.bin.part.json").write_text(json.dumps(note))
    get(wanted(server), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked == [("/a.bin", f"bytes={len(CONTENT)}-")]


def test_part_of_unknown_origin_is_not_trusted(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    get(wanted(server, digest=False), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_weak_tag_is_no_ground_for_a_range(server, tmp_path, small_blocks):
    server.tags["/a.bin"], server.drops = 'W/"one"', [300_000]
    get(wanted(server), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_wrong_bytes_are_refused_and_removed(server, tmp_path):
    server.files["/a.bin"] = b"y" + CONTENT[1:]
    with pytest.raises(RunError) as told:
        get(wanted(server), tmp_path / "a.bin")
    digests = [hashlib.sha256(c).hexdigest() for c in (CONTENT, b"y" + CONTENT[1:])]
    assert str(told.value) == (
        f"a.bin could not be downloaded: {server.base}/a.bin: expected SHA-256 {digests[0]}, "
        f"got {digests[1]}; what came was removed"
    )
    assert left(tmp_path) == []


def test_wrong_bytes_before_a_break_do_not_spoil_the_next_address(server, tmp_path, small_blocks):
    server.files |= {"/bad": b"y" * len(CONTENT), "/good": CONTENT}
    server.drops = [300_000] + [0] * (download.ATTEMPTS + 1)
    # The first address gives wrong bytes and dies; the second goes on from them, and is not
    # believed; only the third begins anew.
    address, _ = get(wanted(server, "/bad", "/good", "/a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert address.endswith("/a.bin")


def test_next_address_goes_on_from_the_first_ones_bytes(server, tmp_path, small_blocks):
    server.files["/mirror"] = CONTENT
    server.drops = [300_000] + [0] * download.ATTEMPTS
    get(wanted(server, "/a.bin", "/mirror"), tmp_path / "a.bin")
    assert server.asked[-1] == ("/mirror", "bytes=300000-")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_without_a_digest_the_next_address_begins_anew(server, tmp_path, small_blocks):
    server.files["/mirror"] = CONTENT
    server.drops = [300_000] + [0] * download.ATTEMPTS
    get(wanted(server, "/a.bin", "/mirror", digest=False), tmp_path / "a.bin")
    assert server.asked[-1] == ("/mirror", None)


def test_file_of_another_size_is_refused_before_it_is_fetched(server, tmp_path):
    server.files["/a.bin"] = CONTENT[:-1]
    with pytest.raises(RunError, match=r"expected 768,000 bytes, got 767,999$"):
        get(wanted(server), tmp_path / "a.bin")
    assert left(tmp_path) == []


def test_truncated_answer_without_a_length_is_refused(server, tmp_path):
    server.length, server.drops = False, [300_000] * 20
    server.ranges = False
    with pytest.raises(RunError, match=r"the server closed after 300,000 of 768,000 bytes"):
        get(wanted(server), tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


def test_each_address_says_why_not(server, tmp_path):
    with pytest.raises(RunError) as told:
        get(wanted(server, "/none", "/neither"), tmp_path / "a.bin")
    assert str(told.value).replace(server.base, "") == (
        "a.bin could not be downloaded: /none: HTTP 404 Not Found; /neither: HTTP 404 Not Found"
    )


def test_server_in_trouble_is_asked_again(server, tmp_path):
    server.errors, waited = [503, 429, 500], []
    get(wanted(server), tmp_path / "a.bin", waited=waited)
    assert waited == [2, 4, 8]


def test_server_that_is_not_there_is_told(tmp_path):
    wish = Wanted("a.bin", ["http://127.0.0.1:9/a.bin"])
    with pytest.raises(RunError, match=r"http://127\.0\.0\.1:9/a\.bin: no connection"):
        get(wish, tmp_path / "a.bin")


def test_address_that_is_none_is_told(tmp_path):
    with pytest.raises(RunError, match=r"ftp://x/a\.bin: No connection adapters"):
        get(Wanted("a.bin", ["ftp://x/a.bin"]), tmp_path / "a.bin")


def test_disk_without_room_is_told_before_the_download(server, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=r"expected 68 MB free to download a\.bin, got 1 kB"):
        get(wanted(server), tmp_path / "a.bin")


def test_disk_that_fills_up_keeps_the_part(server, tmp_path, monkeypatch, small_blocks):
    def full(what, done, total):
        if done > 300_000 and what.startswith("downloading"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match=r"a\.bin does not fit: the disk is full"):
        get(wanted(server), tmp_path / "a.bin", full)
    get(wanted(server), tmp_path / "a.bin")
    assert server.asked[-1][1].startswith("bytes=30")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_file_at_hand_is_checked(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    digest = hashlib.sha256(b"abc").hexdigest()
    assert checked(path, Wanted("a.bin", [], 3, digest), lambda *_: None) == digest
    with pytest.raises(RunError, match=r"a\.bin: expected 4 bytes, got 3"):
        checked(path, Wanted("a.bin", [], 4, digest), lambda *_: None)
    with pytest.raises(RunError, match=rf"expected SHA-256 0, got {digest}"):
        checked(path, Wanted("a.bin", [], 3, "0"), lambda *_: None)


# Archives


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as content:
        content.writestr("photos/", "")
        content.writestr("photos/1.jpg", b"one" * 100)
        content.writestr("photos/2.jpg", b"two" * 200)
        content.writestr("deep/notes.json", b"{}")
        content.writestr("other/3.jpg", b"three")
        content.writestr("__MACOSX/photos/1.jpg", b"fork")
    return path


PLACES = {"photos/": "train", "notes.json": "annotations/notes.json"}


def extract(archive, root, replace=False, places=PLACES):
    root.mkdir(exist_ok=True)
    return unpack(archive, places, root, replace, lambda *_: None)


def tree(root) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_only_what_is_asked_for_is_unpacked(archive, tmp_path):
    root = tmp_path / "root"
    files = extract(archive, root)
    assert files == {"train/1.jpg": 300, "train/2.jpg": 600, "annotations/notes.json": 2}
    assert tree(root) == {
        "train/1.jpg": b"one" * 100,
        "train/2.jpg": b"two" * 200,
        "annotations/notes.json": b"{}",
    }


def test_unpacking_goes_on_after_an_interruption(archive, tmp_path):
    root = tmp_path / "root"
    root.mkdir()

    def stop(_what, done, _total):
        if done > 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        unpack(archive, PLACES, root, False, stop)
    assert list(tree(root)) == ["train/1.jpg"]  # the second is not there, not even a part of it
    before = (root / "train/1.jpg").stat().st_mtime_ns
    assert len(extract(archive, root)) == 3
    assert (root / "train/1.jpg").stat().st_mtime_ns == before


def test_file_with_other_content_is_not_overwritten_unless_it_may_be(archive, tmp_path):
    root = tmp_path / "root"
    (root / "train").mkdir(parents=True)
    (root / "train/1.jpg").write_bytes(b"xne" * 100)
    with pytest.raises(RunError, match=r"1\.jpg: is not what set\.zip holds"):
        extract(archive, root)
    assert (root / "train/1.jpg").read_bytes() == b"xne" * 100
    extract(archive, root, replace=True)
    assert (root / "train/1.jpg").read_bytes() == b"one" * 100


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "photos/../../evil.jpg", "/evil.jpg", "photos\\..\\evil.jpg"]
)
def test_names_that_lead_out_are_refused_before_anything_is_written(archive, tmp_path, name):
    with zipfile.ZipFile(archive, "a") as content:
        content.writestr(zipfile.ZipInfo(name), b"evil")
    with pytest.raises(RunError, match="expected names that stay inside the folder"):
        extract(archive, tmp_path / "root")
    assert tree(tmp_path / "root") == {}


def test_links_are_refused(archive, tmp_path):
    link = zipfile.ZipInfo("photos/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "a") as content:
        content.writestr(link, "/etc/passwd")
    with pytest.raises(RunError, match=r"photos/link\.jpg: expected a plain file"):
        extract(archive, tmp_path / "root")


def test_archive_without_what_is_asked_for_is_told(archive, tmp_path):
    with pytest.raises(RunError, match=r"expected val2017/ in the archive, found none"):
        extract(archive, tmp_path / "root", places={"val2017/": "val2017"})
    with pytest.raises(RunError, match=r"expected x\.json in the archive, found none"):
        extract(archive, tmp_path / "root", places={"x.json": "x.json"})


def test_half_an_archive_is_told(archive, tmp_path):
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(
        RunError, match=r"set\.zip: expected a whole zip archive: File is not a zip"
    ):
        extract(archive, tmp_path / "root")


def test_damaged_member_is_told_and_not_kept(archive, tmp_path):
    with zipfile.ZipFile(archive, "w") as content:
        content.writestr("photos/1.jpg", b"one" * 100)
    archive.write_bytes(archive.read_bytes().replace(b"oneone", b"oneoxe", 1))
    with pytest.raises(RunError, match=r"set\.zip: expected a whole zip archive: Bad CRC-32"):
        extract(archive, tmp_path / "root", places={"photos/": "train"})
    assert tree(tmp_path / "root") == {}


def test_disk_without_room_is_told_before_unpacking(archive, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 67_109_000})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RunError, match=r"free to unpack set\.zip, got 67 MB"):
        extract(archive, tmp_path / "root")
    assert tree(tmp_path / "root") == {}
