"""Comparison of an exported file with the detector that it was made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bacl.errors import RunError
from bacl_platform.inference.detections import Detections
from bacl_platform.inference.detector import Detector

Found = Mapping[str, NDArray[Any]]
"""Boxes, scores, labels, and masks if there are any, of an image."""

SCORE = 0.05
"""Detections that score less need not agree."""
TOLERANCE = 1e-3
"""Difference of scores, of boxes by the image's longer side, and share of a mask's pixels, that
rounding may make."""
LEAST_PIXELS = 2
"""Pixels of a mask that may differ in any case."""
LEAST_COMPARED = 10
"""If fewer score so much in all images, lower ones are compared until there are so many."""


OTHERS = 0.02
"""Share of the detections that may be other ones. Of two proposals that score nearly alike,
rounding decides which comes first and suppresses the other."""


@dataclass
class Agreement:
    """How far a file and its detector agree."""

    images: int = 0
    detections: int = 0
    """Those of the detector that were compared."""
    others: list[str] = field(default_factory=list)
    """What only one of both finds, in words."""
    least: float = SCORE
    """Lowest score that was compared."""
    score: float = 0.0
    """Largest difference of scores."""
    box: float = 0.0
    """Largest difference of boxes, in pixels."""

    def __str__(self) -> str:
        others = f"; {len(self.others)} found by one only" if self.others else ""
        return (
            f"{self.detections} detections that score {self.least:.2g} or more in {self.images} "
            f"images: scores differ by {self.score:.1e} at most, boxes by {self.box:.1e} "
            f"pixels{others}"
        )


def checked(
    detector: Detector,
    exported: Callable[[NDArray[np.uint8]], Found],
    images: Mapping[str, NDArray[np.uint8]],
) -> Agreement:
    """How far both agree on images (H, W, 3) in RGB, by their names.

    Raises RunError where more than `OTHERS` are other ones, or where there is nothing to find.
    """
    pairs = {name: (detector.predict(image), exported(image)) for name, image in images.items()}
    scores = np.sort(np.concatenate([expected.scores for expected, _ in pairs.values()]))[::-1]
    lowest = scores[:LEAST_COMPARED][-1].item() if len(scores) else 0.0
    agreement = Agreement(len(images), least=min(SCORE, lowest))
    threshold: float = detector.model.test_cfg.rcnn.score_thr
    for name, (expected, found) in pairs.items():
        compare(name, expected, found, threshold, agreement)
    if len(agreement.others) > OTHERS * agreement.detections:
        raise RunError(
            f"{agreement.others[0]}: expected the exported file to find what the detector finds, "
            f"got {len(agreement.others)} others beside {agreement.detections} detections"
        )
    if not agreement.detections:
        raise RunError(
            "the export could not be checked: expected images (check) in which the detector finds "
            f"something, its scores in {', '.join(images)} are all next to its threshold"
        )
    return agreement


def compare(
    name: str, expected: Detections, found: Found, threshold: float, agreement: Agreement
) -> None:
    """Add an image's detections to the agreement, whichever of equal ones came first.

    threshold: the lowest score that a detector gives. There, and at the end of a full list, scores
    nearer than the tolerance may have given the last place to either, and are left out.
    """
    theirs = (expected.boxes, expected.scores, expected.labels)
    ours = (found["boxes"], found["scores"], found["labels"])
    last = threshold
    if len(expected) == len(found["scores"]) > 0:
        last = max(last, min(expected.scores.min().item(), found["scores"].min().item()))
    floor = max(agreement.least, last + TOLERANCE)
    for one, other, finder in ((theirs, ours, "the detector"), (ours, theirs, "the file")):
        free = np.ones(len(other[1]), dtype=bool)
        for place in np.flatnonzero(one[1] >= floor):
            box, score, label = (values[place] for values in one)
            apart = np.abs(other[0] - box).max(axis=1, initial=0)
            near = free & (other[2] == label) & (np.abs(other[1] - score) <= TOLERANCE)
            near &= apart <= TOLERANCE * max(expected.size)
            if not near.any():
                at = [round(side, 1) for side in box.tolist()]
                agreement.others.append(
                    f"{name}: {expected.categories[label]} at {at} with a score of {score:.4f} is "
                    f"found by {finder} only"
                )
                continue
            match = np.flatnonzero(near)[apart[near].argmin()]
            free[match] = False
            if one is theirs:
                agreement.detections += 1
                agreement.score = max(agreement.score, abs(other[1][match] - score).item())
                agreement.box = max(agreement.box, apart[match].item())
                if problem := _other_mask(expected, found, place, match):
                    agreement.others.append(f"{name}: {problem}")


def _other_mask(expected: Detections, found: Found, place: int, match: int) -> str | None:
    """In words, how the masks of a detection differ; None where they do not."""
    if expected.masks is None:
        return None
    from pycocotools import mask as coco

    own = coco.decode(expected.masks[place]).astype(bool)
    differing = (own != found["masks"][match]).sum()
    if differing <= max(TOLERANCE * own.sum(), LEAST_PIXELS):
        return None
    category = expected.categories[expected.labels[place]]
    return f"the mask of {category} differs in {differing} of {own.sum()} pixels"
