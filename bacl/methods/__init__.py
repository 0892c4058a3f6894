"""Other authors' methods, a file each, as variants of a bank.

State that depends on the samples of all ranks is known only after a step, when everything has been
summed in one reduction. So a step's loss uses the state after the previous step.
"""

from bacl.methods import (  # noqa: F401
    acsl,
    bags,
    balms,
    cosine,
    disalign,
    droploss,
    eql,
    eqlv2,
    fasa,
    forest,
    loce,
    pcb,
    rio,
    seesaw,
    simcal,
    tde,
)
