"""Versions of results, which invalidate finished jobs when a change of the code changes results.

The key of a finished job holds the versions of the parts that it used (`versions_of`), and of no
others. Any edit that leaves results as they are leaves keys as they are. Where results change on
purpose, whoever changes them raises the part's version in `VERSIONS`; tests/bacl/test_golden.py
fails until that is done.
"""

from bacl.extensions import source_digest
from bacl.method_settings.indicators import INDICATORS
from bacl.method_settings.registry import METHODS, Variant
from bacl.settings import Detector, Recipe

VERSIONS: dict[str, int] = {
    "method.simcal": 2,  # 1 froze the FCs of its own box head together with the trunk's
}
"""Version of each part; parts that are not listed have version 1. The parts are:

- `training`: the parts common to all stages, such as box losses, sampling of regions, optimizer,
  draws;
- `evaluation`: the selection of detections and their metrics;
- `detector.TYPE`, `sampler.NAME`, `augmentation.NAME`;
- `resampling`: `recipe.proposal_nms`;
- `features`: what is stored of images, and how banks train on it;
- `imported`: what is taken of other projects' checkpoints;
- `method.NAME`, `indicator.NAME`, `hallucination`.
"""


def versions_of(detector: Detector, recipe: Recipe, variant: Variant) -> dict[str, int | str]:
    """Versions of the parts on which a variant's results depend, those of its stage included.

    The version of a method or an indicator from outside of BACL is the digest of its sources.
    """
    parts = _of_the_stage(detector, recipe)
    if recipe.features == "replay":
        parts.append("features")
    if getattr(variant, "hallucination", None) is not None:
        parts.append("hallucination")
    modules: dict[str, str] = {}
    if indicator := getattr(variant, "indicator", None):
        modules[f"indicator.{indicator}"] = INDICATORS[indicator]
    # a method that extends another's settings extends its computation
    names = {settings: name for name, settings in METHODS.items()}
    for base in type(variant).__mro__:
        if base in names:
            modules[f"method.{names[base]}"] = base.__module__
    outside = {part: source_digest(module) for part, module in modules.items()}
    return {
        **{part: version_of(part) for part in parts},
        **{part: digest or version_of(part) for part, digest in outside.items()},
    }


def versions_of_features(detector: Detector, recipe: Recipe) -> dict[str, int | str]:
    """Versions of the parts on which stored features depend."""
    parts = [*_of_the_stage(detector, recipe), "features"]
    unused = ("evaluation", f"sampler.{recipe.sampler}")
    return {part: version_of(part) for part in parts if part not in unused}


def _of_the_stage(detector: Detector, recipe: Recipe) -> list[str]:
    parts = [
        "training",
        "evaluation",
        f"detector.{'config' if detector.config else detector.type}",
        f"sampler.{recipe.sampler}",
        f"augmentation.{recipe.augmentation}",
    ]
    return parts if recipe.proposal_nms is None else [*parts, "resampling"]


def version_of(part: str) -> int:
    """The version of a part of BACL."""
    return VERSIONS.get(part, 1)
