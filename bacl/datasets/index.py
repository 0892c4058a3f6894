"""The annotations of a split in columns on disk, mapped into memory: all processes share one copy.

The file is Arrow IPC; a row is an image, whose `annotations` list what is in it. Opening it reads
where its parts lie; an image's annotations come from the file's pages when they are asked for.

I images, N annotations of an image.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pycocotools import mask as coco

from bacl.errors import RunError, UsageError

AT_ONCE = 1024
"""Images of a part of the file: few enough to write with little memory."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64()),
        pa.field("file", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field(
            "annotations",
            pa.list_(
                pa.struct(
                    [
                        pa.field("id", pa.int64()),
                        pa.field("label", pa.int32()),
                        pa.field("box", pa.list_(pa.float64(), 4)),  # x, y, width, height
                        pa.field("crowd", pa.uint8()),
                        # A mask is the one or the other, the other is empty; RLE is COCO's.
                        pa.field("polygons", pa.list_(pa.list_(pa.float64()))),
                        pa.field("rle", pa.binary()),
                    ]
                )
            ),
        ),
    ]
)
_ANNOTATION = SCHEMA.field("annotations").type.value_type

Row = tuple[dict, str, list[dict]]
"""An image, its file, and its annotations, as LVIS and COCO have them."""


@dataclass(frozen=True)
class Entry:
    """An image and its N annotations: ids (N,), labels (N,), boxes (N, 4) as x, y, width, height in
    pixels, crowd (N,). What the arrays show is the file; it cannot be written to.
    """

    id: int
    file: str
    width: int
    height: int
    ids: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


class Index:
    """The index at `path`, opened by each process when it first needs it.

    Raises:
        RunError: the file is missing or is no index (when it is opened).
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
        """The image at `place`, 0 to I - 1, in the order of the annotation file."""
        return self._part(place // AT_ONCE).entry(place % AT_ONCE)

    def masks(self, place: int) -> list[list[np.ndarray] | dict[str, Any] | None]:
        """The mask of each annotation of an image: polygons (2 x points,), COCO's RLE, or None."""
        return self._part(place // AT_ONCE).masks(place % AT_ONCE)

    def presence(self) -> tuple[np.ndarray, np.ndarray]:
        """Each category in each image that shows it, once, crowds aside: images and labels.

        Both have the length of the pairs there are, sorted by image, then label.
        """
        pairs = [
            np.unique(part.shown() + np.array([[number * AT_ONCE], [0]]), axis=1)
            for number, part in self._all()
        ]
        images, labels = np.concatenate([np.zeros((2, 0), dtype=np.int64), *pairs], axis=1)
        return images, labels

    def trained(self, least_side: int, empty: bool) -> np.ndarray:
        """Places of the images that training shows, rising.

        least_side: pixels that the shorter side of an image must have. empty: whether images
        without annotations are among them; crowds and boxes of any size are annotations.
        """
        kept = [
            (np.minimum(part.width, part.height) >= least_side) & (empty | (part.totals() > 0))
            for _, part in self._all()
        ]
        return np.flatnonzero(np.concatenate([np.zeros(0, dtype=bool), *kept]))

    def wide(self) -> np.ndarray:
        """Whether each image is wider than high, (I,)."""
        found = [part.width > part.height for _, part in self._all()]
        return np.concatenate([np.zeros(0, dtype=bool), *found])

    def without_mask(self) -> int | None:
        """The id of the first annotation that has no mask; None where all have one."""
        for _, part in self._all():
            for annotation in part.without_mask():
                return int(annotation)
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
        # A process that was forked must not go on with what its parent opened.
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
    """Some images of an index, as arrays over the mapped file. A *start* is where a list begins."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.id, self.width, self.height = (
            batch.column(name).to_numpy() for name in ("id", "width", "height")
        )
        self.file = batch.column("file")
        lists = batch.column("annotations")
        self.starts = lists.offsets.to_numpy()
        field = lists.values.field
        self.ids, self.labels = field("id").to_numpy(), field("label").to_numpy()
        self.boxes = field("box").values.to_numpy().reshape(-1, 4)
        self.crowd = field("crowd").to_numpy()
        self.rle = field("rle")
        self.polygon_starts = field("polygons").offsets.to_numpy()
        polygons = field("polygons").values
        self.number_starts = polygons.offsets.to_numpy()
        self.numbers = polygons.values.to_numpy()

    def __len__(self) -> int:
        return len(self.id)

    def entry(self, row: int) -> Entry:
        own = slice(self.starts[row], self.starts[row + 1])
        return Entry(
            int(self.id[row]),
            self.file[row].as_py(),
            int(self.width[row]),
            int(self.height[row]),
            self.ids[own],
            self.labels[own],
            self.boxes[own],
            self.crowd[own].astype(bool),
        )

    def masks(self, row: int) -> list[list[np.ndarray] | dict[str, Any] | None]:
        found: list[list[np.ndarray] | dict[str, Any] | None] = []
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

    def totals(self) -> np.ndarray:
        """How many annotations each image has."""
        return np.diff(self.starts)

    def shown(self) -> np.ndarray:
        """(row, label) of every annotation that is no crowd, (2, such annotations)."""
        rows = np.repeat(np.arange(len(self)), self.totals())
        return np.stack([rows, self.labels])[:, self.crowd == 0]

    def without_mask(self) -> np.ndarray:
        """Ids of annotations that have none."""
        runs = pc.binary_length(self.rle).to_numpy()
        return self.ids[(np.diff(self.polygon_starts) == 0) & (runs == 0)]


def write(path: Path, rows: Iterable[Row], labels: Mapping[int, int], source: Path) -> str:
    """Write the index of a split, part by part, so that memory stays flat.

    Args:
        path: the file to write.
        rows: what to write, in order.
        labels: of category ids.
        source: what to call the annotations in errors.

    Returns:
        A digest of the contents, which does not depend on Arrow and its version.

    Raises:
        UsageError: segmentations that are neither polygons nor RLE of their image's size.
    """
    digest = hashlib.sha256()
    wrong: list[int] = []
    rows = iter(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        while part := list(islice(rows, AT_ONCE)):
            writer.write_batch(_batch(part, labels, wrong, digest))
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise UsageError(
            f"{source}: annotations: expected polygons or COCO's RLE of the image's size as "
            f"segmentation (or nothing), something else in {len(wrong)}: "
            f"ids {', '.join(map(str, wrong[:5]))}{more}"
        )
    return digest.hexdigest()


def _batch(
    rows: Sequence[Row], labels: Mapping[int, int], wrong: list[int], digest: Any
) -> pa.RecordBatch:
    annotations = [annotation for _, _, own in rows for annotation in own]
    masks = []
    for image, _, own in rows:
        for annotation in own:
            mask = _mask(annotation.get("segmentation"), image["width"], image["height"])
            if mask is None:
                wrong.append(annotation["id"])
            masks.append(mask or _Mask())
    polygons = [polygon for mask in masks for polygon in mask.polygons]

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

    fields = [
        numbers("<i8", [annotation["id"] for annotation in annotations]),
        numbers("<i4", [labels[annotation["category_id"]] for annotation in annotations]),
        pa.FixedSizeListArray.from_arrays(
            numbers("<f8", [annotation["bbox"] for annotation in annotations]), 4
        ),
        numbers("u1", [bool(annotation.get("iscrowd")) for annotation in annotations]),
        pa.ListArray.from_arrays(
            starts([mask.polygons for mask in masks]),
            pa.ListArray.from_arrays(
                starts(polygons), numbers("<f8", np.concatenate([np.zeros(0), *polygons]))
            ),
        ),
        texts([mask.rle for mask in masks], pa.binary()),
    ]
    columns = [
        numbers("<i8", [image["id"] for image, _, _ in rows]),
        texts([file.encode() for _, file, _ in rows], pa.string()),
        numbers("<i4", [image["width"] for image, _, _ in rows]),
        numbers("<i4", [image["height"] for image, _, _ in rows]),
        pa.ListArray.from_arrays(
            starts([own for _, _, own in rows]),
            pa.StructArray.from_arrays(fields, fields=list(_ANNOTATION)),
        ),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def as_polygon(given: Any) -> np.ndarray | None:
    """A list of numbers as an array of doubles; None where it is something else."""
    try:
        numbers = np.asarray(given)
    except ValueError:  # lists of several lengths
        return None
    return (
        numbers.astype(np.float64, copy=False)
        if numbers.ndim == 1 and numbers.dtype.kind in "iuf"
        else None
    )


class _Mask(NamedTuple):
    """Polygons or the counts of COCO's RLE; neither where there is no mask."""

    polygons: list[np.ndarray] = []
    rle: bytes = b""


def _mask(given: Any, width: int, height: int) -> _Mask | None:
    """An annotation's `segmentation`; None where it is something else than it should be."""
    if not given:
        return _Mask()
    try:
        if isinstance(given, list):
            polygons = [p for p in map(as_polygon, given) if p is not None and np.isfinite(p).all()]
            return _Mask(polygons) if len(polygons) == len(given) else None
        counts, (rows, columns) = given["counts"], given["size"]
        if (rows, columns) != (height, width):
            return None
        if isinstance(counts, list):
            counts = coco.frPyObjects({"counts": counts, "size": [rows, columns]}, rows, columns)
            return _Mask(rle=counts["counts"])
        return _Mask(rle=counts.encode("ascii")) if counts else None
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        return None
