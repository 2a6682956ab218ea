"""Write this folder's README.md from results/: python -m companions.best_recipe.page"""

import argparse
import math
from pathlib import Path

import numpy as np

from companions.best_recipe.experiment import search_table
from companions.best_recipe.peers import compare_with_peers, peers_table
from support.figures import mean_std
from support.options import ROOT
from support.pages import load_results, write_page
from support.program import run_program

FOLDER = Path(__file__).parent


def names():
    """Return what page.md uses."""
    best, tuned, peers = (load_results(FOLDER / 'results' / f'{name}.json')
                          for name in ('best', 'tune_best', 'accuracy'))
    compared = compare_with_peers(peers['runs'])
    values = [run['accuracy'] for run in best['runs']]
    base = [run['accuracy'] for run in load_results(ROOT / 'report/results/uci.json')['runs']
            if (run['mode'], run['variant'], run['epochs']) == ('plain', '', 100)]

    def lead(ours, peer):
        difference, p = compared[ours, peer]
        return f'{difference.mean():+.2f} points (p = {p:.2g})'

    def corrected_lead(ours, peer):
        """Return the lead with the standard error for overlapping partitions."""
        difference, _ = compared[ours, peer]
        error = difference.std(ddof=1) * math.sqrt(1 / len(difference) + 370 / 270)
        return f'{difference.mean():+.2f} ± {error:.2f}'

    def fresh_lead(ours, peer):
        """Return the mean lead on those test sequences that are in UCI's own test set."""
        fresh = {name: np.array([r['fresh_accuracy'] for r in peers['runs']
                                 if r['classifier'] == name]) for name in (ours, peer)}
        return f'{100 * (fresh[ours] - fresh[peer]).mean():+.2f}'

    return {'accuracy': mean_std(values), 'low': f'{100 * min(values):.1f}',
            'high': f'{100 * max(values):.1f}', 'seeds': len(values), 'base': mean_std(base),
            'seconds': np.median([run['seconds'] for run in best['runs']]),
            'averaged': best['averaged'], 'epochs': best['epochs'],
            'overlap': math.sqrt(1 + 5 * 4 / (5 - 1)),  # five folds, four times
            'search': search_table(tuned['runs']), 'peers': peers_table(peers['runs']),
            'lead': lead, 'corrected_lead': corrected_lead, 'fresh_lead': fresh_lead}


def get_args(argv=None):
    return argparse.ArgumentParser(description=__doc__).parse_args(argv)


def main(args):
    write_page(FOLDER, names())


if __name__ == '__main__':
    run_program(main, get_args)
