"""Detects objects in images and videos with an exported variant, draws them and writes them down.

Images go through one after the other, so that memory stays flat, and what is done is noted in a
journal, `bacl_platform.tools.journal`, from which the files of results are written at the end.
"""

import hashlib
import json
import time
from collections import deque
from collections.abc import Iterator, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import bacl
from bacl.datasets.content import some
from bacl.datasets.decoding import ImageUnreadable, decode
from bacl.datasets.index import Index
from bacl.digests import sha256
from bacl.errors import RunError, UsageError
from bacl_platform.console import Watching, say
from bacl_platform.inference.detections import SHOWN, Detections, draw
from bacl_platform.inference.detector import Detector
from bacl_platform.inference.images import as_pixels
from bacl_platform.inference.remote import fetch_image
from bacl_platform.report.drawing import as_picture
from bacl_platform.spec.problems import one_of
from bacl_platform.store.disk import disk_errors
from bacl_platform.tools import predictions
from bacl_platform.tools.evaluate import labels_of
from bacl_platform.tools.inputs import Input, find_inputs
from bacl_platform.tools.journal import Journal
from bacl_platform.tools.videos import Video, VideoFile

if TYPE_CHECKING:
    from rich.console import Console

    from bacl.datasets.prepared import Prepared


@dataclass(frozen=True)
class Wanted:
    """What is written: detections from a score on, in these formats, with pictures or without.

    batch: images that pass the detector together; None is the detector's own. optimize: compile the
    detector's networks, see `Detector.load`. prepared: the dataset
    whose ids images have in COCO's and LVIS's formats; its validation images are the input where
    nothing else is.
    """

    threshold: float = SHOWN
    formats: Sequence[str] = ("json",)
    pictures: bool = True
    batch: int | None = None
    optimize: bool = False
    prepared: "Prepared | None" = None


def predict(
    words: Sequence[str],
    checkpoint: Path,
    config: Path,
    out: Path,
    wanted: Wanted,
    device: str | None,
    console: "Console",
) -> None:
    """Write what is detected in the images and videos that `words` mean to the folder `out`.

    After an interruption the same call goes on: an image is passed over if it, the checkpoint, its
    configuration and the threshold are as they were. config is Python, and reading it runs it; the
    checkpoint is read as tensors and plain values. device: as torch names it; None takes a GPU
    where there is one.

    Raises UsageError for what cannot be used, before anything is written; RunError for a checkpoint
    that is broken or does not fit its configuration, and, when all else is done, for images of
    folders, patterns and addresses that could not be read.
    """
    inputs = _inputs(words, out, wanted)
    files = _picture_files(inputs, out)
    detector = Detector.load(checkpoint, config, device, wanted.optimize)
    ids = _ids(inputs, detector, checkpoint, wanted)
    key = {
        "checkpoint": sha256(checkpoint),
        "config": sha256(config),
        "score_threshold": wanted.threshold,
        "version": bacl.__version__,
    }
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        with Journal.opened(out, key) as journal:
            if ids is not None and wanted.threshold > 0:
                say(
                    console,
                    f"remark: detections that score less than {wanted.threshold} are left out, "
                    "which lowers AP: --score-threshold 0 keeps all",
                )
            if journal.begun_anew:
                say(console, f"{out}: what another detector or threshold has made is done anew")
            work = _Work(detector, journal, files, wanted, ids, console)
            work.do(inputs)
            facts = {"checkpoint": str(checkpoint), "score_threshold": wanted.threshold}
            for kind in wanted.formats:
                file = out / predictions.FORMATS[kind]
                predictions.write(kind, file, work.entries(inputs), facts, ids)
    work.say_end(inputs, out)


@dataclass(frozen=True)
class _Read:
    """An image that was read. stamp: what tells it from a later one of its name."""

    input: Input
    stamp: Any
    pixels: NDArray[np.uint8]


class _Work:
    """Detecting in inputs, one after the other.

    files: of each input's picture or video. failed: a sentence by the name of each that could not
    be read.
    """

    def __init__(
        self,
        detector: Detector,
        journal: Journal,
        files: dict[str, Path],
        wanted: Wanted,
        ids: predictions.Ids | None,
        console: "Console",
    ) -> None:
        self.detector, self.journal, self.files, self.wanted = detector, journal, files, wanted
        self.ids, self.console = ids, console
        self.failed: dict[str, str] = {}
        self.before = self.now = 0
        """Inputs that an earlier call has done, and that this one has."""
        self.frames = 0
        self.seconds = 0.0

    def do(self, inputs: Sequence[Input]) -> None:
        """Detect in what is not done yet; shows progress."""
        begun = time.monotonic()
        with Watching(self.console, unit="images") as self.watching:
            for videos, some_ in groupby(inputs, lambda one: one.kind == "video"):
                if not videos:
                    self._images(list(some_))
                    continue
                for one in some_:
                    try:
                        self._video(one)
                    except UsageError as error:
                        self._fail(one, error)
        self.seconds = time.monotonic() - begun

    def _images(self, inputs: Sequence[Input]) -> None:
        """Detect in images; one that the detector refuses is left out, and all others go on."""
        waiting: deque[_Read] = deque()
        rest = self._readable(inputs, waiting)
        while True:
            again = list(waiting)
            waiting.clear()

            def handed(again: Sequence[_Read] = again) -> Iterator[NDArray[np.uint8]]:
                for image in chain(again, rest):
                    waiting.append(image)
                    yield image.pixels

            try:
                for found in self.detector.detect(handed(), self.wanted.batch):
                    self._image(waiting.popleft(), found.above(self.wanted.threshold))
                return
            except UsageError as error:  # on the image that was handed over last
                self._fail(waiting.pop().input, error)

    def _readable(self, inputs: Sequence[Input], waiting: Sized) -> "Iterator[_Read]":
        """The images that are not done and can be read; shows progress, less those that wait."""
        for place, one in enumerate(inputs, start=1):
            try:
                read = self._read(one)
            except UsageError as error:
                self._fail(one, error)
                continue
            if read is not None:
                yield read
            self.watching("detecting", place - len(waiting), len(inputs))

    def _read(self, one: Input) -> "_Read | None":
        """An image; None if it is done."""
        if one.kind == "address":
            content = fetch_image(one.address)
            stamp: Any = hashlib.sha256(content).hexdigest()
            if self._is_done(one, stamp):
                return None
            try:
                return _Read(one, stamp, decode(content))
            except ImageUnreadable as error:
                raise UsageError(f"{one.name}: expected an image, got {error}") from error
        stamp = _stamp(Path(one.name))
        if self._is_done(one, stamp):
            return None
        pixels = as_pixels(one.name)
        if self.ids is not None:
            expected, (height, width) = self.ids.sizes[one.name], pixels.shape[:2]
            if (width, height) != expected:
                raise UsageError(
                    f"{one.name}: expected {expected[0]} × {expected[1]} pixels as the dataset has "
                    f"them, got {width} × {height}"
                )
        return _Read(one, stamp, pixels)

    def _is_done(self, one: Input, stamp: Any) -> bool:
        picture = self.files[one.name].name if self.wanted.pictures else None
        done = self.journal.holds(one.name, stamp, picture)
        self.before += done
        return done

    def _image(self, read: "_Read", found: Detections) -> None:
        """Draw and note what was found in an image."""
        one = read.input
        picture = None
        if self.wanted.pictures:
            file = self.files[one.name]
            part = file.with_name(f".{file.stem}.part{file.suffix}")
            draw(as_picture(read.pixels), list(found)).save(part)
            part.replace(file)
            picture = file.name
        content = {"size": found.size, "detections": found.as_json()}
        self.journal.add(one.name, read.stamp, picture, len(found), content)
        self.now += 1
        self.frames += 1

    def _video(self, one: Input) -> None:
        """Draw and note what was found in a video's frames, if it is not done."""
        stamp = _stamp(Path(one.name))
        if self._is_done(one, stamp):
            return
        file = self.files[one.name]
        listed = file.with_suffix(".frames.jsonl")
        part = listed.with_name(f".{listed.name}.part")
        number = objects = 0
        with Video(Path(one.name)) as video, ExitStack() as stack:
            drawn = None
            if self.wanted.pictures:
                drawn = stack.enter_context(VideoFile(file, video.fps))
            waiting: deque[NDArray[np.uint8]] = deque()

            def frames() -> Iterator[NDArray[np.uint8]]:
                for frame in video.frames():
                    waiting.append(frame)
                    yield frame

            with part.open("w", encoding="utf-8") as lines:
                for found in self.detector.detect(frames(), self.wanted.batch):
                    found, frame = found.above(self.wanted.threshold), waiting.popleft()
                    if drawn is not None:
                        picture = draw(as_picture(frame), list(found))
                        drawn.add(np.ascontiguousarray(np.asarray(picture)[..., ::-1]))
                    facts = {"frame": number, "seconds": round(number / video.fps, 6)}
                    lines.write(json.dumps({**facts, "detections": found.as_json()}) + "\n")
                    number, objects = number + 1, objects + len(found)
                    self.watching(one.name, number, max(video.announced, number))
        part.replace(listed)
        if number < video.announced:
            say(self.console, f"{one.name}: {number:,} of {video.announced:,} frames were decoded")
        content = {"frames": listed.name, "frame_count": number, "fps": video.fps}
        picture_name = file.name if self.wanted.pictures else None
        self.journal.add(one.name, stamp, picture_name, objects, content)
        self.now += 1
        self.frames += number

    def _fail(self, one: Input, error: UsageError) -> None:
        text = str(error)
        self.failed[one.name] = text if one.name in text else f"{one.name}: {text}"
        say(self.console, f"left out: {self.failed[one.name]}")

    def entries(self, inputs: Sequence[Input]) -> Iterator[dict[str, Any]]:
        """What is done of the inputs, in their order; without pictures where none are wanted."""
        for one in inputs:
            if one.name not in self.failed:
                entry = self.journal[one.name]
                yield entry if self.wanted.pictures else {**entry, "picture": None}

    def say_end(self, inputs: Sequence[Input], out: Path) -> None:
        """Say what is there now. Raises RunError that names what could not be read."""
        good = [one for one in inputs if one.name not in self.failed]
        videos = sum(one.kind == "video" for one in good)
        objects = sum(self.journal.objects(one.name) for one in good)
        images = len(good) - videos
        counts = [f"{images:,} image{'s' * (images != 1)}"] if images or not videos else []
        counts += [f"{videos:,} video{'s' * (videos != 1)}"] if videos else []
        made = ["pictures"] * self.wanted.pictures
        made += [predictions.FORMATS[kind] for kind in self.wanted.formats]
        written = " and ".join(filter(None, [", ".join(made[:-1]), made[-1]]))
        found = f"{objects:,} object{'s' * (objects != 1)} in {' and '.join(counts)}"
        say(self.console, f"{found}: {written} in {out}")
        speed = f", {self.frames / self.seconds:.1f} images/s" if self.frames else ""
        before = f"{self.before:,} were done before, " if self.before else ""
        say(self.console, f"{before}{self.now:,} now{speed}")
        if self.failed:
            raise RunError(
                f"{len(self.failed):,} of {len(inputs):,} could not be read and are left out "
                f"({some(list(self.failed))}); all else is done"
            )


def _inputs(words: Sequence[str], out: Path, wanted: Wanted) -> list[Input]:
    """What there is to detect in. Raises UsageError for what cannot be used or does not fit."""
    for kind in wanted.formats:
        if kind not in predictions.FORMATS:
            raise UsageError(f"--format: expected {one_of(predictions.FORMATS)}, got {kind!r}")
    of_dataset = [kind for kind in wanted.formats if kind in predictions.OF_A_DATASET]
    if of_dataset and wanted.prepared is None:
        raise UsageError(
            f"--format {of_dataset[0]}: expected --data NAME|FILE, whose validation images have "
            "the ids"
        )
    if "html" in wanted.formats and not wanted.pictures:
        raise UsageError("--format html: expected pictures to show, got --no-pictures")
    if words:
        return find_inputs(words, out)
    if wanted.prepared is None:
        raise UsageError("expected images, folders, patterns, videos or addresses, got none")
    index, folder = Index(wanted.prepared.val.index), Path(wanted.prepared.val.images)
    places = range(len(index))
    return [Input(str(folder / index.image(place).file), "image") for place in places]


def _ids(
    inputs: Sequence[Input], detector: Detector, checkpoint: Path, wanted: Wanted
) -> predictions.Ids | None:
    """What the dataset calls images and categories, where a format needs it."""
    if wanted.prepared is None or not set(wanted.formats) & set(predictions.OF_A_DATASET):
        return None
    labels = labels_of(checkpoint, detector.categories, detector.category_ids, wanted.prepared)
    return predictions.match(inputs, wanted.prepared, labels)


def _stamp(path: Path) -> list[int]:
    """What changes when a file does. Raises UsageError where there is none."""
    try:
        status = path.stat()
    except OSError as error:
        raise UsageError(f"{path}: expected a readable file: {error.strerror}") from error
    return [status.st_size, status.st_mtime_ns]


def _picture_files(inputs: Sequence[Input], out: Path) -> dict[str, Path]:
    """A file of its own for each input's picture or video: its stem, with a number where stems are
    equal.

    Raises UsageError where one would replace an input.
    """
    files: dict[str, Path] = {}
    taken: set[Path] = set()
    numbers: dict[str, int] = {}
    for one in inputs:
        ending = ".mp4" if one.kind == "video" else ".png"
        file = out / f"{one.stem}{ending}"
        while file in taken:
            numbers[one.stem] = numbers.get(one.stem, 1) + 1
            file = out / f"{one.stem}_{numbers[one.stem]}{ending}"
        taken.add(file)
        files[one.name] = file
    there = {Path(one.name).resolve() for one in inputs if one.kind != "address"}
    if lost := {file.resolve() for file in taken} & there:
        raise UsageError(f"--out {out}: expected another folder: {min(lost)} would be overwritten")
    return files
