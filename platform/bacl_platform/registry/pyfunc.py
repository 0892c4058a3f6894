"""The detector as a model of MLflow's `pyfunc` flavour.

It runs where MLflow loads it: in `mlflow models serve`, a batch job or a notebook. What it needs of
BACL lies beside it in the model's folder. BACL_DEVICE names the device, and images are taken within
the bounds of the environment (`bacl_platform.inference.received.Bounds`).
"""

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd  # MLflow evaluates annotations
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
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
_MOST_IMAGES = 64
"""In a request; their files are in memory together."""


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
            ]
        ),
    )


class Refusal(MlflowException):
    """A request that is not answered; servers give the status 400 and the sentence alone.

    MLflow puts the whole request before it, which may be megabytes of base64.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)
        self._sentence = sentence

    def serialize_as_json(self) -> str:
        """What a server answers."""
        return json.dumps({"error_code": self.error_code, "message": self._sentence})


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

        Raises Refusal for what is no image, is too large or is not to be fetched, for too many
        images and for wrong params. Then none of the images is answered.
        """
        params = params or {}
        score = float(params.get("score_threshold", SHOWN))
        if not 0 <= score <= 1:
            raise Refusal(f"score_threshold: expected a number from 0 to 1, got {score:g}")
        texts = list(model_input[COLUMN])
        if len(texts) > _MOST_IMAGES:
            raise Refusal(f"expected at most {_MOST_IMAGES} images a request, got {len(texts)}")
        files = [self._file(text, place, len(texts)) for place, text in enumerate(texts, 1)]
        try:
            with self._turn:
                return self._found(files, score)
        except BaclError as error:
            raise Refusal(str(error)) from error

    def _file(self, text: str, place: int, total: int) -> bytes:
        try:
            return content_of(text, self.bounds)
        except UsageError as error:
            raise Refusal(f"image {place} of {total}: {error}") from error

    def _found(self, files: Sequence[bytes], score: float) -> list[dict[str, Any]]:
        pixels = (pixels_of(file, self.bounds) for file in files)
        return [
            {"size": list(found.size), "detections": found.above(score).as_json()}
            for found in self.detector.detect(pixels)
        ]
