"""A detector that was exported or trained elsewhere, ready to detect.

It is a configuration and a checkpoint, as `bacl.export` writes them: MMDetection's own types.
"""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bacl.errors import RunError, UsageError
from bacl_platform.inference.detections import Detections
from bacl_platform.inference.images import AnyImage, as_pixels
from bacl_platform.store.names import CHECKPOINT
from bacl_platform.volume import Volume, volume

if TYPE_CHECKING:
    from mmengine.structures import InstanceData
    from torch import Tensor, nn

WAITING = 4
"""Batches' worth of images that wait at most for others of their size."""


class Detector:
    """A detector with its categories' names and, where the checkpoint has them, the annotation
    file's ids of these, by label.

    On a CPU its weights lie in channels-last order, in which convolutions take less time.
    """

    def __init__(
        self,
        model: "nn.Module",
        categories: Sequence[str],
        category_ids: Sequence[int | str] | None,
        device: str,
    ) -> None:
        """model: as `mmdet.apis.init_detector` makes it."""
        import torch
        from mmdet.utils import get_test_pipeline_cfg
        from mmengine.dataset import Compose

        self.categories, self.category_ids, self.device = categories, category_ids, device
        self.model: Any = model
        if torch.device(device).type == "cpu":
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        loading, *steps = get_test_pipeline_cfg(self.model.cfg)
        with quiet():
            self._pipeline = Compose([{**loading, "type": "mmdet.LoadImageFromNDArray"}, *steps])
        self._divisor: int = getattr(self.model.data_preprocessor, "pad_size_divisor", 1)

    @classmethod
    def load(
        cls,
        checkpoint: Path,
        config: Path | None = None,
        device: str | None = None,
        optimize: bool = False,
    ) -> "Detector":
        """The detector of a checkpoint, or of a folder that has `checkpoint.pth`.

        config: of MMDetection's; `config.py` beside the checkpoint if not given. It is Python, and
        reading it runs it; the checkpoint is read as tensors and plain values, not by MMDetection,
        whose reader falls back to running code from the file. device: as torch calls it; None
        takes a GPU where there is one. optimize: on a CPU, compile the networks, which takes some
        seconds and then a quarter off each image; results differ by rounding.

        Raises:
            UsageError: files or a device that cannot be used, or networks that cannot be compiled.
            RunError: a checkpoint that is broken or of another detector.
        """
        checkpoint, config = files_of(Path(checkpoint), config)
        device = usable_device(device)
        with quiet():
            import bacl.register  # noqa: F401  # backs the operators before anything asks for them

            # isort: split
            from mmdet.apis import init_detector
            from mmengine.config import Config

        from bacl.detector.warmstart import read_checkpoint

        content = read_checkpoint(checkpoint)
        if not config.is_file():
            raise UsageError(
                f"{config}: expected the configuration of {checkpoint}, got no such file"
            )
        try:
            with quiet():
                model = init_detector(Config.fromfile(config), None, device=device)
        except Exception as error:
            raise UsageError(
                f"{config}: expected the configuration of a detector for inference, got "
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            ) from error
        meta = content.get("meta", {})
        named = meta.get("dataset_meta", {})
        # the latter two are of MMDetection's earlier versions
        names = named.get("classes") or named.get("CLASSES") or meta.get("CLASSES")
        _check_fit(config, checkpoint, model, content["state_dict"], names)
        model.load_state_dict(content["state_dict"])
        made = cls(model, names, named.get("category_ids"), device)
        if optimize:
            made.optimize()
        return made

    def optimize(self) -> None:
        """Compile the networks; see `bacl_platform.inference.optimized`. On a GPU, nothing is done.

        Raises UsageError where they cannot be compiled.
        """
        import torch

        if torch.device(self.device).type == "cpu":
            from bacl_platform.inference.optimized import optimize

            optimize(self.model)

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is a sequence, too
        self, images: AnyImage, batch: int | None = None, score_threshold: float = 0
    ) -> Detections: ...

    @overload
    def predict(
        self, images: Sequence[AnyImage], batch: int | None = None, score_threshold: float = 0
    ) -> list[Detections]: ...

    def predict(
        self,
        images: AnyImage | Sequence[AnyImage],
        batch: int | None = None,
        score_threshold: float = 0,
    ) -> Detections | list[Detections]:
        """What is found in an image, or in each of several.

        images: a path, pixels (height, width, 3) of uint8 in RGB, or a picture of Pillow's; or a
        sequence of such. batch: images that pass the detector together, 8 if not given, and on a
        CPU one, which takes less time for each image there; of those, only such as
        have one size there, so that no image's detections depend on the others. score_threshold:
        detections with a lower score are left out. Raises UsageError for what is no image.
        """
        if isinstance(images, str | Path | np.ndarray | Image.Image):
            return self.predict([images], 1, score_threshold)[0]
        found = self.detect(map(as_pixels, images), batch)
        return [
            replace(one, source=image).above(score_threshold) for one, image in zip(found, images)
        ]

    def detect(
        self, images: Iterable[NDArray[np.uint8]], batch: int | None = None
    ) -> Iterator[Detections]:
        """What is found in images whose pixels are in blue, green, red, one after the other.

        At most `WAITING` batches of images are in memory at a time.
        """
        for (height, width), found in self.instances(images, batch):
            masks = None
            if "masks" in found:
                masks = [_encoded(mask) for mask in found.masks.numpy()]
            yield Detections(
                found.bboxes.numpy(),
                found.scores.numpy(),
                found.labels.numpy(),
                masks,
                self.categories,
                self.category_ids,
                (width, height),
            )

    def instances(
        self, images: Iterable[NDArray[np.uint8]], batch: int | None = None
    ) -> "Iterator[tuple[tuple[int, int], InstanceData]]":
        """What is found in the images of `detect` in MMDetection's own form, on the CPU, each with
        the image's (height, width).

        Raises UsageError for the image that was taken last, where it is too long to be scaled.
        """
        batch = batch or (1 if self.device == "cpu" else 8)
        done: dict[int, Any] = {}
        waiting: dict[tuple[int, ...], dict[int, Any]] = {}
        """By the size to which images are padded, those that wait for others."""
        first = 0  # of those that were not handed on yet
        for place, pixels in enumerate(images):
            image = self._prepared(pixels, place)
            group = waiting.setdefault(self._padded(image["inputs"]), {})
            group[place] = image
            full = len(group) >= batch
            if not full and place - first + 1 >= WAITING * batch:  # the first has waited enough
                group, full = next(one for one in waiting.values() if first in one), True
            if full:
                done |= self._pass(group)
                group.clear()
            while first in done:
                yield done.pop(first)
                first += 1
        for group in filter(None, waiting.values()):
            done |= self._pass(group)
        for place in sorted(done):
            yield done[place]

    def _prepared(self, pixels: NDArray[np.uint8], place: int) -> Any:
        """An image after the detector's pipeline."""
        try:
            return self._pipeline({"img": pixels, "img_id": place})
        except cv2.error as error:
            height, width = pixels.shape[:2]
            raise UsageError(
                "expected an image that has pixels left when it is scaled for the detector, got "
                f"{width} x {height}"
            ) from error

    def _padded(self, inputs: "Tensor") -> tuple[int, ...]:
        """Height and width to which an image is padded."""
        return tuple(-(-side // self._divisor) * self._divisor for side in inputs.shape[1:])

    def _pass(self, images: Mapping[int, Any]) -> dict[int, Any]:
        """Pass prepared images of one padded size through the detector."""
        import torch

        data = {
            name: [image[name] for image in images.values()] for name in ("inputs", "data_samples")
        }
        with torch.inference_mode():
            found = self.model.test_step(data)
        return {
            place: (sample.ori_shape, sample.pred_instances.cpu())
            for place, sample in zip(images, found, strict=True)
        }

    def __repr__(self) -> str:
        return f"<detector of {len(self.categories)} categories on {self.device}>"


def _encoded(mask: NDArray[Any]) -> dict[str, Any]:
    """A mask (height, width) as COCO's compressed RLE."""
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(encoded["size"]), "counts": encoded["counts"].decode()}


def files_of(what: Path, config: Path | None) -> tuple[Path, Path]:
    """The checkpoint and the configuration that a user means by a folder or a file."""
    checkpoint = what / CHECKPOINT if what.is_dir() else what
    if what.is_dir() and not checkpoint.is_file():
        raise UsageError(
            f"{what}: expected a folder with {CHECKPOINT} and config.py, as a store exports a "
            "variant, found none"
        )
    return checkpoint, config or checkpoint.with_name("config.py")


def usable_device(name: str | None) -> str:
    """The device of that name; without a name a GPU where there is one, else the CPU.

    Raises UsageError for one that this machine lacks.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name}: expected a device of this machine: {reason}") from None
    return name


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without MMDetection's remarks on optional packages, palettes and absent checkpoints, unless
    --verbose asks for them."""
    if volume() is Volume.VERBOSE:
        with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
            yield
        return
    with warnings.catch_warnings(record=True), contextlib.redirect_stdout(io.StringIO()):
        yield


def _check_fit(
    config: Path, checkpoint: Path, detector: "nn.Module", state: dict[str, Any], classes: Any
) -> None:
    own = detector.state_dict()
    expected = f"{checkpoint}: expected the weights of the detector that {config} describes, "
    classifier = "roi_head.bbox_head.fc_cls.weight"
    heads: list[Any] = [part for part in detector.modules() if hasattr(part, "fc_cls")]
    categories = heads[0].num_classes if heads else None
    if classifier in own and classifier in state and len(own[classifier]) != len(state[classifier]):
        others = len(own[classifier]) - heads[0].num_classes  # such as background's column
        raise RunError(
            f"{expected}with {categories} categories, got those of one with "
            f"{len(state[classifier]) - others}"
        )
    for name, tensor in own.items():
        if name not in state:
            raise RunError(f"{expected}got none named {name}")
        if state[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, got {tuple(state[name].shape)}"
            raise RunError(f"{expected}{name} of shape {shapes}")
    if unknown := [name for name in state if name not in own]:
        raise RunError(f"{expected}got others, such as {unknown[0]}")
    if classes is None or categories not in (None, len(classes)):
        raise RunError(
            f"{checkpoint}: expected a name for each category in meta.dataset_meta.classes, got "
            f"{len(classes or ())}"
        )
