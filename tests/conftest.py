"""Fixtures that several files of tests use."""

import sys

import pytest
import torch

import training


@pytest.fixture
def one_thread():
    """torch on one thread, as the programs' runs are: the same numbers bit for bit, and no waiting for a busy core."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def finished(monkeypatch, capsys):
    """A function: training.py on these arguments, in this process which is quicker. Returns what it prints, (out, err)."""
    def run(*arguments):
        monkeypatch.setattr(sys, 'argv', ['training.py', *map(str, arguments)])
        monkeypatch.setattr(training.signal, 'signal', lambda *_: None)
        training.main()
        return capsys.readouterr()

    return run
