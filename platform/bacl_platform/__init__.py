"""Ray, MLflow and the command line around `bacl`, the method.

    import bacl_platform as bp
    experiment = bp.Experiment.load("experiments/embedded/demo.yaml")
    experiment.run()
    experiment.results()

What is offered here is found when it is first asked for, because most of it imports much.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bacl_platform.api.data import browse, export_fiftyone
    from bacl_platform.api.detectors import load_detector
    from bacl_platform.api.experiment import Experiment
    from bacl_platform.api.first_experiment import first_experiment
    from bacl_platform.api.judging import compare, compare_all, evaluate
    from bacl_platform.api.predicting import predict
    from bacl_platform.api.ship import promote, serve
    from bacl_platform.api.sweep import Sweep
    from bacl_platform.api.ui import ui
    from bacl_platform.store.store import Store

__all__ = [
    "Experiment",
    "Store",
    "Sweep",
    "browse",
    "compare",
    "compare_all",
    "evaluate",
    "export_fiftyone",
    "first_experiment",
    "load_detector",
    "predict",
    "promote",
    "serve",
    "ui",
]

_PLACES = {
    "Experiment": "api.experiment",
    "Store": "store.store",
    "Sweep": "api.sweep",
    "browse": "api.data",
    "compare": "api.judging",
    "compare_all": "api.judging",
    "evaluate": "api.judging",
    "export_fiftyone": "api.data",
    "first_experiment": "api.first_experiment",
    "load_detector": "api.detectors",
    "predict": "api.predicting",
    "promote": "api.ship",
    "serve": "api.ship",
    "ui": "api.ui",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
