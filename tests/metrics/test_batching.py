"""Ranges in batches, over rows and over ranks."""

import itertools

import pytest

from metrics.batching import rounds, row_blocks, split


def test_batches_cover_a_range_in_order():
    assert split(range(3, 10), 3) == [range(3, 6), range(6, 9), range(9, 10)]
    assert split(range(0), 3) == []
    assert row_blocks(5, 2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    with pytest.raises(ValueError, match='must be 1 or more, got 0'):
        row_blocks(5, 0)


@pytest.mark.parametrize('count, size, num_ranks', [(10, 3, 1), (10, 3, 2), (10, 3, 4), (12, 3, 4), (1, 8, 3)])
def test_rounds_have_a_batch_for_every_rank(count, size, num_ranks):
    groups = rounds(count, size, num_ranks)
    assert all(len(batches) == num_ranks and batches[0] for batches in groups)
    assert list(itertools.chain(*itertools.chain(*groups))) == list(range(count))
    assert all(batches[-1].stop == min(count, (i + 1) * size * num_ranks) for i, batches in enumerate(groups))
