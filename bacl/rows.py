"""Selection of rows without waiting for a device."""

from torch import Tensor


def rows_of(wanted: Tensor) -> Tensor | slice:
    """An index of at least the rows that are `wanted` (N,): exactly those on the CPU, all rows
    elsewhere.

    On other devices, waiting for the selection would take the host longer than computing all rows.
    """
    return wanted.nonzero()[:, 0] if wanted.device.type == "cpu" else slice(None)


def taken(values: Tensor, rows: Tensor | slice) -> Tensor:
    """The rows of `values` (N, ...) in an index from `rows_of`; quicker than plain indexing."""
    return values if isinstance(rows, slice) else values.index_select(0, rows)
