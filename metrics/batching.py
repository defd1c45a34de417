"""Consecutive indices in batches: blocks of rows, and rounds in which each rank has a batch."""

from __future__ import annotations


def split(indices: range, size: int) -> list[range]:
    """Return consecutive parts of `size` indices; the last one may be shorter.

    Raises:
        ValueError: The size is not positive.
    """
    if size < 1:
        raise ValueError(f'The batch size must be 1 or more, got {size}.')
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def row_blocks(count: int, size: int) -> list[slice]:
    """Return slices of `size` rows that together cover `count` rows; the last one may be shorter."""
    return [slice(part.start, part.stop) for part in split(range(count), size)]


def rounds(count: int, size: int, num_ranks: int) -> list[list[range]]:
    """Return rounds of one batch for each rank, which together cover the indices from 0 to `count` - 1 in order.

    The last batches may be short, or empty: `range(count, count)`.
    """
    batches = split(range(count), size)
    batches += [range(count, count)] * (-len(batches) % num_ranks)
    return [batches[first : first + num_ranks] for first in range(0, len(batches), num_ranks)]
