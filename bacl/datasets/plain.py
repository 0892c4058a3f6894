"""Any dataset as plain annotation files and folders of images, wherever these come from."""

import hashlib
import shutil
from pathlib import Path

from bacl import settings
from bacl.datasets.cache import part_in, put_in_place
from bacl.datasets.formats import EMBEDDED
from bacl.datasets.sources import located


def plain(dataset: settings.Dataset, cache: Path) -> settings.Dataset:
    """A dataset that names its files: a named one's under its root, the embedded one's in the
    cache, where it is made unless it is there already.

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
    from bacl.datasets import embedded  # reading other formats needs nothing of it

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
