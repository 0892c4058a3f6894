"""Downloads from a local server that behaves as badly as servers do."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator

import pytest
from web import Server, serving

from bacl import download
from bacl.download import Wanted, checked, fetch
from bacl.errors import RunError

CONTENT = bytes(range(256)) * 3000  # 768,000 bytes


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        state.files["/a.bin"] = CONTENT
        state.tags["/a.bin"] = '"one"'
        yield state


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
