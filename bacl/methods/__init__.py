"""The field's other methods, a file each, as variants of a bank.

What they ask of all ranks' samples of a step is known after it, when everything has been summed in
one reduction; so whatever a step's loss takes of such state is that of the steps before.
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
