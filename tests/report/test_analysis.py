import numpy as np
import pytest

from report.analysis import Setting, accuracy, find_spikes, sweep_effects, uci_accuracy
from support.options import CHOSEN_EPSILON


def test_control_and_method_are_compared_after_as_many_epochs():
    for mode, epochs in (('AdvLSTM', 50), ('ProxLSTM', 100)):
        epsilon, values = CHOSEN_EPSILON[mode], uci_accuracy()
        expected = np.mean([values[mode, epsilon, '', epochs, seed]
                            - values[mode, 0.0, '', epochs, seed] for seed in range(8)])
        assert sweep_effects(mode)[f'ε = {epsilon:g}'].mean == pytest.approx(100 * expected)


def test_accuracy_after_fewer_epochs_is_that_of_the_curve():
    setting = Setting('AdvLSTM', 0.0, epochs=50)
    for test, key in (('all', 'test_accuracy'), ('unseen', 'unseen_accuracy')):
        expected = [100 * run['history'][key][49] for run in setting.runs]
        assert accuracy(setting, test).tolist() == pytest.approx(expected)


def test_spikes_are_found_once_each_and_only_late():
    loss = np.full(300, 0.01)
    loss[50] = 9  # before epoch 100 nothing is counted
    loss[150:155] = [0.5, 0.4, 0.2, 0.1, 0.04]
    loss[220] = 0.029
    loss[290:] = 1
    assert find_spikes(loss) == [(150, 155), (290, 300)]
