"""Is a data set what it says: images there, readable and of the annotated size, boxes and masks
sane, ids and lists consistent, training and validation apart.

*Problems* make a data set unfit or its results wrong. *Remarks* are what real sets have some of
and what training and evaluation cope with, as long as they are few: boxes that reach out of their
image, the same photograph twice. (In LVIS v0.5 the polygons of some photographs are turned against
their boxes, such as those of image 179898 of its validation split.)
"""

import hashlib
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image

from bacl import rle, settings
from bacl.datasets.annotations import VISIBLE, Examined, examine
from bacl.datasets.download import Watch
from bacl.datasets.judged import Boxes, crowding_sentences
from bacl.errors import UsageError

MANY = 0.1
"""Share of a split's annotations from which what is odd of them is a problem."""
LEAST_OVERLAP = 0.5
"""IoU of a box with its mask's bounds that is still no remark."""
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_COMMON = ("JPEG", "PNG")
"""Formats that OpenCV, which training reads with, has for certain."""


@dataclass
class Findings:
    """Sentences about what is wrong, and about what is odd."""

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class _Tally:
    """Ids of what has the same thing wrong with it, told in one sentence for each thing."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.ids: dict[str, list[Any]] = defaultdict(list)

    def add(self, what: str, number: Any) -> None:
        self.ids[what].append(number)

    def __iter__(self) -> Iterator[str]:
        for what, ids in self.ids.items():
            yield f"{self.where}: {len(ids):,} {what}: {_first(ids)}"

    def tell(self, found: Findings, total: int) -> None:
        """Put what only few of `total` have among the remarks, else among the problems."""
        for sentence, ids in zip(self, self.ids.values()):
            (found.problems if len(ids) > MANY * total else found.remarks).append(sentence)


def _first(values: list[Any]) -> str:
    more = f" and {len(values) - 5:,} more" if len(values) > 5 else ""
    return ", ".join(str(value) for value in values[:5]) + more


def verify(
    dataset: settings.Dataset,
    cache: Path,
    quick: bool,
    workers: int,
    watch: Watch,
    detector: settings.Detector | None = None,
) -> Findings:
    """Everything that is wrong with a data set, found in one go.

    Args:
        cache: where the embedded set is made, if it is asked for.
        quick: only look at the images' headers, do not decode or compare them.
        workers: images read at the same time.
        watch: is told of the images done.
        detector: whose limits crowded validation images are held against; else one as it is
            without settings.
    """
    found = Findings()
    try:
        splits = examine(dataset, cache, found.problems)
    except UsageError as error:
        return Findings(problems=str(error).splitlines())
    found.problems = list(dict.fromkeys(found.problems))  # both splits may lack one folder
    for split in splits:
        _check_boxes(split, found)
        _check_masks(split, found)
        _check_lists(split, found)
        _check_repeats(split, found)
    _check_counts(splits[0], found)
    _check_judged(splits[1], dataset, detector or settings.Detector(), found)
    _check_apart(*splits, found)
    _check_images(splits, quick, workers, watch, found)
    return found


# Annotations


class _Placed(NamedTuple):
    """An annotation, and the width and height of its image in pixels."""

    annotation: dict
    width: int
    height: int


def _placed(split: Examined) -> Iterator[_Placed]:
    sizes = {image["id"]: (image["width"], image["height"]) for image in split.content["images"]}
    for annotation in split.content["annotations"]:
        yield _Placed(annotation, *sizes[annotation["image_id"]])


def _check_boxes(split: Examined, found: Findings) -> None:
    odd = _Tally(f"{split.annotations.name}: annotations")
    for annotation, width, height in _placed(split):
        x, y, w, h = annotation["bbox"]
        if w <= 0 or h <= 0:
            odd.add("boxes without area, which training leaves out", annotation["id"])
        elif x >= width or y >= height or x + w <= 0 or y + h <= 0:
            odd.add("boxes outside of their image, which training leaves out", annotation["id"])
        elif max(-x, -y, x + w - width, y + h - height) > VISIBLE:
            odd.add(
                "boxes (x, y, width, height) that reach out of their image, which training clips",
                annotation["id"],
            )
        elif (area := annotation.get("area")) is not None and area > (w + 1) * (h + 1):
            odd.add("areas larger than their box", annotation["id"])
    odd.tell(found, len(split.content["annotations"]))


def _check_masks(split: Examined, found: Findings) -> None:
    problems, odd = (_Tally(f"{split.annotations.name}: annotations") for _ in range(2))
    without, compressed = [], []
    for placed in _placed(split):
        mask = placed.annotation.get("segmentation")
        if not mask:
            without.append(placed.annotation["id"])
        elif isinstance(mask, list):
            _check_polygons(mask, placed, problems, odd)
        elif (counts := _counts(mask)) is None:
            problems.add(
                "segmentations that are neither polygons nor COCO's RLE", placed.annotation["id"]
            )
        elif list(mask["size"]) != [placed.height, placed.width]:
            problems.add("RLE of another size than their image's", placed.annotation["id"])
        elif isinstance(counts, bytes):
            compressed.append((counts, placed))
        elif sum(counts) != placed.width * placed.height:
            problems.add("RLE whose runs do not fill the image", placed.annotation["id"])
    covered, _ = rle.measure([counts for counts, _ in compressed])
    for (_, placed), pixels in zip(compressed, covered):
        if pixels != placed.width * placed.height:
            problems.add("RLE whose runs do not fill the image", placed.annotation["id"])
    total = len(split.content["annotations"])
    if 0 < len(without) < total:
        found.remarks.append(
            f"{split.annotations.name}: annotations: {len(without):,} of {total:,} have no "
            f"segmentation: {_first(without)}"
        )
    found.problems += problems
    odd.tell(found, total)


def _counts(mask: Any) -> bytes | list[int] | None:
    """The runs of an RLE, compressed or not; None where it is none."""
    if not isinstance(mask, dict) or not isinstance(mask.get("size"), list):
        return None
    counts = mask.get("counts")
    if isinstance(counts, str):
        return counts.encode(errors="replace")
    if isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts):
        return counts
    return None


def _check_polygons(mask: list, placed: _Placed, problems: _Tally, odd: _Tally) -> None:
    number = placed.annotation["id"]
    if not all(isinstance(polygon, list) and all(map(_finite, polygon)) for polygon in mask):
        problems.add("polygons that are not lists of finite numbers", number)
        return
    if any(len(polygon) % 2 for polygon in mask):
        problems.add("polygons with an odd number of coordinates", number)
        return
    if any(len(polygon) < 6 for polygon in mask):
        odd.add("polygons of less than three points", number)
    x1, y1 = (min((c for p in mask for c in p[i::2]), default=0) for i in (0, 1))
    x2, y2 = (max((c for p in mask for c in p[i::2]), default=0) for i in (0, 1))
    if max(-x1, -y1, x2 - placed.width, y2 - placed.height) > 1:
        odd.add("polygons that reach out of their image", number)
    x, y, w, h = placed.annotation["bbox"]
    overlap = _iou((x1, y1, x2, y2), (x, y, x + w, y + h))
    if overlap < LEAST_OVERLAP:
        odd.add(f"polygons {'that fit their box badly' if overlap else 'beside their box'}", number)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """IoU of two boxes x1, y1, x2, y2, each a pixel larger so that thin ones overlap too."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def _check_lists(split: Examined, found: Findings) -> None:
    """LVIS's federated lists, where there are any."""
    problems = _Tally(f"{split.annotations.name}: images")
    known = {category["id"] for category in split.content["categories"]}
    present = defaultdict(set)
    for annotation in split.content["annotations"]:
        present[annotation["image_id"]].add(annotation["category_id"])
    for image in split.content["images"]:
        negative = _as_set(image.get("neg_category_ids"))
        listed = negative | _as_set(image.get("not_exhaustive_category_ids"))
        if listed - known:
            problems.add("federated lists with unknown categories", image["id"])
        if negative & present[image["id"]]:
            problems.add("neg_category_ids that are annotated in the image", image["id"])
    found.problems += problems


def _as_set(ids: Any) -> set:
    return set(ids) if isinstance(ids, list) else set()


def _check_repeats(split: Examined, found: Findings) -> None:
    remarks = _Tally(f"{split.annotations.name}: annotations")
    seen = set()
    for annotation in split.content["annotations"]:
        what = (annotation["image_id"], annotation["category_id"], *annotation["bbox"])
        if what in seen:
            remarks.add("repeat a box of the same image and category", annotation["id"])
        seen.add(what)
    found.remarks += remarks


def _check_judged(
    val: Examined, dataset: settings.Dataset, detector: settings.Detector, found: Findings
) -> None:
    boxes = Boxes.of(val.content["annotations"])
    evaluation = "coco" if dataset.format == "coco" else "lvis"
    if not len(boxes.image):
        found.remarks.append(f"{val.annotations.name}: no boxes to evaluate: AP will be absent")
    said = crowding_sentences(boxes, detector, evaluation)
    found.remarks += [f"{val.annotations.name}: {sentence}" for sentence in said]


def _check_counts(train: Examined, found: Findings) -> None:
    """Counts that the training file gives against those that it has, with crowds or without."""
    for given, key in (("image_count", "image_id"), ("instance_count", "id")):
        counts = []
        for crowds in (True, False):
            shown = {
                (a["category_id"], a[key])
                for a in train.content["annotations"]
                if crowds or not a.get("iscrowd")
            }
            counts.append(Counter(category for category, _ in shown))
        wrong = [
            f"{category['name']} ({category[given]}, but {counts[0][category['id']]})"
            for category in train.content["categories"]
            if category.get(given) is not None
            and category[given] not in [count[category["id"]] for count in counts]
        ]
        if wrong:
            found.remarks.append(
                f"{train.annotations.name}: categories: {len(wrong):,} have another {given} than "
                f"the file gives: {_first(wrong)}"
            )


def _check_apart(train: Examined, val: Examined, found: Findings) -> None:
    folders = {split.images: split.images.resolve() for split in (train, val)}
    seen = {folders[train.images] / name for name in train.files if name}
    both = [name for name in val.files if name and folders[val.images] / name in seen]
    if both:
        found.problems.append(
            f"{val.annotations.name}: images: {len(both):,} are images of "
            f"{train.annotations.name} too: {_first(both)}"
        )


# Images


class _Look(NamedTuple):
    """What is wrong with an image, and what identifies its content; None where nothing is."""

    problem: str | None
    digest: bytes | None


def _check_images(
    splits: Iterable[Examined], quick: bool, workers: int, watch: Watch, found: Findings
) -> None:
    jobs = [
        (split, split.images / file, image["width"], image["height"])
        for split in splits
        for image, file in zip(split.content["images"], split.files)
        if file
    ]
    tallies: dict[Path, _Tally] = {}
    first: dict[bytes, tuple[Examined, Path]] = {}
    twice = _Tally("images")
    leaks = _Tally("images")
    pool = ThreadPoolExecutor(workers)
    try:
        looks = pool.map(lambda job: _look(job[1], job[2], job[3], decode=not quick), jobs)
        for done, ((split, path, *_), look) in enumerate(zip(jobs, looks), start=1):
            if look.problem:
                tally = tallies.setdefault(split.images, _Tally(str(split.images)))
                kind, _, example = look.problem.partition(": ")
                tally.add(kind, f"{path.relative_to(split.images)} ({example})")
            if look.digest:
                other, same = first.setdefault(look.digest, (split, path))
                if other is not split and same != path:
                    leaks.add(
                        "validation images are, byte by byte, training images",
                        f"{path.name} ({same.name})",
                    )
                elif same != path:
                    twice.add("are there twice under two names", f"{path.name} ({same.name})")
            watch("reading images", done, len(jobs))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for tally in tallies.values():
        found.problems += tally
    found.problems += leaks
    found.remarks += twice


def _look(path: Path, width: int, height: int, decode: bool) -> _Look:
    """Open an image, decode it if asked to, and compare its size as training will see it."""
    try:
        content = path.read_bytes() if decode else b""
        with Image.open(io.BytesIO(content) if decode else path) as image:
            size, form = image.size, image.format
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            if decode:
                image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return _Look(f"images cannot be read: {_short(error)}", None)
    digest = hashlib.sha256(content).digest() if decode else None
    if decode and form not in _COMMON:
        pixels = np.frombuffer(content, dtype=np.uint8)
        if cv2.imdecode(pixels, cv2.IMREAD_COLOR) is None:
            return _Look(f"images are of a format that OpenCV does not read: {form}", digest)
    seen = size[::-1] if turned else size
    if seen != (width, height):
        turn = ", turned by its EXIF orientation" if turned else ""
        text = f"{seen[0]} x {seen[1]}{turn}, annotated {width} x {height}"
        return _Look(f"images have another size than annotated: {text}", digest)
    return _Look(None, digest)


def _short(error: Exception) -> str:
    text = str(error)
    return "no image format that is known" if text.startswith("cannot identify") else text
