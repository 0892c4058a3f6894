"""Evaluations that count what lies beyond the detector's limit per image."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from bacl_platform.train.model import bare_model


class Unlimited(Hook):
    """Lets the detector hand on to the evaluation what AP-Fixed counts beyond the limit."""

    def before_val_epoch(self, runner: Runner) -> None:
        # by now the detector's parts are registered, which finds the operators that this imports
        from bacl.detector.unlimited import hand_on

        for metric in runner.val_evaluator.metrics:
            hand_on(bare_model(runner.model), metric.beyond)
