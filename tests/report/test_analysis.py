import numpy as np
import pytest

from report.analysis import (Comparison, Setting, accuracy, alternative_effects, find_spikes, load,
                             placement_effects, primary_effects, secondary_effects, sweep_effects)
from support.options import CHOSEN_EPSILON


@pytest.mark.parametrize('mode, epochs', [('AdvLSTM', 50), ('AdvLSTM', 100), ('ProxLSTM', 100)])
def test_control_and_method_are_compared_after_as_many_epochs(mode, epochs):
    chosen = CHOSEN_EPSILON[mode]
    effect, = (effect for effect in sweep_effects(mode)
               if (effect.setting.epsilon, effect.setting.epochs) == (chosen, epochs))
    for key, found in (('averaged_accuracy', effect), ('accuracy', effect.last)):
        means = [np.mean([run[key] for run in load('uci')['runs'] if
                          (run['mode'], run['epsilon'], run['variant'], run['epochs'])
                          == (mode, epsilon, '', epochs)]) for epsilon in (chosen, 0.0)]
        assert found.mean == pytest.approx(100 * (means[0] - means[1]))


def test_a_comparison_pairs_the_seeds_that_both_have():
    few, many = Setting('ProxLSTM', 0.5), Setting('ProxLSTM')
    assert few.runs.keys() < many.runs.keys()
    found = Comparison('', few, many)
    expected = [accuracy(few)[seed] - accuracy(many)[seed] for seed in sorted(few.runs)]
    assert found.difference == pytest.approx(expected, abs=1e-6) and len(expected) == 16


def test_every_comparison_but_the_primary_ones_is_of_the_family():
    labels = list(secondary_effects())
    assert len(labels) == len(set(labels)) and set(primary_effects()) == set(CHOSEN_EPSILON)
    shown = [e for mode in CHOSEN_EPSILON for e in sweep_effects(mode)]
    shown += [*alternative_effects(), *placement_effects()]
    assert len(shown) == len(labels) + len(primary_effects())
    p = sorted(e.p for e in secondary_effects().values())
    smallest = min(secondary_effects().values(), key=lambda e: e.p)
    assert smallest.p_holm == pytest.approx(min(1, len(labels) * p[0]))


def test_accuracy_after_fewer_epochs_is_that_of_the_curve():
    setting = Setting('AdvLSTM', 0.0, epochs=50)
    for test in ('test', 'unseen'):
        for averaged, key in ((True, f'averaged_{test}_accuracy'), (False, f'{test}_accuracy')):
            curves = {seed: run['history'][key] for seed, run in setting.runs.items()}
            assert accuracy(setting, test, averaged) == pytest.approx(
                {seed: 100 * y[49] for seed, y in curves.items()})


def test_a_run_that_diverged_has_no_accuracy(monkeypatch):
    runs = {seed: dict(run, diverged=2 if seed == 101 else None)
            for seed, run in Setting('plain').runs.items()}
    monkeypatch.setattr(Setting, 'runs', runs)
    assert accuracy(Setting('plain'), 'test').keys() == runs.keys() - {101}


def test_spikes_are_found_once_each_and_only_late():
    loss = np.full(300, 0.01)
    loss[50] = 9  # before epoch 100 nothing is counted
    loss[150:155] = [0.5, 0.4, 0.2, 0.1, 0.04]
    loss[220] = 0.029
    loss[290:] = 1
    assert find_spikes(loss) == [(150, 155), (290, 300)]
