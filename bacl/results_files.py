"""Reader of results files: COCO's and LVIS's JSON lists of detections, and our own parquet.

Large lists without masks are read as a table: without JSON's punctuation each detection is a row of
the same keys and numbers, which Arrow reads as fast as hotcoco reads the JSON. Other files are read
detection by detection, which says where one is wrong.

N detections.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pycocotools import mask as coco

from bacl.datasets.categories import Id
from bacl.datasets.content import some
from bacl.datasets.index import Index
from bacl.datasets.prepared import Prepared
from bacl.errors import UsageError
from bacl.evaluation import Detections

SUFFIXES = (".json", ".parquet")
_PIECE = 1 << 22
"""Bytes that are read at a time: few enough for the processor's cache."""
_KEPT = b"ebotxry"
"""Letters of keys that are kept. `image_id`, `bbox`, `category_id` and `score` then differ in
length, so that a key in another place is noticed; an exponent keeps its e."""
_DROPPED = bytes(
    set(b' \n\r\t{["]_abcdefghijklmnopqrstuvwxyzABCDFGHIJKLMNOPQRSTUVWXYZ') - set(_KEPT)
)
_TURNED = bytes.maketrans(b":}", b",\n")
_TABLE = 10_000_000
"""Largest id for which a table of places is made."""
_COLUMNS = ("image", "label", "score", "x", "y", "width", "height")


@dataclass(frozen=True)
class Split:
    """What the ids of a results file mean: those of a split's images, by position, and of its
    categories, by label. sha256: of the split's ground truth, where that is known."""

    images: Sequence[Id]
    categories: Sequence[Id]
    sha256: str | None = None

    @classmethod
    def of(cls, prepared: Prepared, sha256: str | None = None) -> "Split":
        """The validation split of a prepared dataset."""
        return cls(Index(prepared.val.index).ids(), [one.id for one in prepared.categories], sha256)

    @cached_property
    def numbered(self) -> bool:
        """Whether all ids are whole numbers that Arrow can hold."""
        ids = (*self.images, *self.categories)
        return all(isinstance(one, int) and -(2**63) <= one < 2**63 for one in ids)


def is_results(path: Path) -> bool:
    """Whether a path is named as a results file."""
    return path.suffix in SUFFIXES


def read_results(path: Path, split: Split) -> Detections:
    """The detections in a file, of a split's images and categories.

    Detections without a box get that of their mask. Raises UsageError with a sentence where the
    file is no list of detections, or has any of other images or categories.
    """
    try:
        if path.suffix == ".parquet":
            return _read_parquet(path, split)
        found = _read_flat(path, split) if split.numbered else None
        return _read_any(path, split) if found is None else found
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UsageError(f"{path}: expected a file that can be read: {error.strerror}") from None


# Lists without masks, as a table


def _read_flat(path: Path, split: Split) -> Detections | None:
    """The detections of a list whose items are all of the same numbers; None of another."""
    with path.open("rb") as file:
        beginning = file.read(4096)
        file.seek(max(path.stat().st_size - 64, 0))
        end = file.read().rstrip()[-1:]
    first = re.match(rb"\s*\[\s*(\{[^{}]*\})\s*[,\]]", beginning)
    if first is None or end != b"]":
        return None
    try:
        item = json.loads(first[1])
    except ValueError:
        return None
    box = item.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        return None
    if not {"image_id", "category_id", "score"} <= item.keys():
        return None
    if any(isinstance(v, list | str | bool) or v is None for k, v in item.items() if k != "bbox"):
        return None
    columns: dict[str, pa.DataType] = {}
    keys: dict[str, bytes] = {}
    for key in item:
        kept = key.encode().translate(None, _DROPPED)
        if kept.translate(None, _KEPT):
            return None
        keys[f"key of {key}"] = kept
        columns[f"key of {key}"] = pa.binary(len(kept))
        if key == "bbox":
            columns |= dict.fromkeys("xywh", pa.float64())
        else:
            columns[key] = pa.int64() if key in ("image_id", "category_id") else pa.float64()
    try:
        with path.open("rb") as file:
            rows = _Rows(file)
            table = pa.csv.read_csv(
                pa.PythonFile(rows, mode="r"),
                pa.csv.ReadOptions(column_names=["", *columns], block_size=_PIECE),
                pa.csv.ParseOptions(quote_char=False, escape_char=False),
                pa.csv.ConvertOptions(
                    column_types=columns, include_columns=list(columns), null_values=[]
                ),
            )
    except (pa.ArrowInvalid, OverflowError):
        return None
    if rows.quotes != 2 * len(item) * len(table):  # a number in quotes is text
        return None
    for name, kept in keys.items():
        if kept and not all(_same(chunk, kept) for chunk in table[name].chunks):
            return None
    image, category, score = (_numpy(table[n]) for n in ("image_id", "category_id", "score"))
    boxes = np.empty((len(table), 4))
    for side, name in enumerate("xywh"):
        boxes[:, side] = _numpy(table[name])
    return _checked(
        path,
        split,
        _positions(image, split.images),
        _positions(category, split.categories),
        (image, category),
        Detections(image, category, score, boxes),
    )


class _Rows:
    """A file of JSON as rows of keys and numbers with commas between, for Arrow to read."""

    closed = False

    def __init__(self, file: Any) -> None:
        self.file = file
        self.begun = False
        self.quotes = 0

    def read(self, size: int = -1) -> bytes:
        piece: bytes = self.file.read(size)
        self.quotes += piece.count(b'"')
        rows = piece.translate(_TURNED, _DROPPED)
        if not self.begun and rows:
            self.begun = True
            return b"," + rows  # as all others begin, with the comma between items
        return rows if rows or not piece else self.read(size)


def _same(chunk: pa.Array, kept: bytes) -> bool:
    return bool((_values(chunk, f"S{len(kept)}") == kept).all())


def _numpy(column: pa.ChunkedArray) -> NDArray[Any]:
    kind = "<i8" if column.type == pa.int64() else "<f8"
    return np.concatenate([_values(chunk, kind) for chunk in column.chunks])


def _values(chunk: pa.Array, kind: str) -> NDArray[Any]:
    """What a column without nulls holds; Arrow's own `to_numpy` would import pandas for it."""
    values = np.frombuffer(chunk.buffers()[1], dtype=kind)
    return values[chunk.offset : chunk.offset + len(chunk)]


# Any list


def _read_any(path: Path, split: Split) -> Detections:
    images, categories = (
        {one: place for place, one in enumerate(ids)} for ids in (split.images, split.categories)
    )
    image: list[Id] = []
    category: list[Id] = []
    score: list[float] = []
    boxes: list[list[float]] = []
    masks: list[bytes] = []
    for number, item in enumerate(_items(path), start=1):
        where = f"{path}: detection {number:,}"
        if not isinstance(item, dict):
            raise UsageError(
                f"{where}: expected an object with image_id, category_id, score and bbox"
            )
        box, mask = item.get("bbox"), item.get("segmentation")
        missing = [key for key in ("image_id", "category_id", "score") if item.get(key) is None]
        if missing or (box is None and mask is None):
            lacks = missing[0] if missing else "bbox"
            raise UsageError(f"{where}: expected `{lacks}`, found none")
        for key in ("image_id", "category_id"):
            if isinstance(item[key], bool) or not isinstance(item[key], int | str):
                raise UsageError(f"{where}: {key}: expected an id, got {item[key]!r}")
        if not _is_number(item["score"]):
            raise UsageError(f"{where}: score: expected a number, got {item['score']!r}")
        if number > 1 and (mask is not None) != bool(masks):
            raise UsageError(
                f"{where}: expected a `segmentation` in every detection or in none, and those "
                f"before it have {'one' if masks else 'none'}"
            )
        if mask is not None:
            masks.append(_mask(mask, where))
        if box is None:
            assert mask is not None
            box = coco.toBbox([{"size": mask["size"], "counts": masks[-1]}])[0].tolist()
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise UsageError(f"{where}: bbox: expected 4 numbers x, y, width, height, got {box!r}")
        image.append(item["image_id"])
        category.append(item["category_id"])
        score.append(item["score"])
        boxes.append(box)
    if not image:
        raise UsageError(f"{path}: expected a list of detections, got an empty one")
    return _checked(
        path,
        split,
        np.array([images.get(one, -1) for one in image]),
        np.array([categories.get(one, -1) for one in category]),
        (image, category),
        Detections(
            np.empty(0),
            np.empty(0),
            np.array(score, dtype=np.float64),
            np.array(boxes, dtype=np.float64),
            np.array(masks, dtype=object) if masks else None,
        ),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _mask(mask: Any, where: str) -> bytes:
    """The counts of COCO's compressed RLE."""
    counts = mask.get("counts") if isinstance(mask, dict) else None
    size = mask.get("size") if isinstance(mask, dict) else None
    if isinstance(size, list) and len(size) == 2 and isinstance(counts, str | list):
        if isinstance(counts, str):
            return counts.encode()
        made: bytes = coco.frPyObjects(mask, *size)["counts"]
        return made
    raise UsageError(
        f"{where}: segmentation: expected COCO's RLE (size and counts) of the whole image, got "
        f"{'polygons' if isinstance(mask, list) else 'something else'}"
    )


def _items(path: Path) -> Iterator[Any]:
    """The items of a JSON list, one after the other."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: expected JSON, got bytes that are no text ({error.reason})"
        ) from None
    space = re.compile(r"\s*")

    def after(place: int) -> int:
        match = space.match(text, place)
        assert match is not None
        return match.end()

    place = after(0)
    if place == len(text):
        raise UsageError(f"{path}: expected a JSON list of detections, got an empty file")
    if text[place] != "[":
        kind = "an object" if text[place] == "{" else "something else"
        raise UsageError(
            f"{path}: expected a JSON list of detections, each with image_id, category_id, bbox "
            f"and score, got {kind}"
        )
    decoder, number = json.JSONDecoder(), 0
    place = after(place + 1)
    if text[place : place + 1] == "]":
        return
    while True:
        number += 1
        try:
            item, place = decoder.raw_decode(text, place)
        except (json.JSONDecodeError, RecursionError) as error:
            at = getattr(error, "pos", place)
            raise UsageError(_broken(path, text, at, number)) from None
        yield item
        place = after(place)
        if text[place : place + 1] == "]":
            return
        if text[place : place + 1] != ",":
            raise UsageError(_broken(path, text, place, number))
        place = after(place + 1)


def _broken(path: Path, text: str, place: int, number: int) -> str:
    """What to say of JSON that is none at a place in the text, in or after an item."""
    if "]" not in text[place:]:
        return (
            f"{path}: expected a list that ends with `]`, got a file that breaks off at detection "
            f"{number:,}: write or copy it again"
        )
    line = text.count("\n", 0, place) + 1
    column = place - text.rfind("\n", 0, place)
    return f"{path}: line {line:,}, column {column:,}: expected JSON, in detection {number:,}"


# What our own evaluations write


def _read_parquet(path: Path, split: Split) -> Detections:
    try:
        names = pq.read_schema(path).names
    except pa.ArrowInvalid as error:
        raise UsageError(
            f"{path}: expected a parquet file of detections, got one that is damaged or something "
            f"else ({str(error).splitlines()[0]})"
        ) from None
    if lacking := [name for name in _COLUMNS if name not in names]:
        raise UsageError(
            f"{path}: expected the columns {', '.join(_COLUMNS)} as in a store's "
            f"detections.parquet, found no {lacking[0]}"
        )
    beside = path.with_name("metrics.json")
    if split.sha256 is not None and beside.is_file():
        made_on = json.loads(beside.read_text(encoding="utf-8")).get("evaluator", {})
        if made_on.get("ground_truth_sha256") not in (split.sha256, None):
            raise UsageError(
                f"{path}: expected detections of this validation split, got those of another (so "
                f"{beside.name} beside it says): give the dataset that they were made on"
            )
    found = Detections.read(path)
    image = np.where((found.image >= 0) & (found.image < len(split.images)), found.image, -1)
    label = np.where((found.label >= 0) & (found.label < len(split.categories)), found.label, -1)
    return _checked(path, split, image, label, (found.image, found.label), found)


# All


def _positions(ids: NDArray[Any], known: Sequence[Id]) -> NDArray[Any]:
    """The place of each id (N,) among the known ones, -1 of others."""
    values = np.array(known, dtype=np.int64)
    if len(values) and values.min() >= 0 and values.max() < _TABLE:
        places = np.full(int(values.max()) + 2, -1, dtype=np.int32)
        places[values] = np.arange(len(values))
        # the table's last place stands for ids beyond it
        return places[np.where((ids >= 0) & (ids < len(places)), ids, len(places) - 1)]
    order = np.argsort(values)
    found = np.searchsorted(values[order], ids).clip(max=len(values) - 1)
    return np.where(values[order][found] == ids, order[found], -1)


def _checked(
    path: Path,
    split: Split,
    image: NDArray[Any],
    label: NDArray[Any],
    ids: tuple[Sequence[Any] | NDArray[Any], Sequence[Any] | NDArray[Any]],
    found: Detections,
) -> Detections:
    """The detections at these images and labels (N,), -1 of ids that the split lacks."""
    for places, given, known, kind, advice in (
        (image, ids[0], split.images, "image", "the dataset whose validation images they are of"),
        (label, ids[1], split.categories, "category", "a file with the dataset's category ids"),
    ):
        unknown = np.flatnonzero(places < 0)
        if unknown.size:
            others = list(dict.fromkeys(given[place] for place in unknown.tolist()))
            raise UsageError(
                f"{path}: expected detections with the {kind} ids of the validation split (such as "
                f"{some(known[:3])}), got {len(others):,} "
                f"{'other' if len(others) == 1 else 'others'} ({some(others)}) in "
                f"{unknown.size:,} of {len(places):,} detections: give {advice}"
            )
    if not np.isfinite(found.score.sum()):
        _refuse(path, ~np.isfinite(found.score), "scores that are finite numbers")
    if not np.isfinite(found.bbox.sum()) or found.bbox[:, 2:].min(initial=0) < 0:
        bad = ~np.isfinite(found.bbox).all(axis=1) | (found.bbox[:, 2:] < 0).any(axis=1)
        _refuse(path, bad, "boxes x, y, width, height of finite numbers and no negative size")
    return replace(found, image=image, label=label)


def _refuse(path: Path, bad: NDArray[Any], expected: str) -> None:
    """Raise UsageError where detections are bad (N,)."""
    wrong = np.flatnonzero(bad)
    if wrong.size:
        raise UsageError(
            f"{path}: expected {expected}, got {wrong.size:,} "
            f"{'other' if wrong.size == 1 else 'others'} (detections {some(wrong + 1)})"
        )
