"""Who may build a key where there is only a bucket to agree by."""

import threading
import time

import pytest

from bacl.errors import RunError
from bacl_platform.store import lease
from bacl_platform.store.bucket import Bucket
from bacl_platform.store.lease import Lease, is_held

KEY = "0123456789abcdef"


def test_second_builder_is_told_who_holds_the_lease_and_gets_it_after(url):
    bucket = Bucket(url)
    with Lease(bucket, KEY, "process 1 on here", "here", 1):
        assert is_held(bucket, KEY)
        with (
            pytest.raises(RunError, match=f"job {KEY} is being built by process 1 on here"),
            Lease(bucket, KEY, "process 2 on there", "there", 0.2),
        ):
            pass
    assert not is_held(bucket, KEY)
    with Lease(bucket, KEY, "process 2 on there", "there", 0.2) as second:
        second.check()


def test_of_many_builders_one_gets_the_lease(url):
    bucket, got, refused = Bucket(url), [], []
    over = threading.Event()

    def build(number):
        try:
            with Lease(bucket, KEY, f"process {number}", f"place {number}", 0):
                got.append(number)
                over.wait(30)
        except RunError:
            refused.append(number)
            over.set() if len(refused) == 3 else None

    threads = [threading.Thread(target=build, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 3


def test_lease_of_a_dead_process_of_the_same_machine_is_taken_over_at_once(url):
    bucket = Bucket(url)
    bucket.write(lease.name_of(KEY), '{"holder": "a dead one", "place": "here", "token": "x"}')
    with Lease(bucket, KEY, "process 2 on here", "here", 0):
        pass


@pytest.mark.slow
def test_lease_that_is_not_renewed_is_taken_over_and_its_holder_learns_of_it(url, monkeypatch):
    monkeypatch.setattr(lease, "VOID_AFTER", 0.5)
    monkeypatch.setattr(lease, "RENEW_AFTER", 3.0)
    bucket = Bucket(url)
    with Lease(bucket, KEY, "process 1 on here", "here", 0) as first:
        with Lease(bucket, KEY, "process 2 on there", "there", 10) as second:
            deadline = time.monotonic() + 10
            while not first.lost and time.monotonic() < deadline:
                time.sleep(0.1)
            with pytest.raises(RunError, match="another process has taken over job"):
                first.check()
            second.check()
        assert bucket.read(lease.name_of(KEY)) is None  # the second one's, and its to remove


@pytest.mark.slow
def test_lease_that_is_renewed_stays_its_holder_s(url, monkeypatch):
    monkeypatch.setattr(lease, "VOID_AFTER", 2.5)
    monkeypatch.setattr(lease, "RENEW_AFTER", 0.3)
    bucket = Bucket(url)
    with (
        Lease(bucket, KEY, "process 1 on here", "here", 0) as first,
        pytest.raises(RunError, match="is being built by process 1"),
        Lease(bucket, KEY, "process 2 on there", "there", 4),
    ):
        pass
    assert not first.lost
