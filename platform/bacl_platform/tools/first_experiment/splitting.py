"""Division of a data set that has no validation split, so that rare categories are in both parts.

Images are drawn category by category, the rarest first (iterative stratification, Sechidis et al.
2011, with a training image kept of every category). Images that Roboflow has made of one photograph
stay together.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bacl.errors import UsageError

SHARE = 0.2
"""Share of the images of each category that becomes the validation split."""


def split(path: Path, folder: Path, seed: int) -> tuple[Path, Path]:
    """Divide an annotation file's images; writes `train.json` and `val.json` in `folder`, which is
    made, and returns both.

    Each has all categories, and all fields as the file has them. A category of a single image is in
    the training split alone. Raises UsageError where no category has two images.
    """
    with path.open(encoding="utf-8-sig") as file:
        content = json.load(file)
    by_image: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[_key(annotation.get("image_id"))].append(annotation)
    units: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for image in content["images"]:
        units[_photograph(image)].append(image)
    names = sorted(units)
    shown = [
        {
            _key(annotation.get("category_id"))
            for image in units[name]
            for annotation in by_image[_key(image.get("id"))]
            if str(annotation.get("iscrowd", 0)) not in ("1", "True")
        }
        for name in names
    ]
    val = drawn(shown, seed)
    if not val:
        raise UsageError(
            f"{path}: expected a category with two images, so that one can be trained on and one "
            "judged by, got none; add images, or name a validation file with --val"
        )
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "train.json", folder / "val.json"
    for part, file_name in ((False, files[0]), (True, files[1])):
        images = [i for n, name in enumerate(names) if (n in val) == part for i in units[name]]
        own = {
            **content,
            "images": images,
            "annotations": [a for image in images for a in by_image[_key(image.get("id"))]],
        }
        own["categories"] = [_uncounted(category) for category in content["categories"]]
        file_name.write_text(json.dumps(own), encoding="utf-8")
    return files


def drawn(shown: list[set[str]], seed: int) -> set[int]:
    """Places of the images that are for validation.

    shown: the categories in each image. Of a category's n images, n * SHARE are drawn, but at least
    one and, for training, never all; of the images without any, the same share.
    """
    order = np.random.default_rng(seed).permutation(len(shown)).tolist()
    total = Counter(category for own in shown for category in own)
    left = Counter(total)  # images of each category that are in the training split so far
    val: set[int] = set()
    for category in sorted(total, key=lambda name: (total[name], name)):
        wanted = max(1, round(SHARE * total[category]))
        for place in order:
            if total[category] - left[category] >= wanted:
                break
            own = shown[place]
            if place in val or category not in own or any(left[one] == 1 for one in own):
                continue
            val.add(place)
            left.subtract(own)
    empty = [place for place in order if not shown[place]]
    return val | set(empty[: round(SHARE * len(empty))]) if val else val


def _photograph(image: Mapping[str, Any]) -> str:
    """The name of what an image was made from: Roboflow calls augmented copies of one photograph
    `NAME.rf.DIGITS.jpg`; other images are by themselves."""
    name = str(image.get("file_name") or "")
    source, roboflow, _ = name.partition(".rf.")
    return source if roboflow else _key(image.get("id"))


def _key(number: Any) -> str:
    """An id as text: 7 and "7" are the same image to readers of annotations."""
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    return str(number)


def _uncounted(category: Any) -> Any:
    """A category without counts of the whole set, which are not those of its training split."""
    if not isinstance(category, dict):
        return category
    counts = ("image_count", "instance_count", "frequency")
    return {name: value for name, value in category.items() if name not in counts}
