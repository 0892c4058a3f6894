"""Videos, frame by frame: read, and written with what was detected.

OpenCV decodes and encodes them, by FFmpeg. What is written is MPEG-4 without sound.

H x W pixels of a frame.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bacl.errors import RunError, UsageError
from bacl_platform.inference.images import unusable

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# FFmpeg's own words on a file; it looks for this once, when a process first opens a video.

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg")
"""Endings of the names of videos."""
_USUAL = 25.0
"""Frames a second of a video that does not say it."""


class Video:
    """A video file. fps: frames a second. announced: how many frames it says it has, 0 where it
    does not say it. Raises UsageError for a file that cannot be decoded."""

    def __init__(self, path: Path) -> None:
        if reason := unusable(path):
            raise UsageError(f"{path}: {reason}")
        if not path.is_file():
            raise UsageError(f"{path}: expected a video, got no such file")
        self.path = path
        with _quiet():
            self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
            read, self._first = self._capture.read()
        if not read:
            self._capture.release()
            raise UsageError(
                f"{path}: expected a video that can be decoded, got one of another codec, one "
                "that is damaged or no video"
            )
        fps = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = fps if np.isfinite(fps) and fps > 0 else _USUAL
        self.announced = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Its frames (H, W, 3) in blue, green, red, once; to the first that cannot be decoded."""
        frame, read = self._first, True
        while read:
            yield frame
            read, frame = self._capture.read()

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self._capture.release()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without OpenCV's remarks on files that it cannot open, which are said in a sentence here."""
    level = cv2.getLogLevel()
    cv2.setLogLevel(0)
    try:
        yield
    finally:
        cv2.setLogLevel(level)


def check_video(path: Path) -> None:
    """Raise UsageError for a file whose first frame cannot be decoded."""
    with Video(path):
        pass


class VideoFile:
    """A video to be written, whole or not at all. Frames have the size of the first."""

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.fps = path, fps
        self._part = path.with_name(f".{path.stem}.part{path.suffix}")
        self._writer: Any = None

    def add(self, frame: NDArray[np.uint8]) -> None:
        """A frame (H, W, 3) in blue, green, red. Raises RunError where none can be written."""
        height, width = frame.shape[:2]
        # the codec has pixels in pairs: OpenCV would cut the last of an odd number
        even = cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._part), code, self.fps, even.shape[1::-1])
            if not self._writer.isOpened():
                raise RunError(
                    f"{self.path}: expected OpenCV to write MPEG-4, which this one cannot: "
                    "--no-pictures writes the detections alone"
                )
        self._writer.write(even)

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.release()
        if kind is None and self._part.exists():
            self._part.replace(self.path)
        else:
            self._part.unlink(missing_ok=True)
