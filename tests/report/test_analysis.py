import numpy as np
import pytest

from report.analysis import Setting, accuracy, find_spikes, load, sweep_effects
from support.options import CHOSEN_EPSILON


@pytest.mark.parametrize('mode, epochs', [('AdvLSTM', 50), ('AdvLSTM', 100), ('ProxLSTM', 100)])
def test_control_and_method_are_compared_after_as_many_epochs(mode, epochs):
    chosen = CHOSEN_EPSILON[mode]
    values = {epsilon: np.mean([run['accuracy'] for run in load('uci')['runs'] if
                                (run['mode'], run['epsilon'], run['variant'], run['epochs'])
                                == (mode, epsilon, '', epochs)]) for epsilon in (0.0, chosen)}
    effect = sweep_effects(mode)[f'ε = {chosen:g}, {epochs} epochs']
    assert effect.mean == pytest.approx(100 * (values[chosen] - values[0]))


def test_accuracy_after_fewer_epochs_is_that_of_the_curve():
    setting = Setting('AdvLSTM', 0.0, epochs=50)
    for test in ('test', 'unseen'):
        curves = [100 * np.array(run['history'][f'{test}_accuracy']) for run in setting.runs]
        assert accuracy(setting, test).tolist() == pytest.approx([y[49] for y in curves])
        assert accuracy(setting, test, window=10).tolist() == pytest.approx(
            [y[40:50].mean() for y in curves])


def test_a_run_that_diverged_has_no_accuracy(monkeypatch):
    runs = [dict(run, seed=seed) for seed, run in enumerate(Setting('plain').runs[:2])]
    runs.append({'seed': 99, 'history': {'test_accuracy': [0.5]}, 'diverged': 2})
    monkeypatch.setattr(Setting, 'runs', runs)
    for test in ('test', 'uci'):
        assert np.isnan(accuracy(Setting('plain'), test)).tolist() == [False, False, True]


def test_spikes_are_found_once_each_and_only_late():
    loss = np.full(300, 0.01)
    loss[50] = 9  # before epoch 100 nothing is counted
    loss[150:155] = [0.5, 0.4, 0.2, 0.1, 0.04]
    loss[220] = 0.029
    loss[290:] = 1
    assert find_spikes(loss) == [(150, 155), (290, 300)]
