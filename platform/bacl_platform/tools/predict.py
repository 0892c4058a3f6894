"""Detects objects in pictures with an exported variant, draws them and writes them down."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bacl.errors import UsageError
from bacl_platform.console import say
from bacl_platform.inference.detector import Detector
from bacl_platform.inference.images import as_pixels
from bacl_platform.store.disk import disk_errors, write_text

if TYPE_CHECKING:
    from rich.console import Console


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

    images = list(dict.fromkeys(images))
    pictures = _picture_files(images, out)
    _check_images(images)
    detector = Detector.load(checkpoint, config, device)
    written, total = [], 0
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for image in track(
            images, "detecting", console=console, transient=True, disable=not console.is_terminal
        ):
            found = detector.predict(image, score_threshold=threshold)
            found.draw().save(pictures[image])
            written.append(
                {
                    "image": str(image),
                    "picture": pictures[image].name,
                    "detections": found.as_json(),
                }
            )
            total += len(found)
        facts = {"checkpoint": str(checkpoint), "score_threshold": threshold}
        write_text(
            out / "predictions.json", json.dumps({**facts, "images": written}, indent=1) + "\n"
        )
    say(
        console,
        f"{total} objects in {len(images)} images: pictures and predictions.json in {out}",
    )


def _check_images(images: Sequence[Path]) -> None:
    """Raise UsageError that lists every image that cannot be read."""
    problems = [reason for path in images if (reason := _unreadable(path))]
    if problems:
        raise UsageError("\n".join(problems))


def _unreadable(path: Path) -> str | None:
    try:
        as_pixels(path)
    except UsageError as error:
        return str(error)
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
