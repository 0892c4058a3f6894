"""What counts as the same detections."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as coco

from bacl.errors import RunError
from bacl_platform.exporting.checking import checked
from bacl_platform.inference.detections import Detections

IMAGE = np.zeros((100, 200, 3), dtype=np.uint8)
TOTAL = 60


@dataclass
class Fake:
    """A detector that finds the same boxes in every image."""

    scores: np.ndarray
    masks: bool = False
    boxes: np.ndarray = field(init=False)
    labels: np.ndarray = field(init=False)

    def __post_init__(self):
        total = len(self.scores)
        corners = np.random.default_rng(0).uniform(0, 90, (total, 2))
        self.boxes = np.concatenate([corners, corners + 8], axis=1).astype(np.float32)
        self.labels = np.arange(total) % 3
        rcnn = SimpleNamespace(score_thr=0.0)
        self.model = SimpleNamespace(test_cfg=SimpleNamespace(rcnn=rcnn))

    def bitmaps(self):
        maps = np.zeros((len(self.scores), 100, 200), dtype=bool)
        maps[:, 20:70, 30:80] = True
        return maps

    def predict(self, image):
        masks = [coco.encode(np.asfortranarray(one, dtype=np.uint8)) for one in self.bitmaps()]
        return Detections(
            self.boxes,
            self.scores,
            self.labels,
            masks if self.masks else None,
            ["a", "b", "c"],
            None,
            (200, 100),
        )

    def found(self, **changed):
        values = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        masks = {"masks": self.bitmaps()} if self.masks else {}
        return {**values, **masks, **changed}


@pytest.fixture
def detector():
    return Fake(np.linspace(0.95, 0.2, TOTAL).astype(np.float32))


def agreement(detector, **changed):
    found = detector.found(**changed)
    return checked(detector, lambda image: found, {"picture": IMAGE})


def test_equal_detections_agree_in_any_order(detector):
    order = np.random.default_rng(1).permutation(TOTAL)
    found = {name: values[order] for name, values in detector.found().items()}
    made = checked(detector, lambda image: found, {"one": IMAGE, "two": IMAGE})
    assert (made.images, made.score, made.box, made.others) == (2, 0.0, 0.0, [])
    assert made.detections == 2 * (TOTAL - 1)  # of a full list, the last is left out


def test_rounding_is_allowed_and_told(detector):
    made = agreement(detector, scores=detector.scores + 5e-4, boxes=detector.boxes + 0.1)
    assert made.score == pytest.approx(5e-4, rel=1e-3) and made.box == pytest.approx(0.1, rel=1e-3)
    assert "scores differ by 5.0e-04 at most, boxes by 1.0e-01 pixels" in str(made)


@pytest.mark.parametrize(
    "changed",
    [
        lambda found: {"scores": found["scores"] + 2e-3},
        lambda found: {"boxes": found["boxes"] + 0.3},  # of 0.2, a thousandth of the longer side
        lambda found: {"labels": (found["labels"] + 1) % 3},
        lambda found: {name: values[::2] for name, values in found.items()},
    ],
)
def test_other_detections_are_refused_and_one_is_named(detector, changed):
    with pytest.raises(RunError, match=r"picture: . at \[.*\] with a score of 0\.\d{4} is found"):
        agreement(detector, **changed(detector.found()))


def test_what_only_the_file_finds_is_told(detector):
    once = {name: np.concatenate([v, v[:1]]) for name, v in detector.found().items()}
    made = agreement(detector, **once)
    assert len(made.others) == 1 and "found by the file only" in made.others[0]
    assert str(made).endswith("; 1 found by one only")
    twice = {name: np.concatenate([v, v[:2]]) for name, v in detector.found().items()}
    with pytest.raises(RunError, match=r"got 2 others beside 60 detections"):
        agreement(detector, **twice)


def test_scores_below_the_bound_need_not_agree(detector):
    low = Fake(np.concatenate([detector.scores, [0.04]]).astype(np.float32))
    scores = low.scores.copy()
    scores[-1] = 0.01
    assert agreement(low, scores=scores).others == []


def test_lower_scores_are_compared_where_there_are_few_others():
    low = Fake(np.linspace(0.04, 0.02, TOTAL).astype(np.float32))
    made = agreement(low)
    assert made.least < 0.04 and made.detections >= 10
    with pytest.raises(RunError):
        agreement(low, boxes=low.boxes + 1)


@pytest.mark.parametrize("scores", [[], [0.0011] * 5])
def test_nothing_to_compare_is_no_agreement(scores):
    with pytest.raises(RunError, match=r"could not be checked: .* \(check\) in which"):
        agreement(Fake(np.array(scores, dtype=np.float32)))


def test_masks_have_to_agree(detector):
    detector.masks = True
    assert agreement(detector).others == []
    other = detector.bitmaps()
    other[:, :30] = False
    with pytest.raises(RunError, match=r"the mask of . differs in 500 of 2500 pixels"):
        agreement(detector, masks=other)
