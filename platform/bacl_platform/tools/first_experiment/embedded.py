"""Choices for the embedded set, those of `experiments/embedded/demo.yaml`."""

from bacl_platform.tools.first_experiment.choices import Choices, Length, resources_of
from bacl_platform.tools.first_experiment.starts import Machine

NAME = "embedded"


def choices(machine: Machine) -> Choices:
    """Settings that train in minutes on two CPU cores."""
    why = {
        "backbone": "a small network from random weights, for a CPU",
        "scales": "the set's images are 128 x 128",
        "max_detections": "24 categories, up to 5 objects in an image; LVIS's 300 would hide any "
        "ranking",
        "match_low_quality": "with so few proposals; the paper's detector has true",
        "representation": "14 epochs of 800 images",
        "classifier": "6 epochs",
    }
    return Choices(
        groups=None,
        detector={
            "backbone": "tiny",
            "neck_channels": 48,
            "fc_channels": 128,
            "anchor_scale": 6,
            "rpn_samples": 128,
            "roi_samples": 64,
            "match_low_quality": False,
            "test_proposals": 200,
            "max_detections": 30,
        },
        batch=16,
        representation=Length("iterations", 700, (490, 640), 0.02, 16, 100),
        classifier=Length("iterations", 300, (210, 275), 0.02, 16, 50),
        images={
            "scales": [[128, 128]],
            "test_scale": [128, 128],
            "proposals": 200,
            "proposals_before_nms": 200,
            "loader_workers": 0,
            "checkpoint_every": 100,
        },
        optimizer=None,
        hallucination=None,
        resources=resources_of(machine, why),
        why=why,
    )
