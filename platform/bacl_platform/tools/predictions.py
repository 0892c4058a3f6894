"""Files of what was detected in many images and videos, written from a folder's journal one entry
at a time.

An entry of an image has `size` (width, height) and `detections`, as `Detections.as_json` gives
them; one of a video has `frames`, the name of a file with a line for each frame.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.categories import Id
from bacl.datasets.content import some
from bacl.errors import UsageError
from bacl_platform.report.pages import html_page
from bacl_platform.texts import html
from bacl_platform.tools.inputs import Input

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared

Entries = Iterable[Mapping[str, Any]]

FORMATS = {
    "json": "predictions.json",
    "coco": "results.json",
    "lvis": "lvis_results.json",
    "csv": "predictions.csv",
    "html": "predictions.html",
}
"""Files by what they are called for."""
OF_A_DATASET = ("coco", "lvis")
"""Formats in which images have the ids of a dataset."""
_COLUMNS = ("image", "frame", "category", "category_id", "label", "score", "x1", "y1", "x2", "y2")


@dataclass(frozen=True)
class Ids:
    """What a dataset calls images and categories: ids and sizes (width, height) of images by the
    name of their input, ids of categories by the detector's label, None of foreign ones."""

    images: Mapping[str, Id]
    sizes: Mapping[str, tuple[int, int]]
    categories: Sequence[Id | None]


def match(inputs: Sequence[Input], prepared: "Prepared", labels: NDArray[Any]) -> Ids:
    """Find inputs among a dataset's validation images: by their path, else by their name or, where
    several have it, by as many of the folders before it as tell them apart.

    labels: the dataset's of each of the detector's, -1 of foreign ones. Raises UsageError that
    names the inputs which are not among the images.
    """
    from bacl.datasets.index import Index

    index, folder = Index(prepared.val.index), Path(prepared.val.images)
    entries = [index.image(place) for place in range(len(index))]
    by_name: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        by_name.setdefault(Path(entry.file).name, []).append(place)
    images, sizes, others = {}, {}, []
    for one in inputs:
        path = Path(one.name)
        places = by_name.get(path.name, []) if one.kind == "image" else []
        if len(places) > 1:
            resolved = path.resolve()
            exact = [p for p in places if (folder / entries[p].file).resolve() == resolved]
            ending = [p for p in places if _ends_with(resolved, entries[p].file)]
            places = exact or ending
        if len(places) != 1:
            others.append(one.name)
            continue
        entry = entries[places[0]]
        images[one.name], sizes[one.name] = entry.id, (entry.width, entry.height)
    if others:
        raise UsageError(
            f"--format coco and lvis: expected images of the validation split, by their names, got "
            f"{len(others):,} of {len(inputs):,} that are none or may be several of it "
            f"({some(others)})"
        )
    times = Counter(images.values())
    if twice := [name for name, one in images.items() if times[one] > 1]:
        raise UsageError(
            f"--format coco and lvis: expected each image once, got several of one ({some(twice)})"
        )
    known = prepared.categories
    return Ids(images, sizes, [known[label].id if label >= 0 else None for label in labels])


def _ends_with(path: Path, file: str) -> bool:
    parts = Path(file).parts
    return path.parts[-len(parts) :] == parts


@contextmanager
def _written(path: Path) -> Iterator[TextIO]:
    """A text file that is there as a whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write(
    kind: str, path: Path, entries: Entries, facts: Mapping[str, Any], ids: Ids | None
) -> None:
    """Write a file in a format.

    facts: what `predictions.json` begins with. ids: of the dataset, for `OF_A_DATASET`.
    """
    if kind in OF_A_DATASET:
        assert ids is not None
        _results(path, entries, ids, kind == "lvis")
    else:
        _WRITERS[kind](path, entries, facts)


def _json(path: Path, entries: Entries, facts: Mapping[str, Any]) -> None:
    """The facts, `images`, and `videos` where there are any."""
    videos = []
    with _written(path) as file:
        head = json.dumps(dict(facts), indent=1).removesuffix("\n}")
        file.write(f'{head},\n "images": [')
        between = "\n  "
        for entry in entries:
            if "frames" in entry:
                videos.append({"video": entry["name"], **_without(entry, "name", "stamp")})
                continue
            one = {
                "image": entry["name"],
                "picture": entry["picture"],
                "detections": entry["detections"],
            }
            file.write(between + json.dumps(one))
            between = ",\n  "
        file.write("\n ]")
        if videos:
            file.write(f',\n "videos": {json.dumps(videos)}')
        file.write("\n}\n")


def _without(entry: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in names}


def _results(path: Path, entries: Entries, ids: Ids, lvis: bool) -> None:
    """A list of results as COCO and LVIS take it; LVIS's has no more of an image than LVIS
    judges."""
    from bacl.evaluation import MAX_DETECTIONS

    with _written(path) as file:
        file.write("[")
        between = "\n"
        for entry in entries:
            found = sorted(entry["detections"], key=lambda one: -one["score"])
            for one in found[: MAX_DETECTIONS if lvis else None]:
                category = ids.categories[one["label"]]
                if category is None:
                    continue
                x1, y1, x2, y2 = np.array(one["box"], dtype=np.float32)  # as they were detected
                result = {
                    "image_id": ids.images[entry["name"]],
                    "category_id": category,
                    "bbox": [float(side) for side in (x1, y1, x2 - x1, y2 - y1)],
                    "score": one["score"],
                }
                if "mask" in one:
                    result["segmentation"] = one["mask"]
                file.write(between + json.dumps(result))
                between = ",\n"
        file.write("\n]\n")


def _csv(path: Path, entries: Entries, _: Mapping[str, Any]) -> None:
    """A row for each detection, without masks; images have no frame."""
    with _written(path) as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for entry in entries:
            for frame, detections in _frames(path.parent, entry):
                for one in detections:
                    facts = [one[name] for name in ("category", "category_id", "label", "score")]
                    writer.writerow([entry["name"], frame, *facts, *one["box"]])


def _frames(folder: Path, entry: Mapping[str, Any]) -> Iterator[tuple[int | None, Any]]:
    """The number and the detections of each frame; of an image None and its detections."""
    if "frames" not in entry:
        yield None, entry["detections"]
        return
    with (folder / entry["frames"]).open(encoding="utf-8") as file:
        for line in file:
            frame = json.loads(line)
            yield frame["frame"], frame["detections"]


_LOOKS = """<style>
body { max-width: 112rem; }
form { position: sticky; top: 0; background: #fff; padding: .6rem 0; z-index: 1;
       border-bottom: 1px solid #ccc; }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.pictures figure { margin: 0; width: 26rem; }
figcaption { overflow-wrap: anywhere; }
</style>
<form><label>only with <input type="search" placeholder="part of a category's name"></label>
<output></output></form><div class="pictures">"""

_SCRIPT = """</div><script>
const shown = document.querySelector("output"), wanted = document.querySelector("input");
const figures = [...document.querySelectorAll("figure")];
function choose() {
  const part = wanted.value.trim().toLowerCase();
  for (const one of figures) one.hidden = !one.dataset.names.toLowerCase().includes(part);
  shown.value = `${figures.filter(one => !one.hidden).length} of ${figures.length} shown`;
}
document.querySelector("form").addEventListener("submit", event => event.preventDefault());
wanted.addEventListener("input", choose);
choose();
</script>"""


def _html(path: Path, entries: Entries, facts: Mapping[str, Any]) -> None:
    """A page of the pictures, which lie beside it, and of what is in each."""
    about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items())

    def parts() -> Iterator[str]:
        yield f"<p>{html(about)}</p>{_LOOKS}"
        for entry in entries:
            counts: dict[str, int] = {}
            for _, detections in _frames(path.parent, entry):
                for one in detections:
                    counts[one["category"]] = counts.get(one["category"], 0) + 1
            most = sorted(counts.items(), key=lambda item: -item[1])
            said = ", ".join(f"{name} × {count:,}" for name, count in most) or "nothing"
            address = quote(entry["picture"])
            if "frames" in entry:
                name = html(entry["picture"])
                shown = f'<a href="{address}">{name}</a> ({entry["frame_count"]:,} frames)'
            else:
                shown = f'<a href="{address}"><img loading="lazy" src="{address}" alt=""></a>'
            yield (
                f'<figure data-names="{html(" ".join(counts))}">{shown}'
                f"<figcaption>{html(entry['name'])}: {html(said)}</figcaption></figure>"
            )
        yield _SCRIPT

    with _written(path) as file:
        file.write(html_page("Detections", parts()))


_WRITERS: dict[str, Callable[[Path, Entries, Mapping[str, Any]], None]] = {
    "json": _json,
    "csv": _csv,
    "html": _html,
}
