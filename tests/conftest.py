"""Fixtures that several files of tests use."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """torch on one thread, as the programs' runs are: the same numbers bit for bit, and no waiting for a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
