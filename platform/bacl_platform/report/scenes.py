"""Images on which variants differ, ground truth and variants side by side (the paper's Fig. 6).

G ground-truth boxes, I images.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hotcoco.primitives import bbox_iou
from numpy.typing import NDArray

from bacl.datasets.decoding import ImageUnreadable, read
from bacl.errors import RunError
from bacl.evaluation import Detections
from bacl_platform.analysis.profiles import Analysis
from bacl_platform.analysis.results import Report
from bacl_platform.report.drawing import Mark, as_picture, font, group_colour, mark
from bacl_platform.report.pages import Shown
from bacl_platform.texts import shortened

if TYPE_CHECKING:
    from PIL import Image

_LONGEST = 420
"""Pixels of the longer side of an image: names can be read where four stand side by side."""
_GAP = 12
_SAME_PLACE = 0.5
"""IoU from which detections are of the same place."""
_MOST_LETTERS = 40
"""Most letters of a column's title."""
_MOST_NAMED = 4
"""Boxes that a caption names."""


@dataclass(frozen=True)
class Scene:
    """An image (position in the split) and its boxes (places in `Analysis.truth`) that some
    variants find and others do not, the rarest category first."""

    image: int
    boxes: list[int]


def choose(analysis: Analysis, names: Sequence[str], threshold: float, count: int) -> list[Scene]:
    """The `count` images on which the named variants differ most.

    A box counts where one variant has a detection of its category at IoU >= 0.5 that scores at
    least `threshold` and another has not; it weighs 1 / sqrt(training images of the category), so
    that one rare box outweighs several frequent ones. Images are ranked by the sum.
    """
    truth, categories = analysis.truth, analysis.prepared.categories
    found = np.stack([analysis.profiles[name].found >= threshold for name in names])
    differs = truth.counted & found.any(axis=0) & ~found.all(axis=0)
    shown = np.array([category.image_count for category in categories])
    weight = differs / np.sqrt(np.maximum(shown, 1))[truth.label]
    total = np.bincount(truth.image, weight, len(analysis.files))
    best = [int(image) for image in np.argsort(-total, kind="stable")[:count] if total[image] > 0]
    return [
        Scene(
            image,
            sorted(
                np.flatnonzero(differs & (truth.image == image)).tolist(),
                key=lambda box: -weight[box],
            ),
        )
        for image in best
    ]


def scenes(
    report: Report, analysis: Analysis, names: Sequence[str], threshold: float, count: int
) -> list[Shown]:
    """Pictures of the scenes that `choose` takes, of each variant's first seed.

    Raises RunError where an image of the dataset cannot be read.
    """
    found = {name: report.of(name)[0].detections() for name in names}
    made = []
    for number, scene in enumerate(choose(analysis, names, threshold, count), start=1):
        file = analysis.files[scene.image]
        image, scale = _read(Path(analysis.prepared.val.images) / file)
        columns = [("ground truth", _truth_marks(analysis, scene.image, scale))]
        for name, detections in found.items():
            rows = np.flatnonzero(
                (detections.image == scene.image) & (detections.score >= threshold)
            )
            rows = _uncluttered(detections, rows, analysis.profiles[name].finder)
            columns.append((name, _marks(analysis, detections, rows, scale)))
        picture = _side_by_side(image, columns, report.groups)
        made.append(
            Shown(
                f"scene_{number}.png",
                f"{file}: {', '.join(title for title, _ in columns)}",
                _encoded(picture, "PNG"),
                inside=_encoded(picture, "JPEG"),
                caption=f"{file}. {_caption(analysis, names, threshold, scene)}",
                wide=True,
            )
        )
    return made


def _truth_marks(analysis: Analysis, image: int, scale: float) -> list[Mark]:
    truth = analysis.truth
    here = np.flatnonzero((truth.image == image) & truth.counted)
    categories = analysis.prepared.categories
    return [
        Mark(
            _corners(truth.bbox[box], scale),
            categories[truth.label[box]].name,
            _colour(analysis, int(truth.label[box])),
        )
        for box in here
    ]


def _uncluttered(detections: Detections, rows: NDArray[Any], finder: NDArray[Any]) -> NDArray[Any]:
    """Rows of an image's detections to draw, the surest last: the best of overlapping ones,
    whatever their categories, and those that find a box."""
    rows = rows[np.argsort(-detections.score[rows], kind="stable")]
    boxes = detections.bbox[rows].astype(np.float64)
    overlaps = bbox_iou(boxes, boxes, np.zeros(len(boxes), dtype=bool)) if len(rows) else boxes
    finds = np.isin(rows, finder)
    kept: list[int] = []
    for place in range(len(rows)):
        if finds[place] or not (overlaps[place, kept] >= _SAME_PLACE).any():
            kept.append(place)
    return rows[kept[::-1]]


def _marks(
    analysis: Analysis, detections: Detections, rows: NDArray[Any], scale: float
) -> list[Mark]:
    categories = analysis.prepared.categories
    marks = []
    for row in rows:
        label = int(detections.label[row])
        text = f"{categories[label].name} {detections.score[row]:.2f}"
        marks.append(Mark(_corners(detections.bbox[row], scale), text, _colour(analysis, label)))
    return marks


def _corners(box: NDArray[Any], scale: float) -> list[float]:
    x, y, width, height = (float(value) * scale for value in box)
    return [x, y, x + width, y + height]


def _colour(analysis: Analysis, label: int) -> tuple[int, int, int]:
    names = analysis.prepared.groups.names
    return group_colour(names.index(analysis.prepared.categories[label].frequency))


def _read(path: Path) -> tuple["Image.Image", float]:
    """An image, as large as a column is, and by how much it was made larger or smaller."""
    try:
        image = as_picture(read(path))
    except ImageUnreadable as error:
        raise RunError(
            f"{path}: expected a readable image of the dataset (`--images 0` draws none), "
            f"got {error}"
        ) from error
    scale = _LONGEST / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size), scale


def _side_by_side(
    image: "Image.Image", columns: Sequence[tuple[str, list[Mark]]], groups: dict[str, str]
) -> "Image.Image":
    """A column for each title and its marks; below them, what the colours mean."""
    from PIL import Image, ImageDraw

    pictures = [mark(image, marks) for _, marks in columns]
    width, height = pictures[0].size
    letters, line = font(16), 28
    whole = Image.new(
        "RGB",
        (len(pictures) * (width + _GAP) - _GAP, height + 2 * line),
        "white",
    )
    pen = ImageDraw.Draw(whole)
    for place, (picture, (title, _)) in enumerate(zip(pictures, columns)):
        left = place * (width + _GAP)
        whole.paste(picture, (left, line))
        pen.text(
            (left + width / 2, line / 2),
            shortened(title, _MOST_LETTERS),
            fill="black",
            font=letters,
            anchor="mm",
        )
    x, middle = 0.0, height + 1.5 * line
    for number, word in enumerate(groups.values()):
        pen.rectangle((x, middle - 7, x + 14, middle + 7), fill=group_colour(number))
        pen.text((x + 20, middle), word, fill="black", font=letters, anchor="lm")
        x += 20 + pen.textlength(word, font=letters) + 28
    return whole


def _encoded(picture: "Image.Image", kind: str) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, quality=85)
    return content.getvalue()


def _caption(analysis: Analysis, names: Sequence[str], threshold: float, scene: Scene) -> str:
    """Who finds what, box by box, by the categories' names."""
    sentences = []
    for box in scene.boxes[:_MOST_NAMED]:
        scores = {name: analysis.profiles[name].found[box] for name in names}
        by = [f"{name} ({score:.2f})" for name, score in scores.items() if score >= threshold]
        others = [name for name, score in scores.items() if score < threshold]
        category = analysis.prepared.categories[analysis.truth.label[box]].name
        sentences.append(f"{category}: found by {' and '.join(by)}, not by {' nor '.join(others)}")
    if len(scene.boxes) > _MOST_NAMED:
        sentences.append(f"and {len(scene.boxes) - _MOST_NAMED} more")
    return "; ".join(sentences) + "."
