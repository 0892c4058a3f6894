"""Pages that show a dataset's images with their objects, as annotated or as a stage trains on them.

The latter come out of the stage's own dataset and sampler, so they are cropped, mirrored and pasted
into as in training, to the pixel.

I images, S objects that Copy-Paste has pasted.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bacl.datasets.content import some
from bacl.datasets.index import Index
from bacl.datasets.prepared import Prepared, Split
from bacl.errors import RunError, UsageError
from bacl_platform.console import Watching, say
from bacl_platform.inference.detector import quiet
from bacl_platform.plan.job import Job, Plan
from bacl_platform.plan.judged import prepared_of
from bacl_platform.report.gallery import Group, Picture, Shelf, Thing, page, picture
from bacl_platform.spec.problems import likely
from bacl_platform.store.disk import disk_errors, write_text
from bacl_platform.store.store import Store

if TYPE_CHECKING:
    from rich.console import Console

_TRIES = 3
"""Images that are tried for each one that is wanted: crops may leave nothing of a category."""


@dataclass(frozen=True)
class Wanted:
    """Which pictures a page has: so many of each category, and so many in all; of the categories
    with these names and in these groups, all where none is named."""

    images: int = 4
    most: int = 240
    categories: Sequence[str] = ()
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class Sample:
    """An image (H, W, 3; blue, green, red) with its things, and what is to be said of it."""

    pixels: NDArray[Any]
    things: Sequence[Thing]
    caption: str


class Unreadable(Exception):
    """An image that cannot be shown; the text names it and says why."""


class Source(Protocol):
    """Where pictures come from."""

    about: Sequence[str]
    """Sentences on what they show."""

    def facts(self, label: int) -> str:
        """How often a category is seen, beyond the dataset's counts; "" where nothing is to say."""
        ...

    def candidates(self, label: int) -> Iterator[int]:
        """What may show a category, in the order to try."""
        ...

    def sample(self, candidate: int) -> Sample:
        """One of them. Raises Unreadable."""
        ...


class Annotated:
    """A split's images as they are annotated; of each category some that `seed` draws."""

    def __init__(self, prepared: Prepared, split: Literal["train", "val"], seed: int) -> None:
        self.split: Split = getattr(prepared, split)
        self.index = Index(self.split.index)
        self.images, self.labels = self.index.presence()
        self.seed = seed
        self.counts = np.bincount(self.labels, minlength=len(prepared.categories))
        self.is_val = split == "val"
        noun = "validation" if self.is_val else "training"
        self.about: Sequence[str] = [
            f"Images of the {noun} split ({len(self.index):,}) as they are annotated, with boxes "
            f"and masks as the file has them; drawn with seed {seed}. Crowds are dashed."
        ]

    def facts(self, label: int) -> str:
        return _count(int(self.counts[label]), "validation image") if self.is_val else ""

    def candidates(self, label: int) -> Iterator[int]:
        from bacl.datasets.samplers import draws

        own = self.images[self.labels == label]
        yield from draws(self.seed, "browse", label).permutation(own).tolist()

    def sample(self, candidate: int) -> Sample:
        from bacl.datasets.decoding import ImageUnreadable, read

        entry = self.index.image(candidate)
        path = Path(self.split.images) / entry.file
        try:
            pixels = read(path)
        except ImageUnreadable as error:
            raise Unreadable(f"{path}: expected a readable image, got {error}") from error
        things = [
            Thing(int(label), [x, y, x + width, y + height], _outlines(mask), "crowd" * bool(crowd))
            for label, (x, y, width, height), crowd, mask in zip(
                entry.labels,
                entry.boxes.tolist(),
                entry.crowd,
                self.index.masks(candidate),
                strict=True,
            )
        ]
        facts = f"id {entry.id}, {entry.width} × {entry.height}, {_count(len(things), 'object')}"
        return Sample(pixels, things, f"{entry.file}: {facts}")


def _outlines(mask: list[NDArray[Any]] | dict[str, Any] | None) -> Any:
    """A mask of the index as a thing has it."""
    if mask is None:
        return None
    if isinstance(mask, dict):
        from pycocotools import mask as coco

        return coco.decode(mask)
    return [polygon.reshape(-1, 2) for polygon in mask]


class Trained:
    """The stream of images that a job trains on, in its order: what the sampler draws, after all
    steps of the pipeline."""

    def __init__(self, job: Job, prepared: Prepared, images: int) -> None:
        """images: how many a category should have; so many epochs are looked through for them."""
        with quiet():
            import bacl.register  # noqa: F401

            # isort: split
            from mmdet.registry import DATA_SAMPLERS, DATASETS
            from mmengine.registry import DefaultScope

        loader = copy.deepcopy(job.config["train_dataloader"])
        inner = loader["dataset"].get("dataset", loader["dataset"])
        loader["dataset"]["pipeline"].pop()  # PackDetInputs, which only sorts what there is
        steps = list(inner["pipeline"])
        steps += loader["dataset"]["pipeline"] if loader["dataset"] is not inner else []
        with DefaultScope.overwrite_default_scope("mmdet"):
            self.dataset = DATASETS.build(loader["dataset"])
            self.sampler = DATA_SAMPLERS.build({**loader["sampler"], "dataset": self.dataset})
        self.masks = _noting_pasted(self.dataset) or getattr(self.dataset, "masks", False)
        self.images, self.labels = self.dataset.presence()
        self.epoch = len(self.dataset)
        length = images * self.epoch
        if "features" not in job.config:  # whose iterations are shards
            length = min(length, job.iterations * loader["sampler"]["batch"])
        drawn = (self.sampler.at(position).index for position in range(length))
        self.stream = np.fromiter(drawn, dtype=np.int64, count=length)
        first = self.stream[: self.epoch]
        times = np.bincount(first, minlength=self.epoch)[self.images]
        self.seen = np.bincount(self.labels, times, len(prepared.categories)).astype(int)
        self.about: Sequence[str] = [
            f"Images as stage {job.stage} trains on them with seed {job.seed}: positions 0 to "
            f"{length - 1:,} of its stream, in which an epoch has {self.epoch:,} images of the "
            f"training split's {prepared.train.image_total:,}. The sampler is "
            f"{_step(loader['sampler'])}.",
            f"Steps: {'; '.join(_step(step) for step in steps)}.",
            "Boxes and masks are those that come out of the last step. "
            + ("" if self.masks else "This stage's steps load no masks, so there are none to see. ")
            + "Crowds, which training ignores, are dashed.",
        ]

    def facts(self, label: int) -> str:
        return f"drawn {self.seen[label]:,} × in the first {min(self.epoch, len(self.stream)):,}"

    def candidates(self, label: int) -> Iterator[int]:
        own = self.images[self.labels == label]
        yield from np.flatnonzero(np.isin(self.stream, own)).tolist()

    def sample(self, candidate: int) -> Sample:
        from bacl.datasets.loading import ImageError

        try:
            found = self.dataset[self.sampler.at(candidate)]
        except ImageError as error:
            raise Unreadable(str(error)) from error
        boxes, labels = found["gt_bboxes"].tensor.tolist(), found["gt_bboxes_labels"].tolist()
        ignored = found["gt_ignore_flags"]
        pasted = len(boxes) - found.get("pasted", 0)
        masks = found["gt_masks"].masks if self.masks else [None] * len(boxes)
        notes = ["crowd: ignored" * bool(flag) for flag in ignored]
        things = [
            Thing(label, box, mask, note or "pasted" * (place >= pasted))
            for place, (label, box, mask, note) in enumerate(
                zip(labels, boxes, masks, notes, strict=True)
            )
        ]
        height, width = found["img_shape"][:2]
        facts = [f"position {candidate:,}", f"{width} × {height}", _count(len(things), "object")]
        facts += [f"{found['pasted']} pasted"] if "pasted" in found else []
        facts += ["mirrored"] if found.get("flip") else []
        return Sample(found["img"], things, f"{Path(found['img_path']).name}: {', '.join(facts)}")


def _noting_pasted(dataset: Any) -> bool:
    """Make Copy-Paste keep masks and say in `pasted` how many objects, the last, it has pasted;
    False of a dataset that does not paste."""
    from bacl.datasets.copy_paste import CopyPasteDataset, QuickCopyPaste

    class Noting(QuickCopyPaste):
        def _copy_paste(
            self, dst_results: dict[str, Any], src_results: dict[str, Any]
        ) -> dict[str, Any]:
            pasted = super()._copy_paste(dst_results, src_results)
            return {**pasted, "pasted": len(src_results["gt_bboxes"])}

    if not isinstance(dataset, CopyPasteDataset):
        return False
    (step,) = dataset.pipeline
    step.__class__, step.keep_masks = Noting, True  # with the step's own options
    return True


def _step(config: dict[str, Any]) -> str:
    """A step of a pipeline or a sampler, with its options, in words."""
    options = ", ".join(f"{name}={value}" for name, value in config.items() if name != "type")
    return f"{config['type']}({options})" if options else config["type"]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def trained(plan: Plan, store: Store, stage: str | None, images: int) -> tuple[Trained, Prepared]:
    """What a stage of a plan trains on, and its dataset. images: of `Trained`."""
    job = job_of_stage(plan, stage)
    prepared = prepared_of(job.dataset_digest, store)
    return Trained(job, prepared, images), prepared


def job_of_stage(plan: Plan, stage: str | None) -> Job:
    """The job whose images are meant, of the plan's first seed: that of the stage, or of the first
    stage that trains on images. Raises UsageError for a stage that sees none."""
    known: dict[str, Job] = {}
    for job in plan.jobs:
        known.setdefault(job.stage, job)
    showing = [name for name in plan.experiment.stages if _shows_images(known[name])]
    if stage is None:
        if not showing:
            raise UsageError(
                f"{plan.experiment.name}: expected a stage that trains on images, found none: "
                "`--as annotated` shows the images as they are"
            )
        return known[showing[0]]
    if stage not in known:
        close = likely(stage, known)
        hint = f" (did you mean `{close}`?)" if close else ""
        raise UsageError(f"--stage: expected one of {', '.join(known)}, got {stage!r}{hint}")
    if stage not in showing:
        why = "replays stored features" if known[stage].replayed else "does not train"
        raise UsageError(
            f"--stage: expected one that trains on images ({', '.join(showing) or 'there is none'})"
            f", got {stage}, which {why}"
        )
    return known[stage]


def _shows_images(job: Job) -> bool:
    loader = job.config.get("train_dataloader")
    return loader is not None and loader["dataset"]["type"] != "StoredFeatures"


def browse(
    source: Source, prepared: Prepared, wanted: Wanted, title: str, out: Path, console: "Console"
) -> list[str]:
    """Write the page to the file `out`, whole or not at all; shows progress.

    Returns a sentence for each image that could not be shown. Raises UsageError for categories and
    groups that the dataset lacks, RunError where nothing can be shown.
    """
    chosen = _chosen(prepared, wanted)
    skipped: dict[str, None] = {}
    shelves: list[Shelf] = []
    of_labels: dict[int, int] = {}
    empty: list[str] = []
    shown, left = 0, 0
    with Watching(console, unit="images") as watching:
        total = min(wanted.most, len(chosen) * wanted.images)
        for number, label in enumerate(chosen):
            room = min(wanted.images, wanted.most - shown)
            if room <= 0:
                left = len(chosen) - number
                break
            pictures = _pictures(source, prepared, label, room, skipped)
            shown += len(pictures)
            watching("drawing", shown, total)
            if pictures:
                of_labels[label] = len(pictures)
                shelves.append(_shelf(source, prepared, label, pictures))
            else:
                empty.append(prepared.categories[label].name)
    if not shelves:
        reasons = f": {some(list(skipped))}" if skipped else ""
        raise RunError(f"expected images of {len(chosen):,} categories, could show none{reasons}")
    about = [
        *source.about,
        f"{shown:,} pictures of {len(shelves):,} categories, rarest first, at most "
        f"{wanted.images} of each"
        + (f"; {left:,} categories more than fit in {wanted.most} pictures" if left else "")
        + (f"; nothing to show of {len(empty):,} ({some(empty)})" if empty else "")
        + ". What stands out is of the category that a picture is shown for; of other things the "
        "name appears where the mouse rests.",
    ]
    text = page(
        title,
        about,
        [
            Group(name, span)
            for name, span in zip(prepared.groups.names, prepared.groups.ranges, strict=True)
        ],
        shelves,
        list(skipped),
        _table(source, prepared, of_labels),
    )
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f".{out.name}.{os.getpid()}")
        write_text(part, text)
        part.replace(out)
    for sentence in skipped:
        say(console, f"left out: {sentence}")
    more = f"; {left:,} more categories: see --group, --category, --most" if left else ""
    say(
        console,
        f"written: {out} ({shown:,} pictures of {len(shelves):,} categories, "
        f"{len(text) / 1e6:.1f} MB){more}",
    )
    return list(skipped)


def _chosen(prepared: Prepared, wanted: Wanted) -> list[int]:
    """Labels of the categories to show, rarest first."""
    categories, groups = prepared.categories, prepared.groups
    for given, known, option in (
        (wanted.groups, groups.names, "--group"),
        (wanted.categories, [category.name for category in categories], "--category"),
    ):
        for one in given:
            if one not in known:
                close = likely(one, known)
                hint = f" (did you mean `{close}`?)" if close else ""
                raise UsageError(f"{option}: expected one of {some(known)}, got {one!r}{hint}")

    def rarity(label: int) -> tuple[int, int]:
        one = categories[label]
        count = one.image_count if groups.by == "images" else one.instance_count
        return groups.names.index(one.frequency), count

    found = [
        label
        for label, category in enumerate(categories)
        if (not wanted.groups or category.frequency in wanted.groups)
        and (not wanted.categories or category.name in wanted.categories)
    ]
    return sorted(found, key=rarity)


def _pictures(
    source: Source, prepared: Prepared, label: int, count: int, skipped: dict[str, None]
) -> list[Picture]:
    """At most so many pictures that show a category; what cannot be read is added to `skipped`."""
    called = [(c.name, prepared.groups.names.index(c.frequency)) for c in prepared.categories]
    found: list[Picture] = []
    for candidate in islice(source.candidates(label), _TRIES * count):
        try:
            sample = source.sample(candidate)
        except Unreadable as error:
            skipped[str(error)] = None
            continue
        if any(thing.label == label for thing in sample.things):
            found.append(picture(sample.pixels, sample.things, label, called, sample.caption))
        if len(found) == count:
            break
    return found


def _shelf(source: Source, prepared: Prepared, label: int, pictures: list[Picture]) -> Shelf:
    category = prepared.categories[label]
    facts = (
        f"{_count(category.image_count, 'training image')}, "
        + _count(category.instance_count, "instance"),
        source.facts(label),
    )
    group = prepared.groups.names.index(category.frequency)
    return Shelf(category.name, group, ", ".join(filter(None, facts)), pictures)


def _table(
    source: Source, prepared: Prepared, shown: dict[int, int]
) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
    """Every category, shown or not, rarest first."""
    head = ("category", "group", "training images", "instances", "seen", "pictures here")
    rows = (
        (
            category.name,
            category.frequency,
            f"{category.image_count:,}",
            f"{category.instance_count:,}",
            source.facts(label),
            f"{shown.get(label, 0)}",
        )
        for label in _chosen(prepared, Wanted())
        for category in [prepared.categories[label]]
    )
    return head, rows
