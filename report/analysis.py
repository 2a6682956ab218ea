"""Read results/ and compute what the report shows: accuracies, paired effects, loss spikes."""

import functools
import math
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from support.options import ASSIGNMENT_EPOCHS, CHOSEN_EPSILON
from support.pages import load_results
from support.statistics import Effect, correct

UNCHANGED = 'as in training.py'  # what the changes of search and spikes are compared with
LAST_WEIGHTS = 'last weights'    # what averaged weights are compared with
TESTED_AS_LSTM = 'ProxLSTM, tested as an LSTM'


def load(name):
    return load_results(Path(__file__).parent / 'results' / f'{name}.json')


@functools.cache
def group(name, *keys):
    """Return {value of `keys`: the runs of results/NAME.json that have it}, in the file's order."""
    groups = {}
    for run in load(name)['runs']:
        groups.setdefault(itemgetter(*keys)(run), []).append(run)
    return groups


def column(runs, key):
    return np.array([run[key] for run in runs])


class Setting(NamedTuple):
    """What is trained with every seed, and the epoch after which it is evaluated."""
    mode: str
    epsilon: float = 0.0
    variant: str = ''
    epochs: int = 100

    @property
    def runs(self):
        """Its entry of results.json for each seed; a run may be longer than `epochs`."""
        return group('results', *Setting._fields[:3])[self[:3]]


def variants():
    """Return the variants of section 6, dropout first."""
    return [variant for mode, variant in group('results', 'mode', 'variant')
            if mode == 'ProxLSTM' and variant]


def accuracy(setting, test='uci', window=1):
    """Return accuracies in per cent [seeds], NaN where a run diverged.

    `test` is 'uci', UCI's 370 sequences, 'test', the assignment's 351, or 'unseen', the 291 of
    these that are not in training. The last two are averaged over the last `window` epochs.
    """
    if test == 'uci':
        by_seed = {run['seed']: run['accuracy'] for run in group('uci', *Setting._fields)[setting]}
        values = [by_seed.get(run['seed'], math.nan) for run in setting.runs]
    else:
        histories = [run['history'][f'{test}_accuracy'][:setting.epochs] for run in setting.runs]
        values = [np.mean(history[-window:]) if len(history) == setting.epochs else math.nan
                  for history in histories]
    return 100 * np.array(values)


class Comparison(Effect):
    """The effect of `setting` on UCI's 370 test sequences at the last epoch.

    `last_ten` is its effect on the 291, averaged over the last ten epochs.
    """

    def __init__(self, label, setting, without):
        super().__init__(label, accuracy(setting), accuracy(without))
        self.setting = setting
        self.last_ten = Effect(label, *(accuracy(x, 'unseen', window=10)
                                        for x in (setting, without)))


def sweep_settings(mode):
    """Return the sweep's settings; those after more than the assignment's epochs come last."""
    epochs = ASSIGNMENT_EPOCHS[mode]
    settings = [Setting(mode, epsilon, epochs=epochs)
                for m, epsilon, variant in group('results', *Setting._fields[:3])
                if m == mode and not variant]
    if epochs < 100:
        settings += [Setting(mode), Setting(mode, CHOSEN_EPSILON[mode])]
    return settings


def sweep_effects(mode):
    """Return {label: Comparison} of every epsilon with the control after as many epochs."""
    return correct([Comparison(f'ε = {setting.epsilon:g}, {setting.epochs} epochs', setting,
                               setting._replace(epsilon=0.0))
                    for setting in sweep_settings(mode) if setting.epsilon])


def placement_effects():
    """Return {label: Comparison}: every variant without and with Prox, and Prox with it."""
    control, prox = ({name: Setting('ProxLSTM', epsilon, name) for name in ('', *variants())}
                     for epsilon in (0.0, CHOSEN_EPSILON['ProxLSTM']))
    return correct([
        *(Comparison(f'{name}, without Prox', control[name], control['']) for name in variants()),
        *(Comparison(f'{name}, added to Prox', prox[name], prox['']) for name in variants()),
        *(Comparison(f'Prox, added to {name}', prox[name], control[name]) for name in variants())])


def find_spikes(loss):
    """Return the spikes of a loss curve as pairs (begin, end) of epochs, counted from 0.

    A spike begins where the loss, after epoch 100, exceeds three times the median of the 20 epochs
    before. It lasts until the loss no longer exceeds that threshold, or for 100 epochs.
    """
    spikes, epoch = [], 100
    while epoch < len(loss):
        threshold = 3 * np.median(loss[epoch - 20:epoch])
        begin = epoch
        while epoch < min(len(loss), begin + 100) and loss[epoch] > threshold:
            epoch += 1
        if epoch > begin:
            spikes.append((begin, epoch))
        epoch += 1
    return spikes


@functools.cache
def spikes():
    """Return {cure: what 300 epochs of the base model show under it}.

    `runs`; `found`, the spikes of each; `seeds`, how many have any; `largest`, the median largest
    loss after epoch 100; `lowest` and `last`, each seed's lowest accuracy after epoch 100 and last
    accuracy, in per cent.
    """
    cures = {}
    for cure, runs in group('spikes', 'cure').items():
        found = [find_spikes(run['loss']) for run in runs]
        cures[cure] = SimpleNamespace(
            runs=runs, found=found, seeds=sum(map(bool, found)),
            largest=np.median([max(run['loss'][100:]) for run in runs]),
            lowest=np.array([100 * min(run['accuracy'][100:]) for run in runs]),
            last=np.array([100 * run['accuracy'][-1] for run in runs]))
    return cures


def cure_effects():
    """Return {cure: Effect on the last epoch's accuracy}."""
    return correct([Effect(cure, x.last, spikes()[UNCHANGED].last)
                    for cure, x in spikes().items() if cure != UNCHANGED])


def spike_stretch():
    """Return how many times as far as usual the weights move as a spike of the base model begins.

    The median over spikes; usual is the median of the 20 epochs before.
    """
    plain = spikes()[UNCHANGED]
    return np.median([run['moved'][begin] / np.median(run['moved'][begin - 20:begin])
                      for run, found in zip(plain.runs, plain.found) for begin, _ in found])
