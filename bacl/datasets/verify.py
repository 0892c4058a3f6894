"""Verification of a data set: images exist, can be read and have the annotated size, boxes and
masks are plausible, ids and lists are consistent, and training and validation are disjoint.

*Problems* make a data set unfit or its results wrong. *Remarks* are irregularities of which real
sets have a few and which then do no harm, such as boxes that reach out of their image or the same
photograph twice. (In LVIS v0.5 the polygons of some photographs are turned against their boxes,
such as those of image 179898 of its validation split.)
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl import settings
from bacl.datasets import boxes, decoding, images
from bacl.datasets.content import Tally, some
from bacl.datasets.examine import Examined, examine, same_names
from bacl.datasets.judged import Boxes, crowding_sentences
from bacl.errors import UsageError
from bacl.watch import Watch

MANY = 0.1
"""Share of a split's annotations from which an irregularity is a problem instead of a remark."""
LEAST_OVERLAP = 0.5
"""Least IoU of a box with its mask's bounds that is not remarked on."""


@dataclass
class Findings:
    """Problems and remarks, as sentences, and the number of images that were examined."""

    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    images: int = 0

    def add(self, tally: Tally, total: int) -> None:
        """Add irregularities as remarks where only few of `total` have them, otherwise as
        problems."""
        for sentence, ids in zip(tally, tally.ids.values(), strict=True):
            (self.problems if len(ids) > MANY * total else self.remarks).append(sentence)


def verify(
    dataset: settings.Dataset,
    cache: Path,
    quick: bool,
    workers: int,
    watch: Watch,
    detector: settings.Detector | None = None,
) -> Findings:
    """Find everything that is wrong with a data set.

    Args:
        cache: folder where the embedded set is made, if it is the data set, and where results of
            reading images are kept.
        quick: do not decode the images, only check their headers and digests.
        workers: images decoded at the same time.
        watch: receives the number of images done.
        detector: detector whose limits crowded validation images are compared with; by default one
            with default settings.
    """
    found = Findings()
    try:
        splits = examine(dataset, cache, found.problems, watch)
    except UsageError as error:
        return Findings(problems=str(error).splitlines())
    # both splits may report the same missing folder
    found.problems = list(dict.fromkeys(found.problems))
    for split in splits:
        total = len(split.content.annotations)
        found.add(split.left_out, total)
        odd = boxes.examine(split.content, split.annotations, split.name, split.evaluation)
        found.add(odd, total)
        _check_masks(split, found)
        _check_lists(split, found)
        _check_repeats(split, found)
        if sentence := images.twice(split.content.images, split.files):
            found.problems.append(f"{split.annotations.name}: images: {sentence}")
    found.remarks += same_names(splits[0])
    found.images = sum(look is not None for split in splits for look in split.looks)
    _check_counts(splits[0], found)
    _check_judged(splits[1], detector or settings.Detector(), found)
    _check_apart(*splits, found)
    if not quick:
        _decode(splits, workers, watch, found)
    return found


# Annotations


def _check_masks(split: Examined, found: Findings) -> None:
    odd = Tally(split.annotations.name, "annotation")
    wrong = {number for ids in split.wrong.ids.values() for number in ids}
    without = []
    for annotation in split.content.annotations:
        mask = annotation.get("segmentation")
        if mask is None and annotation["id"] not in wrong:
            without.append(annotation["id"])
        elif isinstance(mask, list):
            image = split.content.images[annotation["image"]]
            _check_polygons(mask, annotation, image["width"], image["height"], odd)
    total = len(split.content.annotations)
    if 0 < len(without) < total:
        found.remarks.append(
            f"{split.annotations.name}: annotations: {len(without):,} of {total:,} have no "
            f"segmentation: {some(without)}"
        )
    found.add(odd, total)


def _check_polygons(
    mask: Sequence[NDArray[Any]], annotation: dict[str, Any], width: int, height: int, odd: Tally
) -> None:
    points = np.concatenate(mask).reshape(-1, 2)
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    if max(-x1, -y1, x2 - width, y2 - height) > 1:
        odd.add("polygons that reach out of their image", annotation["id"])
    x, y, w, h = annotation["bbox"]
    overlap = _iou((x1, y1, x2, y2), (x, y, x + w, y + h))
    if overlap < LEAST_OVERLAP:
        words = "that fit their box badly" if overlap else "beside their box"
        odd.add(f"polygons {words}", annotation["id"])


def _iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """IoU of two boxes x1, y1, x2, y2, each a pixel larger so that thin ones overlap too."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def _check_lists(split: Examined, found: Findings) -> None:
    """Check LVIS's federated lists, where there are any."""
    problems = Tally(split.annotations.name, "image")
    present: list[set[int]] = [set() for _ in split.files]
    for annotation in split.content.annotations:
        present[annotation["image"]].add(annotation["label"])
    for image, shown in zip(split.content.images, present, strict=True):
        if shown & set(image.get("neg_category_ids", ())):
            problems.add("neg_category_ids that are annotated in the image", image["id"])
    found.problems += problems
    if split.content.strange:
        found.remarks.append(split.content.strange)


def _check_repeats(split: Examined, found: Findings) -> None:
    remarks = Tally(split.annotations.name, "annotation")
    seen = set()
    for annotation in split.content.annotations:
        what = (annotation["image"], annotation["label"], *annotation["bbox"])
        if what in seen:
            remarks.add("repeats a box of the same image and category", annotation["id"])
        seen.add(what)
    found.remarks += remarks


def _check_judged(val: Examined, detector: settings.Detector, found: Findings) -> None:
    shown = Boxes.of(val.content.annotations)
    if not len(shown.image):
        found.remarks.append(f"{val.annotations.name}: no boxes to evaluate: AP will be absent")
    said = crowding_sentences(shown, detector, val.evaluation)
    found.remarks += [f"{val.annotations.name}: {sentence}" for sentence in said]


def _check_counts(train: Examined, found: Findings) -> None:
    """Compare the counts given in the training file with those of its annotations, with or without
    crowds."""
    for given, key in (("image_count", "image"), ("instance_count", "id")):
        counts = []
        for crowds in (True, False):
            shown = {
                (a["label"], a[key])
                for a in train.content.annotations
                if crowds or not a.get("iscrowd")
            }
            counts.append(Counter(label for label, _ in shown))
        wrong = [
            f"{category['name']} ({category[given]}, but {counts[0][label]})"
            for label, category in enumerate(train.content.categories)
            if given in category and category[given] not in [count[label] for count in counts]
        ]
        if wrong:
            found.remarks.append(
                f"{train.annotations.name}: categories: {len(wrong):,} have another {given} than "
                f"their annotations: {some(wrong)}"
            )


# Images


def _check_apart(train: Examined, val: Examined, found: Findings) -> None:
    """Find files, or contents of files, that are in both splits or twice in one."""
    both = images.in_both((train.files, train.images), (val.files, val.images))
    if both:
        found.problems.append(
            f"{val.annotations.name}: images: {len(both):,} are images of "
            f"{train.annotations.name} too: {some(both)}"
        )
    first: dict[bytes, tuple[Examined, Path]] = {}
    twice, leaks = (Tally(split.annotations.name, "image") for split in (train, val))
    for split in (train, val):
        for file, look in zip(split.files, split.looks, strict=True):
            if look is None or look.problem:
                continue
            path = split.images / file
            other, same = first.setdefault(look.digest, (split, path))
            if same == path:
                continue
            if other is split:
                twice.add("there twice under two names", f"{path.name} ({same.name})")
            else:
                leaks.add("byte by byte a training image", f"{path.name} ({same.name})")
    found.problems += leaks
    found.remarks += twice


def _decode(splits: Sequence[Examined], workers: int, watch: Watch, found: Findings) -> None:
    """Decode each image whose header can be read."""
    jobs = [
        (split, split.images / file)
        for split in splits
        for file, look in zip(split.files, split.looks, strict=True)
        if look and not look.problem
    ]
    pool = ThreadPoolExecutor(workers)
    broken: dict[Path, Tally] = {}
    try:
        problems = pool.map(_problem, (path for _, path in jobs))
        for done, ((split, path), problem) in enumerate(zip(jobs, problems, strict=True), start=1):
            if problem:
                tally = broken.setdefault(split.images, Tally(split.images, "image"))
                name = path.relative_to(split.images) if split.images in path.parents else path
                tally.add("cannot be decoded", f"{name} ({problem})")
            watch("decoding images", done, len(jobs))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    for tally in broken.values():
        found.problems += tally


def _problem(path: Path) -> str:
    """The reason why an image cannot be decoded, or ""."""
    try:
        decoding.read(path)
    except decoding.ImageUnreadable as error:
        return str(error)
    return ""
