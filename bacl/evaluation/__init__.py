"""Evaluation of detections: their columns, which of them are right, and metrics."""

from bacl.evaluation.bank_metric import BankMetric
from bacl.evaluation.detections import Detections
from bacl.evaluation.evaluator import MAX_DETECTIONS, Evaluator, Result, evaluate
from bacl.evaluation.fixed import Unlimited, best_of_categories, read_unlimited

__all__ = [
    "MAX_DETECTIONS",
    "BankMetric",
    "Detections",
    "Evaluator",
    "Result",
    "Unlimited",
    "best_of_categories",
    "evaluate",
    "read_unlimited",
]
