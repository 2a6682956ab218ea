"""Write the report, README.md, and its figures from page.md and results/ (see measure.py).

    python -m report.write                   # the page and its figures
    python -m report.write --check           # status 2 if the page does not match the results
"""

import argparse
import math
from pathlib import Path

import numpy as np

from report import tables
from report.analysis import (UNCHANGED, Setting, accuracy, cure_effects, inside, load,
                             number_of_seeds, placement_effects, spike_stretch, spikes,
                             steady_accuracy, sweep_effects)
from report.figures import write_figures
from support.figures import mean_std, results_table
from support.options import CHOSEN_EPSILON
from support.pages import load_results, render, write_page
from support.program import run_program
from support.statistics import Effect, format_p
from support.tuning import tuning_table

FOLDER = Path(__file__).parent
BEST_RECIPE = FOLDER.parent / 'companions' / 'best_recipe' / 'results' / 'best.json'


def names():
    """Return what page.md uses."""
    plain, adv, prox = (Setting(mode) for mode in ('plain', 'AdvLSTM', 'ProxLSTM'))
    early = (prox._replace(epsilon=e, epochs=75) for e in (CHOSEN_EPSILON['ProxLSTM'], 0.0))
    best_epoch = np.array([max(run['history']['test_accuracy']) for run in plain.runs])
    seconds = {mode: sum(run['seconds'] for run in Setting(mode, epsilon).runs)
               for mode, epsilon in CHOSEN_EPSILON.items()}
    folds, repeats = (load('tune_adv')['config'][key] for key in ('folds', 'repeats'))
    return {
        'tables': tables, 'Setting': Setting, 'format_p': format_p, 'seeds': number_of_seeds(),
        'adv': sweep_effects('AdvLSTM'), 'prox': sweep_effects('ProxLSTM'),
        'early': Effect('', *map(steady_accuracy, early)), 'placements': placement_effects(),
        'cures': cure_effects(), 'spikes': spikes, 'unchanged': spikes(UNCHANGED),
        'stretch': spike_stretch(), 'best_epoch': mean_std(best_epoch),
        'leak': (accuracy(plain, 'all') - accuracy(plain, 'unseen')).mean(),
        'best_epoch_gain': (100 * best_epoch - accuracy(plain, 'all')).mean(),
        'control_change': (accuracy(adv) - accuracy(plain)).mean(),
        'time_ratio': seconds['AdvLSTM'] / seconds['ProxLSTM'],
        'fold_factor': math.sqrt(1 + folds * repeats / (folds - 1)),  # Nadeau and Bengio (2003)
        'leading': {epsilon: 1 - 1 / (1 + epsilon * inside()[epsilon]['lambda_max'].mean())
                    for epsilon in (5, 150)},
        'tuning': {name: tuning_table(load(f'tune_{name}')['runs'])[0] for name in ('adv', 'prox')},
        'best_recipe': mean_std([run['accuracy'] for run in load_results(BEST_RECIPE)['runs']]),
        'others': {name: results_table(load(name)['runs'])
                   for name in ('BasicMotions', 'PickupGestureWiimoteZ')}}


def main(args):
    if args.check:
        page = (FOLDER / 'README.md').read_text(encoding='utf-8')
        if page != render(FOLDER / 'page.md', names()):
            raise ValueError('report/README.md does not match report/results/: '
                             'run python -m report.write')
    else:
        write_page(FOLDER, names())
        write_figures(FOLDER)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Write report/README.md and its figures.')
    parser.add_argument('--check', action='store_true',
                        help='write nothing; fail if the page would change')
    return parser.parse_args(argv)


if __name__ == '__main__':
    run_program(main, get_args)
