"""The detector as a model of MLflow's `pyfunc` flavour.

It runs where MLflow loads it: in `mlflow models serve`, a batch job or a notebook. What it needs of
BACL lies beside it in the model's folder. BACL_DEVICE names the device, and images are taken within
the bounds of the environment (`bacl_platform.inference.received.Bounds`).
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd  # MLflow evaluates annotations
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.pyfunc import PythonModel
from mlflow.types.schema import (
    AnyType,
    Array,
    ColSpec,
    DataType,
    Object,
    ParamSchema,
    ParamSpec,
    Property,
    Schema,
)

from bacl.errors import BaclError, UsageError
from bacl_platform.inference.detections import SHOWN
from bacl_platform.inference.received import Bounds, content_of, pixels_of

COLUMN = "image"
CHECKPOINT, CONFIG = "checkpoint", "config"
"""The model's artifacts."""
BATCH = 8
_MOST_BATCH = 256


def signature() -> ModelSignature:
    """What goes in and what comes out.

    In: a column of images in base64, or of addresses. Out: for each its size (width, height) and
    its detections.
    """
    detection = Object(
        [
            Property("label", DataType.long),
            Property("category", DataType.string),
            Property("category_id", AnyType(), required=False),
            Property("score", DataType.double),
            Property("box", Array(DataType.double)),
            Property("mask", AnyType(), required=False),
        ]
    )
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, COLUMN)]),
        outputs=Schema(
            [ColSpec(Array(DataType.long), "size"), ColSpec(Array(detection), "detections")]
        ),
        params=ParamSchema(
            [
                ParamSpec("score_threshold", DataType.double, SHOWN),
                ParamSpec("batch", DataType.long, BATCH),
            ]
        ),
    )


class DetectorModel(PythonModel):
    """What MLflow loads and asks."""

    def load_context(self, context: Any) -> None:
        """Load the detector from the model's artifacts."""
        from bacl_platform.inference.detector import Detector

        self.bounds = Bounds.of_environment()
        self.detector = Detector.load(
            Path(context.artifacts[CHECKPOINT]),
            Path(context.artifacts[CONFIG]),
            os.environ.get("BACL_DEVICE") or None,
        )
        self._turn = threading.Lock()
        """Requests come in threads; one after the other holds its images in memory."""

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """For each image its size and detections; see `signature`.

        Raises MlflowException, which servers answer with the status 400, for what is no image, is
        too large or is not to be fetched, and for wrong params. Then no image is detected in.
        """
        params = params or {}
        score, batch = float(params.get("score_threshold", SHOWN)), int(params.get("batch", BATCH))
        if not 0 <= score <= 1:
            raise _refusal(f"score_threshold: expected a number from 0 to 1, got {score:g}")
        if not 1 <= batch <= _MOST_BATCH:
            raise _refusal(f"batch: expected a whole number from 1 to {_MOST_BATCH}, got {batch}")
        texts = list(model_input[COLUMN])
        files = [self._file(text, place, len(texts)) for place, text in enumerate(texts, 1)]
        try:
            with self._turn:
                return self._found(files, batch, score)
        except BaclError as error:
            raise _refusal(str(error)) from error

    def _file(self, text: str, place: int, total: int) -> bytes:
        try:
            return content_of(text, self.bounds)
        except UsageError as error:
            raise _refusal(f"image {place} of {total}: {error}") from error

    def _found(self, files: Sequence[bytes], batch: int, score: float) -> list[dict[str, Any]]:
        pixels = (pixels_of(file, self.bounds) for file in files)
        return [
            {"size": list(found.size), "detections": found.above(score).as_json()}
            for found in self.detector.detect(pixels, batch)
        ]


def _refusal(sentence: str) -> MlflowException:
    return MlflowException.invalid_parameter_value(sentence)
