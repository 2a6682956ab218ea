"""The numbers and pictures of this folder's page: python -m companions.pages best_recipe"""

import math
from pathlib import Path

import numpy as np

from companions.best_recipe.experiment import search_tables
from companions.best_recipe.peers import TRAINING, compare_with_peers, padding_table, peers_table
from companions.best_recipe.recipe import CHOSEN, recipe_of
from support.figures import mean_std
from support.options import ROOT
from support.pages import load_results

FOLDER = Path(__file__).parent


def names():
    """Return what page.md uses."""
    best, tuned, peers = (load_results(FOLDER / 'results' / f'{name}.json')
                          for name in ('best', 'tune_best', 'accuracy'))
    base = [run['accuracy'] for run in load_results(ROOT / 'report/results/uci.json')['runs']
            if (run['mode'], run['variant'], run['epochs']) == ('plain', '', 100)]
    leads, fresh = (compare_with_peers(peers['runs'], key)
                    for key in ('accuracy', 'fresh_accuracy'))

    def in_standard_errors(peer):
        """The lead in standard errors for overlapping training sets (Nadeau and Bengio, 2003)."""
        e = leads[peer]
        return f'{e.mean / (e.deviation * math.sqrt(1 / len(e.difference) + 370 / 270)):.1f}'

    return {'best': best, 'epochs': recipe_of(CHOSEN)['epochs'],
            'accuracy': mean_std([run['accuracy'] for run in best['runs']]),
            'seconds': np.median([run['seconds'] for run in best['runs']]), 'base': mean_std(base),
            'search': search_tables(tuned['runs']),
            'peers': peers_table(peers['runs']), 'padding': padding_table(peers['runs']),
            'networks': TRAINING, 'comparisons': len(leads),
            'lead': lambda peer: f'{leads[peer].mean:.1f}',
            'in_standard_errors': in_standard_errors,
            'fresh_lead': lambda peer: f'{fresh[peer].mean:+.2f}'}
