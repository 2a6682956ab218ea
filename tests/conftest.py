"""Fixtures that several test files use."""

import pytest
import torch

import ProxLSTM
import training
from load_data import DEFAULT_PATH, load_data
from support.options import get_args
from tests.helpers import NO_NATIVE_SOLVER, outcome, sweep_arguments, write_waves

torch.set_num_threads(1)  # tests are fast on a busy machine, and the same bit for bit


@pytest.fixture
def two_threads():
    """Run a test with two threads of torch."""
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope='session')
def data():
    """The training and test minibatches of the default data."""
    return load_data(DEFAULT_PATH)


@pytest.fixture(scope='session')
def sweep(tmp_path_factory):
    """The arguments of a short sweep, and all that it writes when nothing disturbs it."""
    folder = tmp_path_factory.mktemp('sweep')
    arguments = sweep_arguments(write_waves(folder / 'waves.mat'))
    training.main(get_args([*arguments, '--output-dir', str(folder), '--jobs', '1']))
    return arguments, outcome(folder)


@pytest.fixture(params=['native', 'PyTorch'])
def solver(request, monkeypatch):
    """Run a test with the solver in C, and with the one that serves without a C compiler."""
    if request.param == 'PyTorch':
        monkeypatch.setattr(ProxLSTM, 'load_native', lambda: None)
    elif NO_NATIVE_SOLVER:
        pytest.skip('no C compiler, or switched off')
    else:
        assert ProxLSTM.load_native()
    return request.param
