"""Prepared datasets on their way to machines that lack them."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from bacl.datasets.prepare import prepare
from bacl.datasets.prepared import Prepared
from bacl.errors import RunError
from bacl.settings import Dataset
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


def test_dataset_of_another_machine_names_the_files_of_this_one(url, tmp_path, monkeypatch):
    there = Store(url)
    found = prepare(Dataset(format="embedded", size="small"), there.datasets)
    prepared_datasets.push(there, found.digest)
    there.root.rename(tmp_path / "away")
    monkeypatch.setenv("BACL_CACHE", str(tmp_path / "another cache"))
    here = pickle.loads(pickle.dumps(there))  # as a Ray task gets it
    assert here.root.is_relative_to(tmp_path / "another cache")
    prepared_datasets.pull(here, found.digest)
    brought = Prepared.load(here.datasets / found.digest / "dataset.json")
    for name in ("train", "val"):
        one, other = getattr(found, name), getattr(brought, name)
        for field in ("index", "annotations", "images"):
            path = getattr(other, field)
            assert path == here.localised(getattr(one, field))
            assert path == "" or Path(path).exists()
    assert brought.train.images != found.train.images
    assert here.localised({"a": [found.val.index, 3], "b": ("/other", None)}) == {
        "a": [brought.val.index, 3],
        "b": ("/other", None),
    }
