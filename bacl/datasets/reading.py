"""Reading of annotation files of any format: every field is converted, or reported as wrong.

A file's own ids may be whole numbers of any size, or text. They are kept for messages and for
output. Everything else uses positions: that of an image in its file, and that of a category among
the training file's categories sorted by id, its label.

I images, N annotations, C categories.
"""

import json
import math
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacl.datasets import segmentations
from bacl.datasets.categories import Id
from bacl.datasets.content import Content, some
from bacl.datasets.formats import Format
from bacl.errors import UsageError

LARGEST = 2**31 - 1
"""Largest side in pixels and largest count."""


# Values


class _Wrong(ValueError):
    """A value is not valid for its field."""


def _number(value: Any) -> float:
    """A finite number, which may be written as text, as tools that convert through CSV write it."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise _Wrong
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _Wrong from None
    if not math.isfinite(number) or (isinstance(value, str) and "_" in value):
        raise _Wrong
    return number


def _whole(lowest: int) -> Callable[[Any], int]:
    def understand(value: Any) -> int:
        number = _number(value)
        if not number.is_integer() or not lowest <= number <= LARGEST:
            raise _Wrong
        return int(number)

    return understand


def _crowd(value: Any) -> int:
    if isinstance(value, bool):
        return int(value)
    number = _number(value)
    if number not in (0, 1):
        raise _Wrong
    return int(number)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _Wrong
    try:
        value.encode()
    except UnicodeEncodeError:  # an unpaired surrogate: valid in JSON, but it cannot be encoded
        raise _Wrong from None
    return value


def _id(value: Any) -> Id:
    if isinstance(value, bool):
        raise _Wrong
    if isinstance(value, int):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)  # pandas writes whole numbers of a column with gaps as 7.0
    return _text(value)


def _ids(value: Any) -> list[Id]:
    if not isinstance(value, list):
        raise _Wrong
    return [_id(one) for one in value]


def _box(value: Any) -> list[float]:
    if not isinstance(value, list) or len(value) != 4:
        raise _Wrong
    return [_number(side) for side in value]


def _frequency(value: Any) -> str:
    if value not in ("r", "c", "f"):
        raise _Wrong
    return str(value)


@dataclass(frozen=True)
class _Field:
    """Rules for a field's values.

    understand: converts the file's value, or raises _Wrong. expected: description for messages.
    needed: whether a missing value, or null, is wrong.
    """

    understand: Callable[[Any], Any]
    expected: str
    needed: bool = True


_SIDE = _Field(_whole(1), f"a whole number from 1 to {LARGEST}")
_COUNT = _Field(_whole(0), f"a whole number from 0 to {LARGEST}", needed=False)
_ID = _Field(_id, "a whole number or text")

FIELDS: dict[str, dict[str, _Field]] = {
    "images": {
        "id": _ID,
        "width": _SIDE,
        "height": _SIDE,
        "file_name": _Field(_text, "text without half characters", needed=False),
        "coco_url": _Field(_text, "text without half characters", needed=False),
    },
    "annotations": {
        "id": _ID,
        "image_id": _ID,
        "category_id": _ID,
        "bbox": _Field(_box, "four finite numbers x, y, width, height"),
        "area": _Field(_number, "a finite number", needed=False),
        "iscrowd": _Field(_crowd, "0 or 1", needed=False),
    },
    "categories": {
        "id": _ID,
        "name": _Field(_text, "text without half characters"),
        "frequency": _Field(_frequency, "r, c or f", needed=False),
        "image_count": _COUNT,
        "instance_count": _COUNT,
    },
}
"""Fields that are read of each list's objects; others are ignored."""
LISTS = {
    name: _Field(_ids, "a list of ids")
    for name in ("neg_category_ids", "not_exhaustive_category_ids")
}
"""LVIS's lists of a validation image: categories that are absent, and those not fully annotated."""


# Files


def read(
    path: Path,
    problems: list[str],
    *,
    form: Format,
    federated: bool,
    counted: bool,
    sized: bool,
) -> Content | None:
    """The content of a file, or None where something is wrong, which is appended to `problems`.

    form: the file's format. federated: whether images need LVIS's lists. counted: whether frequency
    groups go by counts, so that a file's own `frequency` does not matter. sized: whether images
    need `width` and `height`.
    """
    content = _lists(path, form, problems)
    if content is None:
        return None
    before = len(problems)
    for kind, fields in FIELDS.items():
        if not content[kind] and kind != "annotations":
            problems.append(f"{path}: {kind}: expected at least one, got none")
        if kind == "images":
            if federated:
                fields = fields | LISTS
            else:
                for image in content[kind]:
                    for name in LISTS:
                        image.pop(name, None)
            if not sized:
                fields = {name: one for name, one in fields.items() if one is not _SIDE}
        if kind == "categories" and counted:
            fields = {name: one for name, one in fields.items() if name != "frequency"}
            for category in content[kind]:
                category.pop("frequency", None)
        _understand(content[kind], fields, f"{path}: {kind}", problems)
    unnamed = [
        image.get("id")
        for image in content["images"]
        if image.get("file_name") is None and image.get("coco_url") is None
    ]
    if unnamed:
        problems.append(
            f"{path}: images: expected file_name or coco_url, missing in {len(unnamed):,}: "
            f"ids {some(unnamed)}"
        )
    if len(problems) > before:
        return None
    for kind in FIELDS:
        counts = Counter(item["id"] for item in content[kind])
        if repeated := [number for number, count in counts.items() if count > 1]:
            problems.append(
                f"{path}: {kind}: expected each id once, repeated: {some(map(repr, repeated))}"
            )
    if len(problems) > before:
        return None
    return Content(content["images"], content["annotations"], content["categories"])


def _lists(path: Path, form: Format, problems: list[str]) -> dict[str, list[dict[str, Any]]] | None:
    """The three lists that a format's reader returns; None where it fails, with the reason in
    `problems`."""
    try:
        content = form.read(path)
    except UsageError as error:
        problems.append(str(error))
        return None
    except FileNotFoundError as error:
        problems.append(f"{error.filename or path}: expected an annotation file, found none")
        return None
    except OSError as error:
        where = error.filename or path
        problems.append(f"{where}: expected a readable annotation file, got: {error.strerror}")
        return None
    except ValueError as error:
        problems.append(f"{path}: expected {form.content}, got: {error}")
        return None
    except Exception as error:  # a reader from outside BACL may raise anything
        if form.module == Format.module:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        problems.append(
            f"{path}: expected {form.content}, its reader failed: {type(error).__name__}: {error} "
            f"({last.filename}, line {last.lineno})"
        )
        return None
    if not isinstance(content, dict):
        problems.append(
            f"{path}: expected {form.content}, an object, got a {type(content).__name__}"
        )
        return None
    missing = [
        name
        for name in FIELDS
        if not isinstance(content.get(name), list)
        or not all(isinstance(item, dict) for item in content[name])
    ]
    if missing:
        problems.append(
            f"{path}: expected {form.content}, got none of its lists of objects {some(missing)}"
        )
        return None
    for annotation in content["annotations"]:
        segmentations.compact(annotation)
    return {name: content[name] for name in FIELDS}


def _understand(
    items: list[dict[str, Any]], fields: Mapping[str, _Field], where: str, problems: list[str]
) -> None:
    """Replace the values of fields by converted ones, and report those that cannot be converted."""
    for name, kind in fields.items():
        understand, needed = kind.understand, kind.needed
        wrong: list[tuple[int, dict[str, Any]]] = []
        for place, item in enumerate(items):
            value = item.get(name)
            if value is None and not needed:
                item.pop(name, None)
                continue
            try:
                item[name] = understand(value)
            except _Wrong:
                wrong.append((place, item))
        if not wrong:
            continue
        place, first = wrong[0]
        got = f"got {_shown(first[name])}" if name in first else "got none"
        at = f"at place {place}" if name == "id" else f"with id {_shown(first.get('id'))}"
        advice = "; for exhaustive annotations say `format: coco`" if name in LISTS else ""
        nothing = "" if needed else " (or nothing)"
        problems.append(
            f"{where}: {name}: expected {kind.expected}{nothing} in each, wrong in "
            f"{len(wrong):,} of {len(items):,}: in the first, {at}, {got}{advice}"
        )


def _shown(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 40 else f"{text[:37]}..."


# Relations


def by_label(categories: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Categories in the order of labels: first those with numbers as ids, by number, then those
    with text."""
    return sorted(categories, key=lambda item: (isinstance(item["id"], str), item["id"]))


_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,99}")
"""Pattern of a whole number in text, limited to a length that Python's `int` accepts."""


class _Places:
    """Positions by id. An id that is missing but exists in the other spelling, 7 or "7", is taken
    for it."""

    def __init__(self, ids: Iterable[Id]) -> None:
        self.places = {number: place for place, number in enumerate(ids)}

    def __getitem__(self, number: Id) -> int | None:
        place = self.places.get(number)
        if place is None and isinstance(number, int):
            return self.places.get(str(number))
        if place is None and isinstance(number, str) and _WHOLE.fullmatch(number):
            return self.places.get(int(number))
        return place


def relate(
    content: Content, categories: Sequence[Mapping[str, Any]], path: Path, problems: list[str]
) -> None:
    """Give annotations the positions of their images and categories, and drop the ids.

    categories: those of the training file in the order of labels.
    """
    images = _Places(image["id"] for image in content.images)
    labels = _Places(category["id"] for category in categories)
    for given_as, name, places, kind in (
        ("image_id", "image", images, "images"),
        ("category_id", "label", labels, "categories"),
    ):
        lost = []
        for annotation in content.annotations:
            given = annotation.pop(given_as)
            annotation[name] = places[given]
            if annotation[name] is None:
                lost.append((annotation["id"], given))
        if lost:
            number, given = lost[0]
            problems.append(
                f"{path}: annotations: {given_as}: expected the id of one of {kind}, unknown in "
                f"{len(lost):,}: in the first, with id {_shown(number)}, got {_shown(given)}"
            )
    strange = []
    for image in content.images:
        for name in LISTS.keys() & image.keys():
            found = [labels[one] for one in image[name]]
            image[name] = [label for label in found if label is not None]
            if len(image[name]) < len(found):
                strange.append(image["id"])
    if strange:
        content.strange = (
            f"{path.name}: images: lists of {len(strange):,} name categories that the file lacks, "
            f"which are ignored: ids {some(dict.fromkeys(strange))}"
        )
