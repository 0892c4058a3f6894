"""Versions of results: which finished jobs a change of the code makes worthless.

The key of a finished job holds the versions of the parts that it used (`parts_of`), and of no
others. Any edit that leaves results as they are leaves keys as they are. Where results change on
purpose, whoever changes them raises the part's version in `VERSIONS`; tests/bacl/test_golden.py
fails until that is done.
"""

from bacl.method_settings import METHODS, Variant
from bacl.settings import Detector, Recipe

VERSIONS: dict[str, int] = {}
"""By part; what is not here is at 1.

- `training`: what every stage has, such as losses of boxes, sampling of regions, optimizer, draws;
- `evaluation`: from detections to metrics, and which detections are kept;
- `detector.TYPE`, `sampler.NAME`, `augmentation.NAME`;
- `resampling`: `recipe.proposal_nms`;
- `method.NAME`, `indicator.NAME`, `hallucination`.
"""


def parts_of(detector: Detector, recipe: Recipe, variant: Variant) -> list[str]:
    """The parts on which a variant's results depend, those of its stage included."""
    parts = [
        "training",
        "evaluation",
        f"detector.{detector.type}",
        f"sampler.{recipe.sampler}",
        f"augmentation.{recipe.augmentation}",
    ]
    if recipe.proposal_nms is not None:
        parts.append("resampling")
    # a method that extends another's settings extends its computation
    known = {settings: name for name, settings in METHODS.items()}
    parts += [f"method.{known[base]}" for base in type(variant).__mro__ if base in known]
    if indicator := getattr(variant, "indicator", None):
        parts.append(f"indicator.{indicator}")
    if getattr(variant, "hallucination", None) is not None:
        parts.append("hallucination")
    return parts


def version_of(part: str) -> int:
    """The version of a part."""
    return VERSIONS.get(part, 1)
