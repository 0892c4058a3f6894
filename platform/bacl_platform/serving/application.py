"""The application: an image is posted, and what is found in it comes back as JSON or as a picture.

Each replica has the detector once. Requests that come at the same time pass it together.
"""

import asyncio
import io
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from bacl.errors import UsageError
from bacl_platform.inference.detections import SHOWN
from bacl_platform.inference.received import Bounds, TooLarge, pixels_of
from bacl_platform.serving.sources import Source

if TYPE_CHECKING:
    from ray.serve import Application

    from bacl_platform.inference.detections import Detections

NAME = "bacl"
"""Of the application at Ray Serve."""
DETECTOR = "detector"
"""Of its one deployment."""
PATH = "/detect"
MULTIPART = 64 << 10
"""Bytes that a form may have beside its image."""
_FIELD = "image"


@dataclass(frozen=True)
class Settings:
    """How a detector is served.

    replicas: processes that have the detector. cpus, gpus: of each; a part of a GPU is shared.
    batch: images that are taken together at most. batch_wait: seconds that the first one
    waits for others. queue: requests that wait at most while all replicas are busy; more are
    refused. bounds: of an image. optimize: compile the networks, see `Detector.load`. shown: lowest
    score of what is answered, where a request does not say it.
    """

    replicas: int = 1
    cpus: float = 1
    gpus: float = 0
    batch: int = 8
    batch_wait: float = 0.01
    queue: int = 64
    bounds: Bounds = field(default_factory=Bounds)
    optimize: bool = False
    shown: float = SHOWN

    @property
    def device(self) -> str:
        """The device of a replica as torch calls it; Ray shows it no GPU but its own."""
        return "cuda" if self.gpus else "cpu"


class Served:
    """A replica: the detector, and the answers to requests.

    Bad requests get a status from 400 on and `{"error": "a sentence"}`.
    """

    def __init__(self, source: Source, settings: Settings) -> None:
        import torch
        from ray import serve

        from bacl_platform.inference.detector import Detector

        torch.set_num_threads(max(1, int(settings.cpus)))
        self.settings = settings
        with source.files() as (checkpoint, config):
            self.detector = Detector.load(checkpoint, config, settings.device, settings.optimize)
        batching = serve.batch(
            max_batch_size=settings.batch, batch_wait_timeout_s=settings.batch_wait
        )
        self._detect = batching(self._detect_batch)

    def check_health(self) -> None:
        """Raise where this replica can answer no longer; Ray Serve then starts another.

        An error of the GPU stays for as long as the process does.
        """
        if self.detector.device != "cpu":
            import torch

            torch.cuda.synchronize()

    async def __call__(self, request: Request) -> Response:
        try:
            return await self._answer(request)
        except HTTPException as error:
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    async def _answer(self, request: Request) -> Response:
        path, method = request.url.path.rstrip("/"), request.method
        if path == "":
            _allow(method, "GET", "HEAD")
            return JSONResponse(self._description())
        if path != PATH:
            raise HTTPException(404, f"expected POST {PATH}, got {request.url.path}")
        _allow(method, "POST")
        score, as_picture = self._wanted(request)
        content = await _image(request, self.settings.bounds.most_bytes)
        try:
            pixels = await asyncio.to_thread(pixels_of, content, self.settings.bounds)
        except TooLarge as error:
            raise HTTPException(413, str(error)) from error
        except UsageError as error:
            raise HTTPException(400, str(error)) from error
        found = (await self._detect(pixels)).above(score)
        if as_picture:
            picture = await asyncio.to_thread(_drawn, found, pixels)
            return Response(picture, media_type="image/png")
        return JSONResponse({"size": found.size, "detections": found.as_json()})

    async def _detect_batch(self, images: list[Any]) -> "list[Detections]":
        # in a thread, so that meanwhile this process takes in requests and says that it is healthy
        together = self.settings.batch if self.settings.gpus else None  # on a CPU one by one
        return await asyncio.to_thread(lambda: list(self.detector.detect(images, together)))

    def _description(self) -> dict[str, Any]:
        bounds = self.settings.bounds
        return {
            "detect": f"POST {PATH}",
            "categories": list(self.detector.categories),
            "most_bytes": bounds.most_bytes,
            "most_pixels": bounds.most_pixels,
            "score_threshold": self.settings.shown,
        }

    def _wanted(self, request: Request) -> tuple[float, bool]:
        """The lowest score, and whether a picture is to be answered."""
        query = request.query_params
        if unknown := [name for name in query if name not in ("score_threshold", "format")]:
            raise HTTPException(
                400, f"expected score_threshold or format in the address, got {unknown[0]!r}"
            )
        text = query.get("score_threshold", str(self.settings.shown))
        try:
            score = float(text)
        except ValueError:
            score = -1
        if not 0 <= score <= 1:
            raise HTTPException(
                400, f"score_threshold: expected a number from 0 to 1, got {text!r}"
            )
        kind = query.get("format") or _accepted(request.headers.get("accept", ""))
        if kind not in ("json", "png"):
            raise HTTPException(400, f"format: expected json or png, got {kind!r}")
        return score, kind == "png"


def _accepted(accept: str) -> str:
    """What an Accept header asks for: a picture where it names one and not JSON."""
    kinds = [part.partition(";")[0].strip() for part in accept.lower().split(",")]
    picture = "image/png" in kinds or "image/*" in kinds
    return "png" if picture and "application/json" not in kinds else "json"


def _allow(method: str, *methods: str) -> None:
    if method not in methods:
        allowed = {"Allow": ", ".join(methods)}
        raise HTTPException(405, f"expected {methods[0]}, got {method}", allowed)


async def _image(request: Request, most: int) -> bytes:
    """The image's file: the body as it is, or the one file of a form. Read up to the bound only."""
    is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
    try:
        body = await _body(request, most + is_form * MULTIPART, most)
    except ClientDisconnect as error:
        raise HTTPException(400, "expected the whole image, got a part of it") from error
    if not is_form:
        return body

    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    expected = f"expected a form with one file named {_FIELD}"
    try:
        form = await MultiPartParser(request.headers, whole(), max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError) as error:  # the latter without a boundary
        reason = getattr(error, "message", "no boundary").rstrip(".")
        raise HTTPException(400, f"{expected}, got a broken one: {reason}") from error
    try:
        file = form.get(_FIELD)
        if not isinstance(file, UploadFile) or len(form) != 1:
            names = ", ".join(form) or "nothing"
            raise HTTPException(400, f"{expected}, got {names}")
        return await file.read()
    finally:
        await form.close()


async def _body(request: Request, limit: int, most: int) -> bytes:
    """The body, if it has at most `limit` bytes; most: of an image, for the message."""
    length = request.headers.get("content-length", "")
    told = f"expected an image of at most {most:,} bytes, got "
    if length.isdecimal() and int(length) > limit:
        raise HTTPException(413, f"{told}{int(length):,}")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise HTTPException(413, f"{told}more")
    return bytes(body)


def _drawn(found: "Detections", pixels: NDArray[Any]) -> bytes:
    """A picture, as PNG, of what was found in these pixels (blue, green, red)."""
    written = io.BytesIO()
    found.draw(pixels[..., ::-1]).save(written, "PNG")
    return written.getvalue()


def application(source: Source, settings: Settings) -> "Application":
    """The application for Ray Serve."""
    from ray import serve

    deployment = serve.deployment(
        name=DETECTOR,
        num_replicas=settings.replicas,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        # one batch passes the detector while the images of the next are decoded
        max_ongoing_requests=2 * settings.batch,
        max_queued_requests=settings.queue,
        health_check_period_s=10,
        health_check_timeout_s=60,
    )(Served)
    return deployment.bind(source, settings)
