"""Digests equal those of hashlib over the whole content, whatever its size."""

import hashlib

import pytest

from bacl.digests import BLOCK, sha256, sha256_of


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK + 3])
def test_file_has_the_digest_of_its_whole_content(tmp_path, size):
    path, content = tmp_path / "file", bytes(i % 251 for i in range(size))
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_blocks_have_the_digest_of_what_they_make_together():
    assert sha256_of([b"a", b"", b"bc"]) == hashlib.sha256(b"abc").hexdigest()
