"""Every test of the training starts without statistics, and leaves none behind."""

import pytest

from torch_utils import training_stats


@pytest.fixture(autouse=True)
def fresh_statistics():
    training_stats.reset()
    yield
    training_stats.reset()
