"""The numbers of results/: accuracies over seeds, paired effects, cross-validation, loss spikes."""

import functools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from support.options import ASSIGNMENT_EPOCHS, CHOSEN_EPSILON
from support.pages import load_results
from support.statistics import Effect, correct

UNCHANGED = 'as in training.py'  # what the changes of search and spikes are compared with


class Setting(NamedTuple):
    """What is trained with every seed, and the epoch after which it is looked at."""
    mode: str
    epsilon: float = 0.0
    variant: str = ''
    epochs: int = 100

    @property
    def runs(self):
        """Its entry of results.json for every seed; a run may be longer than `epochs`."""
        return [runs_by_key()[*self[:3], seed] for seed in range(number_of_seeds())]


class Comparison(Effect):
    """An effect on UCI's 370 test sequences at the last epoch.

    `last_ten` is the same effect on the 291, averaged over the last ten epochs.
    """

    def __init__(self, label, with_it, without):
        super().__init__(label, accuracy(with_it), accuracy(without))
        self.last_ten = Effect(label, steady_accuracy(with_it), steady_accuracy(without))


def load(name):
    return load_results(Path(__file__).parent / 'results' / f'{name}.json')


def number_of_seeds():
    return load('results')['config']['seeds']


@functools.cache
def runs_by_key():
    """Return {(mode, epsilon, variant, seed): entry of results.json}."""
    return {(r['mode'], r['epsilon'], r['variant'], r['seed']): r for r in load('results')['runs']}


@functools.cache
def uci_accuracy():
    """Return {(mode, epsilon, variant, epochs, seed): accuracy on UCI's 370, a fraction}."""
    return {(r['mode'], r['epsilon'], r['variant'], r['epochs'], r['seed']): r['accuracy']
            for r in load('uci')['runs']}


def epsilons(mode):
    """Return the epsilons of the sweep, ascending, the control's 0 first."""
    return sorted({key[1] for key in runs_by_key() if key[0] == mode and not key[2]})


def variants():
    """Return the variants of section 6, dropout first."""
    return sorted({variant for _, _, variant, _ in runs_by_key() if variant},
                  key=lambda name: (name.startswith('batch'), name))


# ------------------------------------------------------------------------------------ accuracies

def accuracy(setting, test='uci'):
    """Return accuracies in per cent [seeds], NaN where a run diverged.

    `test` is 'all', the 351 test sequences, 'unseen', the 291 not in training, or 'uci', UCI's 370.
    """
    if test == 'uci':
        return 100 * np.array([math.nan if run['diverged'] is not None else
                               uci_accuracy()[*setting, run['seed']] for run in setting.runs])
    key = {'all': 'test_accuracy', 'unseen': 'unseen_accuracy'}[test]
    epochs = [run['history'][key][setting.epochs - 1:] for run in setting.runs]
    return 100 * np.array([epoch[0] if epoch else math.nan for epoch in epochs])


def steady_accuracy(setting, window=10):
    """Return accuracies in per cent [seeds] on the 291, averaged over the last `window` epochs."""
    n = setting.epochs
    histories = [run['history']['unseen_accuracy'][:n] for run in setting.runs]
    return 100 * np.array([np.mean(history[-window:]) if len(history) == n else math.nan
                           for history in histories])


# --------------------------------------------------------------------------------------- effects

@functools.cache
def sweep_effects(mode):
    """Return {label: Comparison} of every epsilon with the control after as many epochs."""
    epochs, chosen = ASSIGNMENT_EPOCHS[mode], CHOSEN_EPSILON[mode]
    control = Setting(mode, epochs=epochs)
    effects = [Comparison(f'ε = {epsilon:g}', Setting(mode, epsilon, epochs=epochs), control)
               for epsilon in epsilons(mode)[1:]]
    if epochs < 100:
        effects.append(
            Comparison(f'ε = {chosen:g}, 100 epochs', Setting(mode, chosen), Setting(mode)))
    return correct(effects)


@functools.cache
def placement_effects():
    """Return {label: Comparison}: every variant without and with Prox, and Prox with it."""
    control, prox = Setting('ProxLSTM'), Setting('ProxLSTM', CHOSEN_EPSILON['ProxLSTM'])
    names = {variant.removesuffix(' 0.5'): variant for variant in variants()}
    alone, both = ({name: setting._replace(variant=variant) for name, variant in names.items()}
                   for setting in (control, prox))
    return correct([
        *(Comparison(f'{name}, without Prox', alone[name], control) for name in names),
        *(Comparison(f'{name}, added to Prox', both[name], prox) for name in names),
        *(Comparison(f'Prox, added to {name}', both[name], alone[name]) for name in names)])


# ---------------------------------------------------------------------- cross-validation, inside

def tuning_gains(mode):
    """Return {epsilon: accuracies minus the control's in points [folds]}."""
    records = load({'AdvLSTM': 'tune_adv', 'ProxLSTM': 'tune_prox'}[mode])['runs']
    values = {(r['epsilon'], r['repeat'], r['fold']): r['accuracy'] for r in records}
    return {epsilon: 100 * np.array([value - values[0, *fold]
                                     for (e, *fold), value in values.items() if e == epsilon])
            for epsilon in sorted({r['epsilon'] for r in records}) if epsilon}


def inside():
    """Return {epsilon: {'moved', 'lambda_max', 'iterations': array [seeds]}}, ascending."""
    by_epsilon = {}
    for record in load('inside')['runs']:
        by_epsilon.setdefault(record['epsilon'], []).append(record)
    return {epsilon: {key: np.array([r[key] for r in records])
                      for key in ('moved', 'lambda_max', 'iterations')}
            for epsilon, records in sorted(by_epsilon.items())}


# ---------------------------------------------------------------------------------------- spikes

def find_spikes(loss, first=100, window=20, factor=3):
    """Return the spikes of a loss curve as pairs (begin, end) of epochs, counted from 0.

    A spike begins where the loss exceeds `factor` times the median of the `window` epochs before,
    and lasts until it no longer exceeds that threshold, or 100 epochs.
    """
    spikes, epoch = [], first
    while epoch < len(loss):
        threshold = factor * np.median(loss[epoch - window:epoch])
        begin = epoch
        while epoch < min(len(loss), begin + 100) and loss[epoch] > threshold:
            epoch += 1
        if epoch > begin:
            spikes.append((begin, epoch))
        epoch += 1
    return spikes


@functools.cache
def spikes(cure):
    """Return what 300 epochs of the base model show under a cure.

    `records`; `found`, the spikes of each, and in how many `seeds`; after epoch 100, `largest`, the
    median largest loss, and `lowest`, the lowest accuracies in per cent [seeds]; `last`, accuracies
    of the last epoch.
    """
    records = [r for r in load('spikes')['runs'] if r['cure'] == cure]
    found = [find_spikes(r['loss']) for r in records]
    return SimpleNamespace(
        records=records, found=found, seeds=sum(map(bool, found)),
        largest=np.median([max(r['loss'][100:]) for r in records]),
        lowest=np.array([100 * min(r['accuracy'][100:]) for r in records]),
        last=np.array([100 * r['accuracy'][-1] for r in records]))


@functools.cache
def cure_effects():
    """Return {cure: Effect on the last epoch's accuracy}."""
    cures = dict.fromkeys(r['cure'] for r in load('spikes')['runs'])
    return correct([Effect(cure, spikes(cure).last, spikes(UNCHANGED).last)
                    for cure in cures if cure != UNCHANGED])


def spike_stretch():
    """Return how many times as far as usual the weights move as a spike of the base model begins.

    The median over spikes; usual is the median of the 20 epochs before.
    """
    plain = spikes(UNCHANGED)
    return np.median([r['moved'][begin] / np.median(r['moved'][begin - 20:begin])
                      for r, found in zip(plain.records, plain.found) for begin, _ in found])
