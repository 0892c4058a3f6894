"""Detects objects in pictures with an exported variant, draws them and writes them down.

A detector is a configuration and a checkpoint, as `bacl.export` writes them: MMDetection's own
types, run by MMDetection's own inference.
"""

import colorsys
import contextlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bacl.errors import RunError, UsageError
from bacl_platform.console import say
from bacl_platform.plan.job import Plan
from bacl_platform.report.drawing import Mark, as_picture, mark
from bacl_platform.store.disk import disk_errors, write_text
from bacl_platform.store.names import CHECKPOINT
from bacl_platform.store.store import Store
from bacl_platform.texts import is_text

if TYPE_CHECKING:
    from mmengine.structures import InstanceData
    from PIL import Image
    from rich.console import Console
    from torch import nn

_SHORTEST_PICTURE = 640
"""Pixels of the longer side; smaller images are enlarged, so that names can be read."""
_OPACITY = 0.45
"""Opacity of masks over the image."""


@dataclass(frozen=True)
class Detection:
    """One box (x1, y1, x2, y2) in pixels of the image, with its category and score in 0..1.

    category_id is the annotation file's, None where the checkpoint came without its ids.
    mask is COCO's compressed RLE (`size`, `counts`) over the whole image, None of a detector that
    has none.
    """

    label: int
    category: str
    category_id: int | str | None
    score: float
    box: list[float]
    mask: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Its fields; no mask where it has none."""
        return {
            name: value for name, value in vars(self).items() if value is not None or name != "mask"
        }


def exported(plan: Plan, store: Store, variant: str | None, command: str) -> Path:
    """The checkpoint of a variant, trained with the plan's first seed.

    command: what the user runs where it is missing. Raises UsageError for an unknown variant,
    RunError for one that is not in the store.
    """
    seed = plan.jobs[0].seed
    jobs = {name: job for job in plan.jobs if job.seed == seed for name in job.variants}
    if variant not in jobs:
        raise UsageError(
            f"--variant: expected one of {plan.experiment.name}'s ({', '.join(jobs)}), got "
            f"{variant or 'nothing'}"
        )
    job = jobs[variant]
    if not store.complete(job.key):
        raise RunError(
            f"{variant} (job {job.name}, {job.key}) is not in the store {store.url}: "
            f"run `{command}` first"
        )
    return store.entry(job.key) / "variants" / variant / CHECKPOINT


def predict(
    images: Sequence[Path],
    checkpoint: Path,
    config: Path,
    out: Path,
    threshold: float,
    device: str | None,
    console: "Console",
) -> None:
    """Write a picture of each image's detections, and predictions.json, to the folder `out`.

    config is Python, and reading it runs it; the checkpoint is read as tensors and plain values.
    threshold: detections with a lower score are left out. device: as torch names it; None takes a
    GPU where there is one. Raises UsageError for images, files and devices that cannot be used,
    RunError for a checkpoint that is broken or does not fit its configuration.
    """
    from rich.progress import track

    from bacl.datasets.decoding import read

    images = list(dict.fromkeys(images))
    pictures = _picture_files(images, out)
    _check_images(images)
    detector, classes, ids = load_detector(config, checkpoint, usable_device(device))
    from mmdet.apis import inference_detector

    written, total = [], 0
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for image in track(
            images, "detecting", console=console, transient=True, disable=not console.is_terminal
        ):
            pixels = read(image)
            found = inference_detector(detector, pixels).pred_instances.cpu()
            found = found[found.scores >= threshold]
            detections = [
                Detection(label, classes[label], ids[label] if ids else None, score, box, mask)
                for label, score, box, mask in zip(
                    found.labels.tolist(),
                    found.scores.tolist(),
                    found.bboxes.tolist(),
                    _masks(found),
                    strict=True,
                )
            ]
            draw(as_picture(pixels), detections).save(pictures[image])
            written.append(
                {
                    "image": str(image),
                    "picture": pictures[image].name,
                    "detections": [detection.as_json() for detection in detections],
                }
            )
            total += len(detections)
        facts = {"checkpoint": str(checkpoint), "score_threshold": threshold}
        write_text(
            out / "predictions.json", json.dumps({**facts, "images": written}, indent=1) + "\n"
        )
    say(
        console,
        f"{total} objects in {len(images)} images: pictures and predictions.json in {out}",
    )


def _masks(found: "InstanceData") -> list[dict[str, Any] | None]:
    """The mask of each detection as RLE, None of a detector without masks."""
    if "masks" not in found:
        return [None] * len(found)
    from pycocotools import mask as coco

    made: list[dict[str, Any] | None] = []
    for pixels in found.masks.numpy():
        encoded = coco.encode(np.asfortranarray(pixels, dtype=np.uint8))
        made.append({"size": list(encoded["size"]), "counts": encoded["counts"].decode()})
    return made


def load_detector(
    config: Path, checkpoint: Path, device: str
) -> tuple["nn.Module", Sequence[str], Sequence[int | str] | None]:
    """A detector ready for `mmdet.apis.inference_detector`, and by label its categories' names and
    the annotation file's ids of them, where the checkpoint has these.

    The checkpoint is read here and not by MMDetection, whose reader falls back to running code
    from the file. Raises UsageError for a bad configuration, RunError for a checkpoint that is
    broken or of another detector.
    """
    with quiet():
        import bacl.register  # noqa: F401  # backs the operators before anything asks for them

        # isort: split
        from mmdet.apis import init_detector
        from mmengine.config import Config

    from bacl.detector.warmstart import read_checkpoint

    content = read_checkpoint(checkpoint)
    if not config.is_file():
        raise UsageError(f"{config}: expected the configuration of {checkpoint}, got no such file")
    try:
        with quiet():
            detector = init_detector(Config.fromfile(config), None, device=device)
    except Exception as error:
        raise UsageError(
            f"{config}: expected the configuration of a detector for inference, got "
            f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        ) from error
    meta = content.get("meta", {})
    named = meta.get("dataset_meta", {})
    # the latter two are of MMDetection's earlier versions
    classes = named.get("classes") or named.get("CLASSES") or meta.get("CLASSES")
    _check_fit(config, checkpoint, detector, content["state_dict"], classes)
    detector.load_state_dict(content["state_dict"])
    return detector, classes, named.get("category_ids")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without MMDetection's remarks on optional packages, palettes and absent checkpoints."""
    with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
        yield


def _check_fit(
    config: Path, checkpoint: Path, detector: "nn.Module", state: dict[str, Any], classes: Any
) -> None:
    own = detector.state_dict()
    expected = f"{checkpoint}: expected the weights of the detector that {config} describes, "
    classifier = "roi_head.bbox_head.fc_cls.weight"
    if classifier in own and classifier in state and len(own[classifier]) != len(state[classifier]):
        raise RunError(
            f"{expected}with {len(own[classifier]) - 1} categories, got those of one with "
            f"{len(state[classifier]) - 1}"
        )
    for name, tensor in own.items():
        if name not in state:
            raise RunError(f"{expected}got none named {name}")
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, got {tuple(state[name].shape)}"
            raise RunError(f"{expected}{name} of shape {shapes}")
    if unknown := [name for name in state if name not in own]:
        raise RunError(f"{expected}got others, such as {unknown[0]}")
    if classes is None or (classifier in own and len(classes) != len(own[classifier]) - 1):
        raise RunError(
            f"{checkpoint}: expected a name for each category in meta.dataset_meta.classes, got "
            f"{len(classes or ())}"
        )


def usable_device(name: str | None) -> str:
    """The device that `--device` names; without a name a GPU where there is one, else the CPU.

    Raises UsageError for one that this machine lacks.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--device {name}: expected a device of this machine: {reason}") from None
    return name


def _check_images(images: Sequence[Path]) -> None:
    """Raise UsageError that lists every image that cannot be read."""
    problems = [f"{path}: {reason}" for path in images if (reason := _unreadable(path))]
    if problems:
        raise UsageError("\n".join(problems))


def _unreadable(path: Path) -> str | None:
    from bacl.datasets.decoding import ImageUnreadable, read

    if not is_text(str(path)):  # OpenCV ends the process on such a path
        return "expected a path that is text in UTF-8"
    if path.is_dir():
        return "expected an image, got a folder: name the images in it"
    try:
        read(path)
    except ImageUnreadable as error:
        return f"expected a readable image, got {error}"
    return None


def _picture_files(images: Sequence[Path], out: Path) -> dict[Path, Path]:
    """A file of its own for each image: its stem, with a number where stems are equal.

    Raises UsageError where a picture would replace one of the images.
    """
    files: dict[Path, Path] = {}
    for image in images:
        file, number = out / f"{image.stem}.png", 1
        while file in files.values():
            number += 1
            file = out / f"{image.stem}_{number}.png"
        files[image] = file
    lost = {file.resolve() for file in files.values()} & {image.resolve() for image in images}
    if lost:
        raise UsageError(f"--out {out}: expected another folder: {min(lost)} would be overwritten")
    return files


def draw(image: "Image.Image", detections: Sequence[Detection]) -> "Image.Image":
    """The image with boxes, masks, names and scores; small ones are enlarged by a whole factor."""
    from PIL import Image

    factor = -(-_SHORTEST_PICTURE // max(image.size))
    picture = image
    if factor > 1:
        size = (image.width * factor, image.height * factor)
        picture = image.resize(size, Image.Resampling.BICUBIC)
    picture = _painted(picture, [one for one in detections if one.mask], factor)
    marks = [
        Mark(
            [value * factor for value in one.box],
            f"{one.category} {one.score:.2f}",
            _colour(one.label),
        )
        for one in sorted(detections, key=lambda one: one.score)  # the surest last: on top
    ]
    return mark(picture, marks)


def _painted(picture: "Image.Image", detections: Sequence[Detection], factor: int) -> "Image.Image":
    """The picture, so many times the image's size, with the masks' pixels in their colours."""
    if not detections:
        return picture
    from PIL import Image
    from pycocotools import mask as coco

    pixels = np.asarray(picture, dtype=np.float32).copy()
    for one in sorted(detections, key=lambda one: one.score):
        inside = np.kron(coco.decode(one.mask), np.ones((factor, factor), dtype=np.uint8)) > 0
        pixels[inside] += _OPACITY * (np.array(_colour(one.label)) - pixels[inside])
    return Image.fromarray(pixels.round().astype(np.uint8))


def _colour(label: int) -> tuple[int, int, int]:
    """Colour of a category's boxes, far from its neighbours'."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
