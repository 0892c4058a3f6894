"""Videos: frames in and out, and files that are none."""

import cv2
import numpy as np
import pytest

from bacl.errors import UsageError
from bacl_platform.tools.videos import Video, VideoFile


def frames(count, width, height):
    """Frames that each have their number as brightness."""
    return [
        np.full((height, width, 3), 40 + 20 * number, dtype=np.uint8) for number in range(count)
    ]


def written(path, count=6, width=64, height=48, fps=12.5):
    with VideoFile(path, fps) as file:
        for frame in frames(count, width, height):
            file.add(frame)
    return path


@pytest.mark.parametrize(("width", "height"), [(64, 48), (65, 49)])
def test_frames_come_back_in_their_order(tmp_path, width, height):
    path = written(tmp_path / "clip.mp4", width=width, height=height)
    with Video(path) as video:
        found = list(video.frames())
        assert (video.fps, video.announced) == (12.5, 6)
    assert len(found) == 6
    for frame, expected in zip(found, frames(6, width + width % 2, height + height % 2)):
        assert frame.shape == expected.shape
        assert abs(frame.astype(int) - expected).mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_video_that_is_not_written_to_its_end_is_not_there(tmp_path):
    with pytest.raises(KeyError), VideoFile(tmp_path / "clip.mp4", 10) as file:
        file.add(frames(1, 64, 48)[0])
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_video_that_breaks_off_gives_what_it_has(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (320, 240))
    noise = np.random.default_rng(0).integers(0, 255, (8, 240, 320, 3), dtype=np.uint8)
    for frame in noise:
        writer.write(frame)
    writer.release()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    with Video(path) as video:
        assert 0 < len(list(video.frames())) < 8


@pytest.mark.parametrize("content", [b"", b"no video", bytes(2000)])
def test_what_is_no_video_is_told(tmp_path, capfd, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"clip.mp4: expected a video that can be decoded, got"):
        Video(path)
    assert capfd.readouterr() == ("", "")  # FFmpeg has its own words, which are no help
