"""Detectors, of an experiment or of files."""

from pathlib import Path
from typing import TYPE_CHECKING

from bacl_platform.api.experiment import Experiment

if TYPE_CHECKING:
    from bacl_platform.inference.detector import Detector


def load_detector(
    source: str | Path | Experiment,
    variant: str | None = None,
    device: str | None = None,
    optimize: bool = False,
) -> "Detector":
    """A detector that is ready to detect.

    source: an experiment or its file, of which `variant` is taken with the first seed; or the
    folder of an exported variant, or a checkpoint that has its `config.py` beside it. device: as
    torch calls it; None takes a GPU where there is one. optimize: on a CPU, compile the networks,
    which takes some seconds and then a quarter off each image; results differ by rounding.
    """
    from bacl_platform.inference.detector import Detector

    if isinstance(source, str | Path) and Path(source).suffix in (".yaml", ".yml"):
        source = Experiment.load(source)
    if isinstance(source, Experiment):
        return Detector.load(source.checkpoint(variant), device=device, optimize=optimize)
    return Detector.load(Path(source), device=device, optimize=optimize)
