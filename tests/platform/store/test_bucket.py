"""The objects of a bucket: what is told when it cannot be used, who wins a conditional write."""

import pickle

import pytest

from bacl.errors import RunError, UsageError
from bacl_platform.store.bucket import Bucket


def test_objects_are_written_listed_read_and_removed_below_the_prefix(url, tmp_path):
    bucket, above = Bucket(url), Bucket(url.rsplit("/", 2)[0])
    bucket.write("a/b/c.json", "{}")
    (tmp_path / "file").write_bytes(b"weights")
    bucket.upload(tmp_path / "file", "a/d")
    assert bucket.sizes("a/") == {"a/b/c.json": 2, "a/d": 7}
    assert bucket.folders("a/") == ["b"] and bucket.folders("") == ["a"]
    assert above.folders("") == ["stores"]
    bucket.download("a/d", tmp_path / "new" / "file")
    assert (tmp_path / "new" / "file").read_bytes() == b"weights"
    bucket.remove(["a/d", "a/nothing"])
    assert bucket.read("a/d") is None
    assert pickle.loads(pickle.dumps(bucket)).read_text("a/b/c.json") == "{}"


def test_conditional_write_is_refused_for_all_but_the_version_that_it_names(url):
    bucket = Bucket(url)
    first = bucket.write_if("lease", "one", None)
    assert first and bucket.write_if("lease", "two", None) is None
    second = bucket.write_if("lease", "three", first)
    assert second and bucket.write_if("lease", "four", first) is None
    assert bucket.write_if("gone", "five", first) is None
    assert bucket.read_text("lease") == "three"
    assert 0 <= bucket.read("lease").age < 60


@pytest.mark.parametrize("bad", ["s3://", "s3:///a", "s3://x", "s3://a b/c"])
def test_address_that_names_no_bucket_is_told(bad):
    with pytest.raises(UsageError, match="expected s3://BUCKET or s3://BUCKET/PREFIX"):
        Bucket(bad)


def test_missing_bucket_is_told_at_once(url):
    with pytest.raises(RunError, match="NoSuchBucket"):
        Bucket("s3://no-such-bucket/x").check()


def test_unreachable_bucket_is_told_soon(url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="expected a bucket that can be reached"):
        Bucket(url).check()
