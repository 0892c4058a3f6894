"""A small dataset on disk that a test may spoil, and what became of it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from bacl import settings
from bacl.datasets.index import Index
from bacl.datasets.prepare import prepare
from bacl.datasets.prepared import Prepared
from bacl.errors import UsageError


def split(ids, boxes=None, federated=True):
    """A split of images of 40 x 30, one box of category 3 in each unless `boxes` says otherwise."""
    lists = {"neg_category_ids": [9], "not_exhaustive_category_ids": []} if federated else {}
    boxes = boxes if boxes is not None else [(i, 3, [5, 5, 10, 10]) for i in ids]
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30, **lists} for i in ids
        ],
        "annotations": [
            {"id": n, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3] / 2}
            for n, (i, c, box) in enumerate(boxes, start=1)
        ],
        "categories": [{"id": 3, "name": "mug"}, {"id": 9, "name": "cup"}],
    }


class Folder:
    """A dataset on disk that a test may spoil before it prepares it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.train, self.val = split([1, 2, 3]), split([4, 5])
        self.images = path / "images"
        self.images.mkdir(parents=True)
        for i in range(1, 6):
            self.photograph(f"{i}.jpg", i)

    def photograph(self, name: str, shade: int = 0, size: tuple[int, int] = (40, 30)) -> None:
        Image.new("RGB", size, (shade, shade, shade)).save(self.images / name, "BMP")

    def prepare(self, cache="cache", **changes) -> Prepared:
        for name in ("train", "val"):
            text = json.dumps(getattr(self, name))
            path = self.path / f"{name}.json"
            if not path.exists() or path.read_text() != text:
                path.write_text(text)
        return self.prepare_as_it_is(cache, **changes)

    def prepare_as_it_is(self, cache="cache", **changes) -> Prepared:
        fields = {
            "format": "lvis",
            "train": str(self.path / "train.json"),
            "val": str(self.path / "val.json"),
            "images": str(self.images),
        }
        return prepare(settings.Dataset(**(fields | changes)), self.path / cache)

    def problems(self, **changes) -> list[str]:
        return self.told(self.prepare, changes)

    def problems_as_it_is(self, **changes) -> list[str]:
        return self.told(self.prepare_as_it_is, changes)

    def told(self, prepare, changes) -> list[str]:
        with pytest.raises(UsageError) as told:
            prepare(**changes)
        return str(told.value).replace(f"{self.path}/", "").splitlines()


def content(split):
    return json.loads(Path(split.annotations).read_text(encoding="utf-8"))


def entries(split):
    """What the split's index has, image by image."""
    index = Index(split.index)
    return [index.image(place) for place in range(len(index))]
