"""Export of a trained variant: written, compared with the detector, and only then put in place."""

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bacl.errors import UsageError
from bacl_platform.inference.detector import Detector, quiet
from bacl_platform.inference.images import as_pixels
from bacl_platform.store.disk import disk_errors

if TYPE_CHECKING:
    from bacl.datasets.prepared import Prepared
    from bacl_platform.exporting.checking import Agreement, Found

FORMATS = {"mmdet": "", "onnx": ".onnx", "torchscript": ".pt"}
"""What a variant is exported as, and how the file's name ends; mmdet's is a folder."""
CHECKED = 3
"""Validation images that an export is checked with, if none are given."""


@dataclass(frozen=True)
class Exported:
    """An export, and how far it agrees with its detector."""

    path: Path
    agreement: "Agreement"


def default_place(variant: str, form: str) -> Path:
    """Where an export is written if nothing else is said."""
    _check_form(form)
    return Path("exports") / f"{variant}{FORMATS[form]}"


def export(
    checkpoint: Path,
    form: str,
    out: Path,
    prepared: "Prepared",
    *,
    images: Sequence[Path] = (),
    opset: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a variant as `form`, one of FORMATS, to `out`: a file, or the folder of mmdet.

    The detector and the export then detect in `images`, if not given in some of the validation
    split's, and in a part of the first, which has another shape; what does not give the same
    detections is not left there. checkpoint: of a store's `variants/NAME`. opset: of ONNX. facts:
    plain values that are kept with the export.

    Raises:
        UsageError: bad options or images, or a detector that cannot be exported so.
        RunError: a broken checkpoint; an export that detects otherwise; a full disk.
    """
    _check_form(form)
    if opset is not None and form != "onnx":
        raise UsageError(f"opset: expected with format onnx only, got {form}")
    _check_place(out, form)
    pictures = _pictures(list(images) or _of_validation(prepared))
    detector = Detector.load(checkpoint, device="cpu")
    detector.model.requires_grad_(False)
    settings = _settings(checkpoint)
    known = {
        "categories": list(detector.categories),
        "category_ids": detector.category_ids,
        "score_threshold": detector.model.test_cfg.rcnn.score_thr,
        "settings": settings,
        **(facts or {}),
    }
    part = out.with_name(f".{out.name}.{os.getpid()}")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            agreement = _written(form, part, detector, settings, prepared, known, pictures, opset)
            _put(part, out)
        finally:
            _remove(part)
    return Exported(out, agreement)


def _check_form(form: str) -> None:
    if form not in FORMATS:
        raise UsageError(f"format: expected one of {', '.join(FORMATS)}, got {form!r}")


def _written(
    form: str,
    part: Path,
    detector: Detector,
    settings: Mapping[str, Any],
    prepared: "Prepared",
    facts: Mapping[str, Any],
    pictures: Mapping[str, NDArray[np.uint8]],
    opset: int | None,
) -> "Agreement":
    """Write the export to `part` and check it."""
    from bacl_platform.exporting import checking, mmdetection, onnx_file, torchscript_file

    example = next(iter(pictures.values()))
    exported: Callable[[NDArray[np.uint8]], Found]
    with quiet():
        if form == "mmdet":
            part.mkdir()
            mmdetection.write(part, detector, settings, prepared, {"bacl": dict(facts)})
            exported = _detecting(Detector.load(part, device="cpu"))
        elif form == "onnx":
            onnx_file.write(part, detector.model, example, facts, opset)
            exported = onnx_file.OnnxDetector(part)
        else:
            torchscript_file.write(part, detector.model, example, facts)
            exported = torchscript_file.TorchScriptDetector(part)
    return checking.checked(detector, exported, pictures)


def _detecting(detector: Detector) -> "Callable[[NDArray[np.uint8]], Found]":
    def found(image: NDArray[np.uint8]) -> "Found":
        from pycocotools import mask as coco

        one = detector.predict(image)
        values: dict[str, NDArray[Any]] = {
            "boxes": one.boxes,
            "scores": one.scores,
            "labels": one.labels,
        }
        if one.masks is not None:
            values["masks"] = np.array([coco.decode(mask) for mask in one.masks])
        return values

    return found


def _settings(checkpoint: Path) -> dict[str, Any]:
    """The variant's settings, which `bacl.export` keeps beside its weights."""
    from bacl.detector.warmstart import read_checkpoint

    settings: dict[str, Any] | None = read_checkpoint(checkpoint).get("meta", {}).get("variant")
    if not settings:
        raise UsageError(
            f"{checkpoint}: expected the checkpoint of a variant as a store exports it, got one "
            "without meta.variant"
        )
    return settings


def _of_validation(prepared: "Prepared") -> list[Path]:
    """Images of the validation split, from all over it."""
    from bacl.datasets.index import Index

    index = Index(prepared.val.index)
    places = np.linspace(0, len(index) - 1, min(CHECKED, len(index))).astype(int)
    return [Path(prepared.val.images) / index.image(int(place)).file for place in places]


def _pictures(images: Sequence[Path]) -> dict[str, NDArray[np.uint8]]:
    """Pixels in RGB by name; to the images comes a part of the first, of another shape."""
    found = {}
    for image in dict.fromkeys(images):
        found[str(image)] = np.ascontiguousarray(as_pixels(image)[..., ::-1])
    name, first = next(iter(found.items()))
    width = max(first.shape[1] * 2 // 3, 1)
    found[f"the left of {name}"] = np.ascontiguousarray(first[:, :width])
    return found


def _check_place(out: Path, form: str) -> None:
    """Raise UsageError where something else is in the export's place."""
    if form == "mmdet" and out.exists() and not out.is_dir():
        raise UsageError(f"{out}: expected a folder, got a file")
    if form == "mmdet" and out.is_dir() and (others := _others(out)):
        raise UsageError(
            f"{out}: expected a new folder or one that was exported to, got one with "
            f"{others[0]} in it"
        )
    if form != "mmdet" and out.is_dir():
        raise UsageError(f"{out}: expected a file to write, got a folder")


def _others(folder: Path) -> list[str]:
    from bacl_platform.exporting.mmdetection import CONFIG
    from bacl_platform.store.names import CHECKPOINT

    return sorted({path.name for path in folder.iterdir()} - {CONFIG, CHECKPOINT})


def _put(part: Path, out: Path) -> None:
    if part.is_dir() and out.is_dir():
        for file in part.iterdir():
            file.replace(out / file.name)
    else:
        part.replace(out)


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part)
    part.unlink(missing_ok=True)
