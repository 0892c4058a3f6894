"""Work on some of many rows without waiting for a device."""

from torch import Tensor


def rows_of(wanted: Tensor) -> Tensor | slice:
    """An index of the rows that are `wanted` (N,): on the CPU of those alone, elsewhere of all.

    Elsewhere the host would wait to learn which they are, longer than it takes to work on all.
    """
    return wanted.nonzero()[:, 0] if wanted.device.type == "cpu" else slice(None)


def taken(values: Tensor, rows: Tensor | slice) -> Tensor:
    """The rows of `values` (N, ...) that `rows_of` gave; quicker than by indexing."""
    return values if isinstance(rows, slice) else values.index_select(0, rows)
