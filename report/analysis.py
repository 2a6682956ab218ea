"""Read results/ and compute what the report shows: accuracies, paired effects, loss spikes."""

import functools
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
    mode: str               # of training.py, or one of report/alternatives.py
    epsilon: float = 0.0
    variant: str = ''
    epochs: int = 100

    @property
    def runs(self):
        """Its entries of results.json by seed; a run may be longer than `epochs`."""
        return {run['seed']: run for run in group('results', *Setting._fields[:3])[self[:3]]}


def variants():
    """Return the variants of section 6, dropout first."""
    return [variant for mode, variant in group('results', 'mode', 'variant')
            if mode == 'ProxLSTM' and variant]


def accuracy(setting, test='uci', averaged=True):
    """Return the accuracies of a setting's averaged or last weights, {seed: per cent}.

    `test` is 'uci', UCI's 370 sequences, 'test', the assignment's 351, or 'unseen', the 291 of
    these that are not in training. Runs that diverged are left out.
    """
    if test == 'uci':
        groups = group('uci', *Setting._fields) | group('alternatives', *Setting._fields)
        return {run['seed']: 100 * run['averaged_accuracy' if averaged else 'accuracy']
                for run in groups[setting]}
    key = f'averaged_{test}_accuracy' if averaged else f'{test}_accuracy'
    return {seed: 100 * run['history'][key][setting.epochs - 1]
            for seed, run in setting.runs.items() if run['diverged'] is None}


class Comparison(Effect):
    """The effect of `setting` on UCI's 370, by the averaged weights; `last` is by the last ones.

    Paired over the seeds that both settings have.
    """

    def __init__(self, label, setting, without):
        def pairs(averaged):
            a, b = (accuracy(x, averaged=averaged) for x in (setting, without))
            seeds = sorted(a.keys() & b.keys())
            return [a[seed] for seed in seeds], [b[seed] for seed in seeds]

        super().__init__(label, *pairs(averaged=True))
        self.setting = setting
        self.last = Effect(label, *pairs(averaged=False))


def sweep_settings(mode):
    """Return the sweep's settings; those after more than the assignment's epochs come last."""
    epochs = ASSIGNMENT_EPOCHS[mode]
    settings = [Setting(mode, epsilon, epochs=epochs)
                for epsilon in sorted(epsilon for m, epsilon, variant
                                      in group('results', *Setting._fields[:3])
                                      if m == mode and not variant)]
    if epochs < 100:
        settings += [Setting(mode), Setting(mode, CHOSEN_EPSILON[mode])]
    return settings


@functools.cache
def primary_effects():
    """Return {mode: Comparison} of the chosen epsilon with the control, tested together."""
    effects = [Comparison(label_of(Setting(mode, chosen)), Setting(mode, chosen), Setting(mode))
               for mode, chosen in CHOSEN_EPSILON.items()]
    correct(effects)
    return dict(zip(CHOSEN_EPSILON, effects))


@functools.cache
def secondary_effects():
    """Return {label: Comparison} of all other comparisons, tests of one family."""
    chosen = {mode: Setting(mode, epsilon) for mode, epsilon in CHOSEN_EPSILON.items()}
    adv, prox = chosen.values()
    noise, augmentation = (Setting(name, adv.epsilon) for name in ('noise', 'augmentation'))
    annealed, as_lstm = (Setting(name, prox.epsilon) for name in ('annealed', TESTED_AS_LSTM))
    adv_control, prox_control = Setting('AdvLSTM'), Setting('ProxLSTM')
    placed, placed_prox = ([setting._replace(variant=name) for name in variants()]
                           for setting in (prox_control, prox))
    return correct([
        *(Comparison(label_of(setting), setting, setting._replace(epsilon=0.0))
          for mode in CHOSEN_EPSILON for setting in sweep_settings(mode)
          if setting.epsilon and setting != chosen[mode]),
        Comparison('noise minus control', noise, adv_control),
        Comparison('AdvLSTM minus noise', adv, noise),
        Comparison('augmentation minus control', augmentation, adv_control),
        Comparison('augmentation minus AdvLSTM', augmentation, adv),
        Comparison('annealed minus control', annealed, prox_control),
        Comparison('annealed minus ProxLSTM', annealed, prox),
        Comparison('ProxLSTM tested as an LSTM minus control', as_lstm, prox_control),
        *(Comparison(f'{x.variant}, without ProxLSTM', x, prox_control) for x in placed),
        *(Comparison(f'{x.variant}, added to ProxLSTM', x, prox) for x in placed_prox),
        *(Comparison(f'ProxLSTM, added to {x.variant}', x, y)
          for x, y in zip(placed_prox, placed))])


def label_of(setting):
    return f'{setting.mode}, ε = {setting.epsilon:g}, {setting.epochs} epochs'


def sweep_effects(mode):
    """Return the comparisons of every epsilon with its control, in the order of sweep_settings."""
    return [secondary_effects().get(label_of(setting), primary_effects()[mode])
            for setting in sweep_settings(mode) if setting.epsilon]


def placement_effects():
    """Return the comparisons that add dropout, batch normalization, or ProxLSTM to these."""
    return [e for label, e in secondary_effects().items()
            if any(name in label for name in variants())]


def alternative_effects():
    """Return the comparisons of report/alternatives.py."""
    return [e for label, e in secondary_effects().items() if ' minus ' in label]


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
    """Return {mitigation: what 300 epochs of the base model show under it}.

    `runs`; `found`, the spikes of each; `seeds`, how many have any; `largest`, the median largest
    loss after epoch 100; `lowest` and `last`, each seed's lowest accuracy after epoch 100 and last
    accuracy, in per cent.
    """
    mitigations = {}
    for mitigation, runs in group('spikes', 'mitigation').items():
        found = [find_spikes(run['loss']) for run in runs]
        mitigations[mitigation] = SimpleNamespace(
            runs=runs, found=found, seeds=sum(map(bool, found)),
            largest=np.median([max(run['loss'][100:]) for run in runs]),
            lowest=np.array([100 * min(run['accuracy'][100:]) for run in runs]),
            last=np.array([100 * run['accuracy'][-1] for run in runs]))
    return mitigations


def mitigation_effects():
    """Return {mitigation: Effect on the last epoch's accuracy}."""
    return correct([Effect(mitigation, x.last, spikes()[UNCHANGED].last)
                    for mitigation, x in spikes().items() if mitigation != UNCHANGED])


def step_growth_at_spikes():
    """Return how many times as far as usual the weights move as a spike of the base model begins.

    The median over spikes; usual is the median of the 20 epochs before.
    """
    plain = spikes()[UNCHANGED]
    return np.median([run['moved'][begin] / np.median(run['moved'][begin - 20:begin])
                      for run, found in zip(plain.runs, plain.found) for begin, _ in found])
