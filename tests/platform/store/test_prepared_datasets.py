"""Prepared datasets on their way to machines that lack them."""

import json
import shutil
from pathlib import Path

import pytest

from bacl.errors import RunError
from bacl_platform.store import prepared_datasets
from bacl_platform.store.store import Store

DIGEST = "0123456789abcdef"


def prepared(store: Store, images: Path) -> None:
    folder = store.datasets / DIGEST
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps({"train": {"images": str(images)}}))
    (folder / "train.index").write_bytes(b"index")


def test_dataset_and_images_made_with_it_come_to_the_same_paths(url):
    store = Store(url)
    images = store.datasets / "embedded-small-0" / "images"
    prepared(store, images)
    images.mkdir(parents=True)
    (images / "1.png").write_bytes(b"picture")
    prepared_datasets.push(store, DIGEST)
    shutil.rmtree(store.root)
    prepared_datasets.pull(store, DIGEST)
    assert (store.datasets / DIGEST / "train.index").read_bytes() == b"index"
    assert (images / "1.png").read_bytes() == b"picture"
    assert list(store.datasets.glob(".*")) == [] == list(store.root.glob("tmp*"))


def test_images_of_a_user_stay_where_they_are(url, tmp_path):
    store = Store(url)
    prepared(store, tmp_path / "photos")
    prepared_datasets.push(store, DIGEST)
    assert list(store.bucket.sizes(".datasets/")) == [f".datasets/{DIGEST}.tar"]


def test_dataset_that_the_bucket_lacks_is_told(url):
    with pytest.raises(RunError, match=f"{DIGEST}.tar: expected a prepared dataset, found none"):
        prepared_datasets.pull(Store(url), DIGEST)
