"""The numbers and pictures of this folder's page: python -m companions.pages gan"""

from functools import partial
from pathlib import Path

import numpy as np

from companions.gan.experiment import by_setting, final_metrics, metrics_table, plot_curves
from support.pages import load_results

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / 'results'


def names():
    """Return what page.md uses."""
    small, enlarged = (load_results(RESULTS / f'{name}.json') for name in ('gan', 'gan_28'))

    def mean(metric, beta1=0.5, loss='non-saturating', results=small):
        """Average a metric after training over seeds."""
        runs = by_setting(results['runs'])[loss, beta1]
        return f'{np.mean([final_metrics(run)[metric] for run in runs]):.2f}'

    def count(key, beta1):
        chosen = [r[key] for r in small['runs'] if r['beta1'] == beta1]
        return f'{sum(chosen)} of {len(chosen)}'

    return {'mean': mean, 'large': partial(mean, results=enlarged), 'count': count,
            'small': small, 'enlarged': enlarged,
            'metrics_table': metrics_table}


def draw_figures():
    for name in ('gan', 'gan_28'):
        results = load_results(RESULTS / f'{name}.json')
        plot_curves(RESULTS / f'{name}_curves.png', results['runs'], results['real'])
