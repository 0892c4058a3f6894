"""COCO-LT: COCO 2017 made long-tailed, as the authors of SimCal sampled it (Wang et al., 2020).

Their sampled annotation file lies on a file-sharing site, but their repository holds an index of
it: for each category, the training images in which any of its instances was kept, and how many
were kept in all. The index determines the images (99,411) and the counts (666,493 instances, 4 / 24
/ 32 / 20 categories with < 20, 20-400, 400-8000, >= 8000 of them). Where an image has more
instances of a category than could be kept, the index does not say which were kept; here a seeded
draw decides.

- *Crowds* count: the authors' script counts every annotation of an image, and the head categories'
  counts are COCO's own only with crowds (person 262,465). So crowds are drawn like other instances,
  and go to training as regions to be ignored, as in COCO.
- *Other instances* of an image go unlabelled: a category's instances in images that the index does
  not list for it are left out although they are visible, as in the authors' file.
- Images in which nothing was kept are left out.
"""

import hashlib
import io
import json
import pickle
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bacl.errors import UsageError


@dataclass(frozen=True)
class Share:
    """The kept part of a category: its images, and the number of its instances in them."""

    images: frozenset[int]
    instances: int


class _Plain(pickle.Unpickler):
    """Reads dicts, lists, texts and numbers; a pickle that names a class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_index(path: Path) -> dict[int, Share]:
    """The authors' index: label (1 to 80, in the order of COCO's category ids) -> what was kept.

    Raises:
        UsageError: the file is something else, or holds more than plain values.
    """
    try:
        content = _Plain(io.BytesIO(path.read_bytes())).load()
        index = {}
        for label, entry in content.items():
            # the count's key is the authors' spelling
            images, instances = frozenset(entry["img_id"]), entry["isntance_count"]
            if not all(type(value) is int for value in (label, instances, *images)):
                raise TypeError("expected whole numbers")
            index[label] = Share(images, instances)
    except OSError:
        raise
    except Exception as error:  # an unpickler may raise anything for arbitrary bytes
        raise UsageError(
            f"{path}: expected the COCO-LT index, a pickle of plain dicts, lists and numbers: "
            f"{error}"
        ) from error
    if sorted(index) != list(range(1, len(index) + 1)):
        raise UsageError(f"{path}: expected labels 1 to {len(index)}, got others")
    return index


def sample(coco: dict[str, Any], index: dict[int, Share], seed: int) -> dict[str, Any]:
    """COCO's training annotations thinned to the images and counts in the index.

    In every listed image the category keeps at least one instance; what then is left of its count
    goes to instances drawn from all the others in those images. The draw orders annotations by a
    hash of (seed, id), so it is the same on every machine.

    Args:
        coco: content of `instances_train2017.json`.

    Raises:
        UsageError: the annotations lack an image, or instances, that the index has.
    """
    categories = sorted(category["id"] for category in coco["categories"])
    _check_labels(categories, index)
    found: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for annotation in coco["annotations"]:
        found[annotation["category_id"], annotation["image_id"]].append(annotation)
    kept: set[int] = set()
    problems = []
    for label, category in enumerate(categories, start=1):
        share, rest = index[label], []
        lost = [image for image in share.images if (category, image) not in found]
        if lost:
            problems.append(f"category {category}: none in {len(lost)} of its images")
            continue
        for image in share.images:
            first, *others = sorted(found[category, image], key=lambda a: _rank(seed, a))
            kept.add(first["id"])
            rest += others
        more = share.instances - len(share.images)
        if not 0 <= more <= len(rest):
            problems.append(
                f"category {category}: {len(share.images) + len(rest)} instances in "
                f"{len(share.images)} images, the index says {share.instances}"
            )
            continue
        kept.update(a["id"] for a in sorted(rest, key=lambda a: _rank(seed, a))[:more])
    if problems:
        raise UsageError(_unlike("COCO's training annotations", problems))
    return _content(coco, (a for a in coco["annotations"] if a["id"] in kept), index)


def authors_own(
    sampled: dict[str, Any], coco: dict[str, Any], index: dict[int, Share]
) -> dict[str, Any]:
    """The authors' sampled annotations, with COCO's categories and images, if the index agrees.

    Args:
        sampled: content of `train_coco2017_LT_sampled.json`.
        coco: content of `instances_train2017.json`, or any with its categories and images.

    Raises:
        UsageError: the counts or images of some categories differ from the index.
    """
    categories = sorted(category["id"] for category in coco["categories"])
    _check_labels(categories, index)
    instances = Counter(annotation["category_id"] for annotation in sampled["annotations"])
    images = defaultdict(set)
    for annotation in sampled["annotations"]:
        images[annotation["category_id"]].add(annotation["image_id"])
    problems = [
        f"category {category}: {instances[category]} instances in {len(images[category])} images, "
        f"the index says {index[label].instances} in {len(index[label].images)}"
        for label, category in enumerate(categories, start=1)
        if instances[category] != index[label].instances or images[category] != index[label].images
    ]
    problems += [f"category {number}: COCO has none" for number in set(instances) - set(categories)]
    known = {image["id"] for image in coco["images"]}
    if lost := {a["image_id"] for a in sampled["annotations"]} - known:
        problems.append(f"{len(lost)} images that COCO has not")
    if problems:
        raise UsageError(_unlike("the authors' COCO-LT annotations", problems))
    return _content(coco, sampled["annotations"], index)


def _check_labels(categories: list[int], index: dict[int, Share]) -> None:
    if len(categories) != len(index):
        raise UsageError(f"COCO-LT: expected {len(index)} categories, got {len(categories)}")


def _unlike(what: str, problems: list[str]) -> str:
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return f"{what}: expected what the COCO-LT index says; {'; '.join(problems[:5])}{more}"


def _rank(seed: int, annotation: dict[str, Any]) -> bytes:
    return hashlib.sha256(f"{seed} {annotation['id']}".encode()).digest()


def _content(
    coco: dict[str, Any], annotations: Iterable[dict[str, Any]], index: dict[int, Share]
) -> dict[str, Any]:
    """A COCO file of the annotations and their images; categories say the index's counts.

    The counts are written because frequency groups depend on them and they include crowds; counts
    that a file does not give are computed without crowds.
    """
    kept = list(annotations)
    shown = {annotation["image_id"] for annotation in kept}
    ordered = sorted(coco["categories"], key=lambda category: category["id"])
    return {
        "images": [image for image in coco["images"] if image["id"] in shown],
        "annotations": kept,
        "categories": [
            {
                **category,
                "image_count": len(index[label].images),
                "instance_count": index[label].instances,
            }
            for label, category in enumerate(ordered, start=1)
        ],
    }


def read(path: Path) -> dict[str, Any]:
    """A COCO annotation file.

    Raises:
        UsageError: it is no JSON with images, annotations and categories.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: expected COCO JSON: {error}") from error
    lists = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in lists):
        raise UsageError(f"{path}: expected COCO JSON with {', '.join(lists)}")
    return content
