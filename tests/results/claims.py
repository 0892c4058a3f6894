"""What the paper claims, and whether a study's tables bear it out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from bacl_platform.analysis.differences import interval_text, signed
from bacl_platform.analysis.matrix import Matrix

Verdict = Literal["holds here", "does not hold here", "cannot be told at this size"]


@dataclass(frozen=True)
class Claim:
    """That a row of a table is better than others by a metric.

    better, others: labels of rows. without_loss: that it is not worse, which no test can show: it
    holds where the interval leaves out a loss of a point.
    """

    text: str
    table: str
    better: str
    others: tuple[str, ...]
    metric: str
    without_loss: bool = False


NONE = "alpha=0, weight_term=none, hallucination=none"
MARGIN = "alpha=0.85, weight_term=none, hallucination=none"
WEIGHT = "alpha=0, weight_term=both, hallucination=none"
MADE = "alpha=0, weight_term=none, hallucination=categories:8"
MARGIN_WEIGHT = "alpha=0.85, weight_term=both, hallucination=none"
MARGIN_MADE = "alpha=0.85, weight_term=none, hallucination=categories:8"
WEIGHT_MADE = "alpha=0, weight_term=both, hallucination=categories:8"
ALL = "alpha=0.85, weight_term=both, hallucination=categories:8"

SECOND = ("simcal", "forest_rcnn")

CLAIMS = [
    Claim("objectness helps stage 1", "I", "+ objectness", ("sigmoid",), "AP"),
    Claim("… twice the proposals add to it", "I", "+ twice the proposals", ("+ objectness",), "AP"),
    Claim(
        "… half the weight decay", "I", "+ half the weight decay", ("+ twice the proposals",), "AP"
    ),
    Claim("… Copy-Paste", "I", "+ Copy-Paste", ("+ half the weight decay",), "AP"),
    Claim("decoupled training is better than end to end", "X", "decoupled", ("end to end",), "AP"),
    Claim("… for rare categories", "X", "decoupled", ("end to end",), "AP_r"),
    Claim("BACL is better than SimCal and Forest R-CNN", "XIII", "bacl", SECOND, "AP"),
    Claim("… for rare categories", "XIII", "bacl", SECOND, "AP_r"),
    Claim("BACL is better than the plain classifier", "XIII", "bacl", ("sce",), "AP"),
    Claim("… most of all for rare categories", "XIII", "bacl", ("sce",), "AP_r"),
    Claim("… also by AP-Fixed", "XIII", "bacl", ("sce",), "APFixed"),
    Claim("… also for rare categories by AP-Fixed", "XIII", "bacl", ("sce",), "APFixed_r"),
    Claim("… without loss for frequent ones", "XIII", "bacl", ("sce",), "AP_f", True),
    Claim("objectness helps a sigmoid classifier", "XIII", "bce", ("bce_plain",), "AP"),
    Claim("the margin alone helps", "III", MARGIN, (NONE,), "AP"),
    Claim("… rare categories", "III", MARGIN, (NONE,), "AP_r"),
    Claim("the weight term alone helps", "III", WEIGHT, (NONE,), "AP"),
    Claim("hallucination alone helps", "III", MADE, (NONE,), "AP"),
    Claim(
        "… rare categories more than margin and weight term", "III", MADE, (MARGIN_WEIGHT,), "AP_r"
    ),
    Claim("the margin adds to weight term and hallucination", "III", ALL, (WEIGHT_MADE,), "AP"),
    Claim("the weight term adds to margin and hallucination", "III", ALL, (MARGIN_MADE,), "AP"),
    Claim("hallucination adds to margin and weight term", "III", ALL, (MARGIN_WEIGHT,), "AP"),
    Claim(
        "the confusion matrix is the best indicator",
        "Fig. 4",
        "indicator=confusion_matrix",
        tuple(
            f"indicator={name}"
            for name in ("image_frequency", "instance_frequency", "instance_number", "mean_score")
        ),
        "AP",
    ),
    Claim(
        "probabilities make a better confusion matrix than decisions",
        "VIII",
        "indicator=confusion_matrix",
        ("indicator=hard_confusion_matrix",),
        "AP",
    ),
    Claim("alpha = 0.85 is better than no margin", "IV", "alpha=0.85", ("alpha=0",), "AP"),
    Claim("p_t = 0.7 is best", "V", "threshold=0.7", ("threshold=0.9", "threshold=0.5"), "AP"),
    Claim("beta = 0.9 is best", "VI", "beta=0.9", ("beta=0.95", "beta=0.85"), "AP"),
    Claim(
        "c = 8, m = 12 is best",
        "VII",
        "categories=8, samples=12",
        ("categories=12, samples=12", "categories=8, samples=8", "categories=4, samples=12"),
        "AP",
    ),
    Claim(
        "both conditions of the weight term are better than p_j >= p_i alone",
        "IX",
        "weight_term=both",
        ("weight_term=misclassified",),
        "AP",
    ),
    Claim(
        "… than p_j >= p_t alone", "IX", "weight_term=both", ("weight_term=overconfident",), "AP"
    ),
    Claim(
        "… which is far worse if it weights a sample's own category",
        "IX",
        "weight_term=overconfident",
        ("weight_term=overconfident_own",),
        "AP",
    ),
    Claim(
        "BACL is better than other decoupled methods",
        "XIII",
        "bacl",
        ("bags", "acsl", "disalign", "loce"),
        "AP",
    ),
    Claim("… for rare categories", "XIII", "bacl", ("bags", "acsl", "disalign", "loce"), "AP_r"),
    Claim(
        "BACL is better than equalization and Seesaw losses",
        "XIII",
        "bacl",
        ("eql", "eqlv2", "droploss", "seesaw"),
        "AP",
    ),
]


def judged(claim: Claim, matrix: Matrix, rows: Mapping[str, str]) -> tuple[Verdict, str]:
    """Whether a claim holds, and the gains over each other row that say so.

    matrix: of the claim's table, corrected for its number of pairs. rows: the variant of each of
    the table's labels.
    """
    better = matrix.names.index(rows[claim.better])
    verdicts, gains = [], []
    for label in claim.others:
        other = matrix.names.index(rows[label])
        gain = matrix.gain(claim.metric, better, other)
        change = matrix.change(claim.metric, better, other)
        sign = 1 if other < better else -1
        low, high = sorted((sign * change.low, sign * change.high))
        interval = interval_text(type(change)(0, 0, low, high, []))
        against = f" over {label}" if len(claim.others) > 1 else ""
        gains.append(f"{signed(gain)} {interval}{against}")
        standing = matrix.standing(claim.metric, better, other)
        if claim.without_loss:
            verdicts.append("+" if low > -0.01 else "-" if high < -0.01 else ".")
        else:
            verdicts.append(standing)
    if all(found == "+" for found in verdicts):
        return "holds here", "; ".join(gains)
    if "-" in verdicts:
        return "does not hold here", "; ".join(gains)
    return "cannot be told at this size", "; ".join(gains)
