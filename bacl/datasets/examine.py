"""Reading and checking of a dataset's two splits, before anything is written."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bacl import settings
from bacl.datasets import boxes, images, reading, segmentations
from bacl.datasets.categories import Category, Id
from bacl.datasets.content import Content, Tally, some
from bacl.datasets.formats import FORMATS
from bacl.datasets.images import Look
from bacl.datasets.plain import plain
from bacl.datasets.prepared import Source, sources_of
from bacl.datasets.sources import located
from bacl.errors import UsageError
from bacl.watch import Watch, unwatched


@dataclass
class Examined:
    """A split as its file has it: well-formed, but its values may make no sense.

    evaluation: `lvis` or `coco` rules. annotations, images: the file and the folder. files: the
    file of each image, relative to the folder; "" where it is missing. looks: content of each file;
    None where it is missing or was not read. wrong, left_out: annotation ids by what is wrong with
    their masks, and by what was left out of them.
    """

    name: Literal["train", "val"]
    evaluation: Literal["lvis", "coco"]
    annotations: Path
    images: Path
    content: Content
    files: list[str]
    looks: Sequence[Look | None]
    wrong: Tally
    left_out: Tally

    def odd(self) -> Iterator[str]:
        """Sentences about irregular masks, boxes, images and names."""
        yield from self.left_out
        yield from boxes.examine(self.content, self.annotations, self.name, self.evaluation)
        if sentence := images.twice(self.content.images, self.files):
            yield f"{self.annotations.name}: images: {sentence}"
        if self.content.strange:
            yield self.content.strange
        if self.name == "train":
            yield from same_names(self)


def examine(
    dataset: settings.Dataset,
    cache: Path,
    problems: list[str],
    watch: Watch = unwatched,
    look: bool = True,
    folders: images.Folders | None = None,
) -> tuple[Examined, Examined]:
    """Read and check the training and the validation split without writing a prepared dataset.

    Missing images, and what is wrong with images, masks and boxes, is appended to `problems` in
    sentences. The embedded set is made in `cache`, and what was found in images is kept there.

    Args:
        watch: receives the progress of reading images.
        look: whether to read the images; otherwise only their existence is checked.
        folders: records the files that exist.

    Raises:
        UsageError: an annotation file cannot be read; one sentence a line.
    """
    dataset = plain(dataset, cache)
    sources = sources_of(dataset)
    there = folders or images.Folders()
    annotated = dataset.sizes == "annotated"
    evaluation = FORMATS[dataset.format].evaluation

    def examined(name: Literal["train", "val"], source: Source, content: Content) -> Examined:
        path, folder = source.annotations, source.images
        files, missing = images.find(content, path, folder, there)
        looks: Sequence[Look | None] = [None] * len(files)
        if look or not annotated:
            looks = images.look(folder, files, there, cache, watch)
        own = [missing] * bool(missing)
        own += images.problems(content.images, files, looks, folder, annotated)
        if not annotated:
            for image, seen in zip(content.images, looks, strict=True):
                # what is missing or cannot be read is a problem already, and needs some size
                image["width"] = (seen and seen.width) or reading.LARGEST
                image["height"] = (seen and seen.height) or reading.LARGEST
        masks = segmentations.understand(content)
        wrong, left_out = (Tally(path.name, "annotation", ids) for ids in masks)
        problems.extend([*own, *wrong, *boxes.problems(content, path)])
        return Examined(name, evaluation, path, folder, content, files, looks, wrong, left_out)

    first, second = _read(dataset, *sources)
    return examined("train", sources[0], first), examined("val", sources[1], second)


def synsets(dataset: settings.Dataset, cache: Path) -> dict[str, str]:
    """WordNet's name for each category that has one, by the category's name; LVIS gives them.

    They are read from the validation split's file, which is the smaller one; `prepare` has checked
    that both files have the same categories. Raises UsageError where it cannot be read.
    """
    dataset = plain(dataset, cache)
    _, val = sources_of(dataset)
    problems: list[str] = []
    content = reading.read(
        val.annotations,
        problems,
        form=FORMATS[dataset.format],
        federated=False,
        counted=True,
        sized=False,
    )
    stop(problems)
    assert content  # or there were problems
    found = [(item["name"], item.get("synset")) for item in content.categories]
    return {name: synset for name, synset in found if isinstance(synset, str)}


def _read(dataset: settings.Dataset, train: Source, val: Source) -> tuple[Content, Content]:
    """Contents of the two annotation files; raises UsageError where one cannot be read."""
    problems: list[str] = []
    form = FORMATS[dataset.format]
    first, second = (
        reading.read(
            source.annotations,
            problems,
            form=form,
            federated=form.evaluation == "lvis" and source is val,
            counted=dataset.groups is not None,
            sized=dataset.sizes == "annotated",
        )
        for source in (train, val)
    )
    stop(problems)
    assert first and second  # or there were problems
    first.categories = reading.by_label(first.categories)
    _check_categories(first, second, train, val, problems)
    for content, source in ((first, train), (second, val)):
        reading.relate(content, first.categories, source.annotations, problems)
    stop(problems)
    return first, second


def stop(problems: list[str]) -> None:
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)))


def _check_categories(
    train: Content, val: Content, train_source: Source, val_source: Source, problems: list[str]
) -> None:
    names = {category["id"]: category["name"] for category in train.categories}
    unknown = [
        f"{category['id']!r} ({category['name']})"
        for category in val.categories
        if category["id"] not in names
    ]
    if unknown:
        problems.append(
            f"{val_source.annotations}: categories: expected those of {train_source.annotations}, "
            f"which has no {some(unknown)}"
        )
    renamed = [
        f"{category['id']!r} ({names[category['id']]} and {category['name']})"
        for category in val.categories
        if names.get(category["id"], category["name"]) != category["name"]
    ]
    if renamed:
        problems.append(
            f"{val_source.annotations}: categories: expected the names of "
            f"{train_source.annotations}, they differ in {some(renamed)}"
        )


def same_names(split: Examined) -> Iterator[str]:
    """A sentence about categories that share a name, which are trained as separate categories; or
    none."""
    ids: dict[str, list[Id]] = {}
    for category in split.content.categories:
        ids.setdefault(category["name"], []).append(category["id"])
    shared = [f"{name} (ids {some(map(repr, own))})" for name, own in ids.items() if len(own) > 1]
    if shared:
        yield (
            f"{split.annotations.name}: categories: {len(shared):,} names belong to several "
            "categories, which are trained and evaluated apart; give each a name of its own, or "
            f"merge them: "
            f"{some(shared)}"
        )


def category_counts(dataset: settings.Dataset, train: Examined) -> list[Category]:
    """Categories by label with their counts and groups, the same as `prepare` writes."""
    groups = located(dataset).groups or settings.Groups()
    usable = Content([], boxes.trained(train.content), train.content.categories)
    return categories_of(usable, groups, [])


def categories_of(content: Content, groups: settings.Groups, warnings: list[str]) -> list[Category]:
    """Categories by label, with counts from the annotations, without crowds, where the file gives
    none."""
    single = [a for a in content.annotations if not a.get("iscrowd")]
    instances = Counter(annotation["label"] for annotation in single)
    shown = Counter(label for label, _ in {(a["label"], a["image"]) for a in single})
    categories = []
    for label, item in enumerate(content.categories):
        image_count = item.get("image_count", shown[label])
        instance_count = item.get("instance_count", instances[label])
        categories.append(
            Category(
                id=item["id"],
                name=item["name"],
                image_count=image_count,
                instance_count=instance_count,
                frequency=item.get("frequency") or groups.name(image_count, instance_count),
            )
        )
    unseen = [category.name for label, category in enumerate(categories) if not shown[label]]
    if unseen:
        warnings.append(f"{len(unseen)} categories have no training image: {some(unseen)}")
    return categories
