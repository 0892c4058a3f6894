"""What detections match where several boxes would do, against pycocotools' rule."""

import numpy as np
import pytest

from bacl.evaluation.matching import Boxes, box_overlap, match


@pytest.mark.parametrize(("second", "right"), [(0.0, True), (4.0, False)])
def test_of_boxes_that_overlap_equally_the_last_is_taken(second, right):
    # The first detection lies between two boxes; the second one is one of them.
    bbox = np.array([[0.0, 0, 10, 10], [4, 0, 10, 10]])
    none, crowd = np.zeros(2, dtype=np.int64), np.zeros(2, dtype=bool)
    truth = Boxes(none, none, bbox, crowd)
    found = np.array([[2.0, 0, 10, 10], [second, 0, 10, 10]])
    matches = match(none, none, np.array([0.9, 0.8]), truth, box_overlap(found, truth), crowd)
    assert matches.right[0].tolist() == [True, right]
