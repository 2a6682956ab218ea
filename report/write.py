"""Write the report, README.md, and its figures from page.md and results/ (see measure.py).

    python -m report.write
"""

import argparse
import math
from pathlib import Path

import numpy as np

from report.analysis import (LAST_WEIGHTS, TESTED_AS_LSTM, UNCHANGED, Setting, accuracy,
                             alternative_effects, column, group, load, mitigation_effects,
                             placement_effects, primary_effects, secondary_effects, spikes,
                             step_growth_at_spikes, sweep_effects, sweep_settings, variants)
from report.figures import write_figures
from support.figures import markdown_table, mean_std, plus_minus, results_table
from support.options import CHOSEN_EPSILON
from support.pages import load_results, write_page
from support.program import run_program
from support.tuning import paired_difference, tuning_table

FOLDER = Path(__file__).parent
BEST_RECIPE = FOLDER.parent / 'companions' / 'best_recipe' / 'results' / 'best.json'


def accuracy_table(settings):
    """Tabulate the accuracies of Settings on the three test sets, by the averaged weights."""
    rows = []
    for setting in settings:
        values = [*(accuracy(setting, test) for test in ('test', 'unseen', 'uci')),
                  accuracy(setting, averaged=False)]
        rows.append([setting.variant or setting.mode.replace('plain', 'base'),
                     f'{setting.epsilon:g}', setting.epochs, len(setting.runs),
                     *(mean_std(as_fractions(x), of=len(setting.runs)) for x in values)])
    return markdown_table(['', 'ε', 'epochs', 'seeds', "the assignment's 351 (%)",
                           'the 291 not in training (%)', "UCI's 370 (%)",
                           "UCI's 370, last weights (%)"], rows)


def as_fractions(accuracies):
    return np.array(list(accuracies.values())) / 100


def placement_table():
    return accuracy_table([Setting('ProxLSTM', epsilon, variant) for variant in ('', *variants())
                           for epsilon in (0.0, CHOSEN_EPSILON['ProxLSTM'])])


def effects_table(effects):
    """Tabulate Comparisons; an effect that is significant after correction is bold."""
    header = ['', 'seeds', 'difference (points)', '95 % interval', 'p', 'p, corrected',
              'last weights (points)']
    return markdown_table(header, [
        [f'**{e.label}**' if e.p_holm < 0.05 else e.label, len(e.difference), difference_of(e),
         f'{e.low:+.2f} to {e.high:+.2f}', f'{e.p:.2g}', f'{e.p_holm:.2g}', difference_of(e.last)]
        for e in effects])


def difference_of(effect):
    return plus_minus(effect.difference, 2, '+')


def primary_table():
    header = ['', 'ε', 'seeds', 'difference (points)', '95 % interval', "Student's t: p, corrected",
              'signed rank: p, corrected', 'last weights (points)']
    return markdown_table(header, [
        [mode, f'{e.setting.epsilon:g}', len(e.difference), difference_of(e),
         f'{e.low:+.2f} to {e.high:+.2f}', f'{e.p_holm:.2g}', f'{e.p_rank_holm:.2g}',
         difference_of(e.last)] for mode, e in primary_effects().items()])


def alternatives_table():
    """Tabulate the accuracy on UCI's 370 of the alternatives, the methods and their controls."""
    settings = [Setting(mode, epsilon) for mode, chosen in CHOSEN_EPSILON.items()
                for epsilon in (0.0, chosen)]
    settings += [Setting(*key) for key in group('alternatives', 'mode', 'epsilon')]
    epsilons = {'augmentation': '', 'annealed': '{:g} → 0', TESTED_AS_LSTM: '{:g}, in testing 0'}
    return markdown_table(['', 'ε', "UCI's 370 (%)", "UCI's 370, last weights (%)"], [
        [setting.mode if setting.epsilon else f'{setting.mode}, control',
         epsilons.get(setting.mode, '{:g}').format(setting.epsilon),
         *(mean_std(as_fractions(accuracy(setting, averaged=averaged)))
           for averaged in (True, False))] for setting in settings])


def effect_range(effects, beginning, word, excluded):
    """Return the extreme means of effects whose label begins so, has `word`, not `excluded`."""
    means = [e.mean for label, e in effects.items()
             if label.startswith(beginning) and word in label and excluded not in label]
    return f'{min(means):+.1f} to {max(means):+.1f}'


def settings_table():
    config = load('results')['config']
    keys = ('batch_size', 'hidden_size', 'out_channels', 'kernel_size', 'stride', 'epochs', 'lr',
            'weight_decay', 'clip_value', 'epsilon')
    return markdown_table(['', 'base', 'AdvLSTM', 'ProxLSTM'], [
        [f'`{key}`', *(config.get(f'{prefix}_{key}', config.get(key, ''))
                       for prefix in ('base', 'adv', 'prox'))] for key in keys])


def search_table():
    return folds_table('search', 'change', UNCHANGED, 'no change')


def averages_table():
    return folds_table('averages', 'decay', LAST_WEIGHTS, LAST_WEIGHTS)


def folds_table(part, changed, baseline, name):
    """Return a table of cross-validated changes, each compared with the baseline."""
    folds = {change: column(runs, 'accuracy') for change, runs in group(part, 'change').items()}
    return markdown_table(
        [changed, 'accuracy on held-out folds (%)', f'minus {name} (mean ± standard error)'],
        [[change, mean_std(values), paired_difference(values, folds[baseline])]
         for change, values in folds.items()])


def inside_table():
    return markdown_table(['ε', '‖c − s‖ / ‖s‖', 'λ_max(G Gᵀ)', 'iterations'], [
        [f'{epsilon:g}', plus_minus(column(runs, 'moved'), 3),
         plus_minus(column(runs, 'lambda_max'), 2), plus_minus(column(runs, 'iterations'))]
        for epsilon, runs in sorted(group('inside', 'epsilon').items())])


def spike_table():
    header = ['base model, 300 epochs', 'seeds with a spike', 'spikes per seed',
              'largest loss after epoch 100, median', 'lowest accuracy after epoch 100 (%)',
              'last epoch (%)', 'difference (points)', 'p, corrected']
    differences = {mitigation: [difference_of(e), f'{e.p_holm:.2g}']
                   for mitigation, e in mitigation_effects().items()}
    return markdown_table(header, [
        [mitigation, f'{x.seeds} of {len(x.found)}', f'{np.mean([*map(len, x.found)]):.1f}',
         f'{x.largest:.3f}', plus_minus(x.lowest), plus_minus(x.last),
         *differences.get(mitigation, ['', ''])] for mitigation, x in spikes().items()])


def mean_difference(a, b):
    """Return the mean over seeds of the difference of two settings' accuracies."""
    return np.mean([a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())])


def names():
    """Return what page.md uses."""
    plain = Setting('plain')
    best_epoch = {seed: 100 * max(run['history']['test_accuracy'])
                  for seed, run in plain.runs.items()}
    folds, repeats = (load('tune_adv')['config'][key] for key in ('folds', 'repeats'))
    return {
        **{function.__name__: function for function in (
            Setting, load, sweep_settings, sweep_effects, alternative_effects, placement_effects,
            tuning_table, results_table, accuracy_table, placement_table, primary_table,
            effects_table, effect_range, alternatives_table, settings_table, search_table,
            averages_table, inside_table, spike_table)},
        'seeds': len(plain.runs), 'chosen': CHOSEN_EPSILON,
        'adv': primary_effects()['AdvLSTM'], 'prox': primary_effects()['ProxLSTM'],
        'secondary': secondary_effects(),
        'smallest_prox': min(e.mean for e in sweep_effects('ProxLSTM') if e.setting.epsilon > 0.1),
        'control_change': {mode: mean_difference(accuracy(Setting(mode)), accuracy(plain))
                           for mode in CHOSEN_EPSILON},
        'largest_ratio': max(e.last.deviation / e.deviation for e in sweep_effects('ProxLSTM')),
        'at_200': {mitigation: 100 * np.mean([run['accuracy'][199] for run in x.runs])
                   for mitigation, x in spikes().items()},
        'mitigations': mitigation_effects(), 'spikes': spikes(), 'stretch': step_growth_at_spikes(),
        'overlap': mean_difference(accuracy(plain, 'test'), accuracy(plain, 'unseen')),
        'best_epoch': mean_std(as_fractions(best_epoch)),
        'best_epoch_gain': mean_difference(best_epoch, accuracy(plain, 'test', averaged=False)),
        'fold_factor': math.sqrt(1 + folds * repeats / (folds - 1)),  # Nadeau and Bengio (2003)
        'leading': {epsilon: 1 - 1 / (1 + epsilon * column(runs, 'lambda_max').mean())
                    for epsilon, runs in group('inside', 'epsilon').items()},
        'best_recipe': mean_std([run['accuracy'] for run in load_results(BEST_RECIPE)['runs']])}


def main(args):
    write_page(FOLDER, names())
    write_figures(FOLDER)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Write report/README.md and its figures.')
    return parser.parse_args(argv)


if __name__ == '__main__':
    run_program(main, get_args)
