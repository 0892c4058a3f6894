"""The annotations of a split in columns on disk, mapped into memory: all processes share one copy.

The file is Arrow IPC; a row is an image, whose `annotations` list what is in it. Opening it reads
only the offsets of its parts; the operating system loads the pages with an image's annotations on
first access.

I images, N annotations of an image.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from bacl.errors import RunError

AT_ONCE = 1024
"""Images in a part (record batch) of the file: few enough to write with little memory."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),  # the file's id as JSON: a number of any size, or text
        pa.field("file", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field(
            "annotations",
            pa.list_(
                pa.struct(
                    [
                        pa.field("id", pa.string()),
                        pa.field("label", pa.int32()),
                        pa.field("box", pa.list_(pa.float64(), 4)),  # x, y, width, height
                        pa.field("crowd", pa.uint8()),
                        # A mask is either polygons or COCO's RLE; the other column is empty.
                        pa.field("polygons", pa.list_(pa.list_(pa.float64()))),
                        pa.field("rle", pa.binary()),
                    ]
                )
            ),
        ),
    ]
)
_ANNOTATION = SCHEMA.field("annotations").type.value_type

Row = tuple[dict[str, Any], str, list[dict[str, Any]]]
"""An image, its file, and its annotations, as in `bacl.datasets.content.Content`; segmentations are
masks as in `bacl.datasets.segmentations`."""


@dataclass(frozen=True)
class Entry:
    """An image, with its id in the annotation file, and its N annotations: labels (N,), boxes
    (N, 4) as x, y, width, height in pixels, crowd (N,). The arrays are read-only views of the file.
    """

    id: int | str
    file: str
    width: int
    height: int
    labels: NDArray[Any]
    boxes: NDArray[Any]
    crowd: NDArray[Any]


class Index:
    """The index at `path`, opened by each process when it first needs it.

    Raises:
        RunError: the file is missing or is not an index (when it is opened).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._owner: int | None = None
        self._reader: Any = None
        self._parts: dict[int, _Part] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_owner": None, "_reader": None, "_parts": {}}

    def __len__(self) -> int:
        reader = self._open()
        if not reader.num_record_batches:
            return 0
        last = reader.num_record_batches - 1
        return AT_ONCE * last + len(self._part(last))

    def image(self, place: int) -> Entry:
        """The image at position `place`, 0 to I - 1, in the order of the annotation file."""
        return self._part(place // AT_ONCE).entry(place % AT_ONCE)

    def ids(self) -> list[int | str]:
        """The id of each image in the annotation file, by position."""
        return [json.loads(text) for _, part in self._all() for text in part.id.to_pylist()]

    def masks(self, place: int) -> list[list[NDArray[Any]] | dict[str, Any] | None]:
        """The mask of each annotation of an image: polygons (2 x points,), COCO's RLE, or None."""
        return self._part(place // AT_ONCE).masks(place % AT_ONCE)

    def presence(self, places: NDArray[Any] | None = None) -> tuple[NDArray[Any], NDArray[Any]]:
        """Pairs of an image and a category in it, each pair once, without crowds, as images and
        labels.

        Both arrays have one element for each pair, sorted by image, then label. places: of some
        images, rising, which are then numbered by where they are among these.
        """
        pairs = [
            np.unique(part.shown() + np.array([[number * AT_ONCE], [0]]), axis=1)
            for number, part in self._all()
        ]
        images, labels = np.concatenate([np.zeros((2, 0), dtype=np.int64), *pairs], axis=1)
        if places is None:
            return images, labels
        own = np.isin(images, places)
        return np.searchsorted(places, images[own]), labels[own]

    def trained(self, least_side: int, empty: bool) -> NDArray[Any]:
        """Positions of the images that training shows, in rising order.

        least_side: pixels that the shorter side of an image must have. empty: whether images
        without annotations are among them; crowds and boxes of any size are annotations.
        """
        kept = [
            (np.minimum(part.width, part.height) >= least_side) & (empty | (part.totals() > 0))
            for _, part in self._all()
        ]
        return np.flatnonzero(np.concatenate([np.zeros(0, dtype=bool), *kept]))

    def wide(self) -> NDArray[Any]:
        """Whether each image is wider than high, (I,)."""
        found = [part.width > part.height for _, part in self._all()]
        return np.concatenate([np.zeros(0, dtype=bool), *found])

    def shapes(self) -> NDArray[Any]:
        """Width and height in pixels and number of annotations of each image, (I, 3)."""
        found = [np.stack([p.width, p.height, p.totals()], axis=1) for _, p in self._all()]
        return np.concatenate([np.zeros((0, 3), dtype=np.int64), *found])

    def rows(self, places: Sequence[int]) -> pa.Table:
        """Some images with their annotations, in the columns of `SCHEMA`."""
        table: pa.Table = self._open().read_all().take(list(places))
        return table.combine_chunks()

    def files(self) -> list[str]:
        """The file of each image, by position, relative to the folder of the split's images."""
        return [file for _, part in self._all() for file in part.file.to_pylist()]

    def without_mask(self) -> int | str | None:
        """The id of the first annotation that has no mask; None where all have one."""
        for _, part in self._all():
            for number in part.without_mask():
                annotation: int | str = json.loads(number)
                return annotation
        return None

    def _all(self) -> Iterator[tuple[int, "_Part"]]:
        for number in range(self._open().num_record_batches):
            yield number, self._part(number)

    def _part(self, number: int) -> "_Part":
        reader = self._open()
        if number not in self._parts:
            self._parts[number] = _Part(reader.get_batch(number))
        return self._parts[number]

    def _open(self) -> Any:
        # A forked process must not use its parent's open file.
        if self._owner != os.getpid():
            try:
                self._reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
            except (OSError, pa.ArrowInvalid) as error:
                raise RunError(
                    f"{self.path}: expected an index that `bacl` has prepared, got: {error}"
                ) from error
            if self._reader.schema != SCHEMA:
                raise RunError(
                    f"{self.path}: expected an index that this version of `bacl` has prepared, "
                    "got other columns"
                )
            self._parts = {}
            self._owner = os.getpid()
        return self._reader


class _Part:
    """A part of an index, as arrays over the mapped file. A *start* is the offset where a list
    begins."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.width, self.height = (batch.column(name).to_numpy() for name in ("width", "height"))
        self.id, self.file = batch.column("id"), batch.column("file")
        lists = batch.column("annotations")
        self.starts = lists.offsets.to_numpy()
        field = lists.values.field
        self.ids, self.labels = field("id"), field("label").to_numpy()
        self.boxes = field("box").values.to_numpy().reshape(-1, 4)
        self.crowd = field("crowd").to_numpy()
        self.rle = field("rle")
        self.polygon_starts = field("polygons").offsets.to_numpy()
        polygons = field("polygons").values
        self.number_starts = polygons.offsets.to_numpy()
        self.numbers = polygons.values.to_numpy()

    def __len__(self) -> int:
        return len(self.width)

    def entry(self, row: int) -> Entry:
        own = slice(self.starts[row], self.starts[row + 1])
        return Entry(
            json.loads(self.id[row].as_py()),
            self.file[row].as_py(),
            int(self.width[row]),
            int(self.height[row]),
            self.labels[own],
            self.boxes[own],
            self.crowd[own].astype(bool),
        )

    def masks(self, row: int) -> list[list[NDArray[Any]] | dict[str, Any] | None]:
        found: list[list[NDArray[Any]] | dict[str, Any] | None] = []
        for place in range(self.starts[row], self.starts[row + 1]):
            starts = self.number_starts[
                self.polygon_starts[place] : self.polygon_starts[place + 1] + 1
            ]
            if len(starts) > 1:
                found.append([self.numbers[a:b] for a, b in pairwise(starts)])
            elif counts := self.rle[place].as_py():
                size = [int(self.height[row]), int(self.width[row])]
                found.append({"size": size, "counts": counts.decode()})
            else:
                found.append(None)
        return found

    def totals(self) -> NDArray[Any]:
        """Number of annotations of each image."""
        return np.diff(self.starts)

    def shown(self) -> NDArray[Any]:
        """Row and label of every annotation that is not a crowd, (2, number of such
        annotations)."""
        rows = np.repeat(np.arange(len(self)), self.totals())
        return np.stack([rows, self.labels])[:, self.crowd == 0]

    def without_mask(self) -> list[str]:
        """Ids, as JSON, of annotations without a mask."""
        runs = pc.binary_length(self.rle).to_numpy()
        without = (np.diff(self.polygon_starts) == 0) & (runs == 0)
        ids: list[str] = self.ids.filter(pa.array(without)).to_pylist()
        return ids


def write(path: Path, rows: Iterable[Row]) -> str:
    """Write the index of a split, part by part, so that memory stays flat.

    Args:
        path: the file to write.
        rows: the images to write, in order.

    Returns:
        A digest of the contents, which does not depend on Arrow and its version.
    """
    digest = hashlib.sha256()
    rows = iter(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        while part := list(islice(rows, AT_ONCE)):
            writer.write_batch(_batch(part, digest))
    return digest.hexdigest()


def write_some(path: Path, index: Index, places: Sequence[int]) -> None:
    """Write an index of some images of another, those at `places`, in that order."""
    rows = index.rows(places)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for batch in rows.to_batches(max_chunksize=AT_ONCE):
            writer.write_batch(batch)


def _batch(rows: Sequence[Row], digest: Any) -> pa.RecordBatch:
    annotations = [annotation for _, _, own in rows for annotation in own]
    masks = [annotation.get("segmentation") for annotation in annotations]
    of_polygons = [[] if isinstance(mask, bytes) else (mask or []) for mask in masks]
    polygons = [polygon for own in of_polygons for polygon in own]

    def numbers(kind: str, values: Sequence[Any]) -> pa.Array:
        array = np.asarray(values, dtype=kind)
        digest.update(len(array).to_bytes(8, "little") + array.tobytes())
        return pa.array(array.reshape(-1))

    def starts(lists: Sequence[Sized]) -> pa.Array:
        lengths = numbers("<i4", [len(own) for own in lists]).to_numpy()
        return pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())

    def texts(values: Sequence[bytes], kind: pa.DataType) -> pa.Array:
        starts(values)
        digest.update(b"".join(values))
        return pa.array(values, pa.binary()).cast(kind)

    def ids(items: Iterable[dict[str, Any]]) -> pa.Array:
        return texts([json.dumps(item["id"]).encode() for item in items], pa.string())

    fields = [
        ids(annotations),
        numbers("<i4", [annotation["label"] for annotation in annotations]),
        pa.FixedSizeListArray.from_arrays(
            numbers("<f8", [annotation["bbox"] for annotation in annotations]), 4
        ),
        numbers("u1", [annotation.get("iscrowd", 0) for annotation in annotations]),
        pa.ListArray.from_arrays(
            starts(of_polygons),
            pa.ListArray.from_arrays(
                starts(polygons), numbers("<f8", np.concatenate([np.zeros(0), *polygons]))
            ),
        ),
        texts([mask if isinstance(mask, bytes) else b"" for mask in masks], pa.binary()),
    ]
    columns = [
        ids(image for image, _, _ in rows),
        texts([file.encode() for _, file, _ in rows], pa.string()),
        numbers("<i4", [image["width"] for image, _, _ in rows]),
        numbers("<i4", [image["height"] for image, _, _ in rows]),
        pa.ListArray.from_arrays(
            starts([own for _, _, own in rows]),
            pa.StructArray.from_arrays(fields, fields=list(_ANNOTATION)),
        ),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
