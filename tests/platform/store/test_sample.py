"""Samples of images, between a machine that plans and one that trains."""

import json
import shutil
import socket
from pathlib import Path

import pytest

from bacl.datasets.prepare import prepare
from bacl.datasets.prepared import Prepared
from bacl.errors import RunError
from bacl.settings import Dataset
from bacl_platform.store import sample
from bacl_platform.store.store import Store


@pytest.fixture
def photos(prepared: Prepared, tmp_path: Path) -> Path:
    """A user's folder with the embedded set's images."""
    return Path(shutil.copytree(prepared.train.images, tmp_path / "photos"))


@pytest.fixture
def noted(prepared: Prepared, photos: Path, tmp_path: Path) -> tuple[Store, str]:
    """A store with the sample of a dataset whose images are in `photos`, and its digest."""
    store = Store(tmp_path / "own")
    store.datasets.mkdir(parents=True)
    of = Path(prepared.train.images).parent
    dataset = Dataset(
        format="lvis", train=str(of / "train.json"), val=str(of / "val.json"), images=str(photos)
    )
    digest = prepare(dataset, store.datasets).digest
    sample.note(store, digest)
    return store, digest


def reading(train: Path | None, val: Path | None = None) -> dict:
    """The configuration of a job that reads images of these folders."""
    folders = {"train": train, "val": val}
    return {
        f"{split}_dataloader": {"dataset": {"images": str(folder)} if folder else {}}
        for split, folder in folders.items()
    }


def test_same_images_elsewhere_are_taken(noted, photos):
    store, digest = noted
    elsewhere = photos.rename(photos.with_name("moved"))
    sample.check(store, digest, reading(elsewhere, elsewhere))
    files = json.loads((store.datasets / f"{digest}.images.json").read_text())
    assert len(files["train"]) == 130 and len(files["val"]) == 20


@pytest.mark.parametrize(
    ("damage", "got"),
    [
        ("missing", r"got no file that can be read"),
        ("longer", r"got \d+ bytes"),
        ("other", r"got other content of \d+ bytes"),
    ],
)
def test_image_that_differs_is_named(noted, photos, damage, got):
    store, digest = noted
    files = json.loads((store.datasets / f"{digest}.images.json").read_text())["val"]
    path = photos / list(files)[7]
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content + b" " if damage == "longer" else content[:-1] + b" ")
    sentence = (
        f"{path}: expected {len(content)} bytes, as the file is on {socket.gethostname()}, where "
        f"the job was planned, {got}: let all nodes see the same images"
    )
    with pytest.raises(RunError, match=sentence):
        sample.check(store, digest, reading(None, photos))
    sample.check(store, digest, reading(None))  # a replay, which reads none


def test_image_that_was_mended_is_noted_anew_and_one_that_was_missing_not_at_all(noted, photos):
    store, digest = noted
    mended, missing = list(
        json.loads((store.datasets / f"{digest}.images.json").read_text())["val"]
    )[:2]
    content = (photos / missing).read_bytes()
    (photos / mended).write_bytes(b"another")
    (photos / missing).unlink()
    sample.note(store, digest)
    (photos / missing).write_bytes(content)
    sample.check(store, digest, reading(photos, photos))


def test_sample_of_a_large_split_is_the_same_everywhere(noted, photos, monkeypatch):
    store, digest = noted
    drawn = []
    monkeypatch.setattr(sample, "FILES", 10)
    for _ in range(2):
        sample.note(store, digest)
        drawn.append(store.note(f".datasets/{digest}.images.json"))
    assert drawn[0] == drawn[1]
    assert len(json.loads(drawn[0])["train"]) == 10


def test_images_that_go_through_the_store_need_no_sample(tmp_path):
    store = Store(tmp_path / "store")
    store.datasets.mkdir(parents=True)
    digest = prepare(Dataset(format="embedded", size="small"), store.datasets).digest
    sample.note(store, digest)
    assert store.note(f".datasets/{digest}.images.json") is None
