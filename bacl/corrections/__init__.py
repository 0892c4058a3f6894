"""Corrections of a trained classifier's scores, a file each, as variants of a bank that do not
train."""

from bacl.corrections import (  # noqa: F401
    logit_adjustment,
    logn,
    norcal,
    tde_alpha,
    temperature,
)
