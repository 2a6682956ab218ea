"""The numbers and pictures of this folder's page: python -m companions.pages amp"""

from pathlib import Path

import numpy as np

from companions.amp.experiment import (METHODS, RADII, comparison_table, plot_comparison,
                                       results_of, tuning_table)
from support.pages import load_results
from support.statistics import Effect

FOLDER = Path(__file__).parent
RESULTS = FOLDER / 'results'


def names():
    """Return what page.md uses."""
    records = load_results(RESULTS / 'amp.json')['runs']
    tuned = load_results(RESULTS / 'tune_amp.json')['runs']
    jobs = 'sequences', 'digits'
    results = {job: {method: results_of(records, job, method) for method in METHODS}
               for job in jobs}
    for found in results['sequences'].values():
        history, losses = found['history'], np.median(found['losses'], axis=0)
        found |= {'before_spikes': history[:, 65:75].mean(1), 'lowest': history[:, 50:].min(),
                  'loss_at': dict(zip((0, *RADII), losses))}

    def gain(job, method, key='accuracy'):
        """Compare a method with plain training."""
        return Effect(method, *(100 * results[job][m][key] for m in (method, 'plain')))

    return {'gain': gain, **results, 'seeds': len(results['digits']['plain']['seed']),
            'comparison': {job: comparison_table(records, job) for job in jobs},
            'tuning': {job: tuning_table(tuned, job) for job in jobs}}


def draw_figures():
    plot_comparison(RESULTS / 'amp.png', load_results(RESULTS / 'amp.json')['runs'])
