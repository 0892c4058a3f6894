"""A bank of every method there is, and of BACL by every indicator."""

from field import VARIANTS, grown, in_short_epochs
from training import config_of

from bacl.indicators import INDICATORS
from bacl.settings import BACL, BCE, FCBL, Hallucination, Sigmoid, Softmax

HALLUCINATION = Hallucination(categories=3, samples=4)
GUIDED = {
    f"by_{indicator}": BACL(method="bacl", indicator=indicator, hallucination=HALLUCINATION)
    for indicator in INDICATORS.module_dict
}
OWN = {
    "softmax": Softmax(method="softmax"),
    "sigmoid": Sigmoid(method="sigmoid"),
    "bce": BCE(method="bce"),
    "fcbl": FCBL(method="fcbl", alpha=0, weight_term="none"),
    **GUIDED,
}


def everything(dataset_info, folder):
    """Configuration of a small stage with that bank; the forest's trees are put in `folder`."""
    variants = {**VARIANTS, "forest": grown(dataset_info, folder), **OWN}
    return in_short_epochs(config_of(dataset_info, variants, sampler="class_aware"))
