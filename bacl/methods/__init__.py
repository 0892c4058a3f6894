"""Other authors' methods, a file each, as variants of a bank.

State that depends on the samples of all ranks is known only after a step, when everything has been
summed in one reduction. So a step's loss uses the state after the previous step.
"""

from bacl.methods import (  # noqa: F401
    acsl,
    bags,
    balms,
    class_balanced,
    cosine,
    disalign,
    droploss,
    ecm,
    eql,
    eqlv2,
    fasa,
    federated,
    focal,
    forest,
    gol,
    ldam,
    loce,
    logit_adjusted,
    pcb,
    rio,
    rog,
    seesaw,
    simcal,
    tde,
)
