"""Conversion of any dataset's settings into plain annotation files and folders of images."""

import hashlib
import shutil
from pathlib import Path

from bacl import settings
from bacl.datasets.cache import part_in, put_in_place
from bacl.datasets.formats import EMBEDDED
from bacl.datasets.sources import located


def plain(dataset: settings.Dataset, cache: Path) -> settings.Dataset:
    """Settings with explicit files: those under the root for a named data set, those in the cache
    for the embedded set, which is made there unless it exists.

    Raises:
        UsageError: the root does not hold the named data set, or not all of it.
    """
    if dataset.format != EMBEDDED:
        return located(dataset)
    folder = _embedded(dataset, cache)
    files = {"train": "train.json", "val": "val.json", "images": "images"}
    places = {name: str(folder / file) for name, file in files.items()}
    return dataset.model_copy(update={"format": "lvis", **places})


def _embedded(dataset: settings.Dataset, cache: Path) -> Path:
    """The folder of the embedded set, made where it is not there yet."""
    from bacl.datasets import embedded  # imported here because other formats do not need cv2

    assert embedded.__file__
    code = hashlib.sha256(Path(embedded.__file__).read_bytes()).hexdigest()[:12]
    folder = cache / f"embedded-{dataset.size}-{dataset.seed}-{code}"
    if not folder.exists():
        part = part_in(cache)
        try:
            embedded.generate(part, dataset)
            put_in_place(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder
