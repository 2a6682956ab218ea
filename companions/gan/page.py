"""Write README.md from page.md and results/*.json, and draw the figures that need no model.

    python -m companions.gan.page
"""

import argparse
from pathlib import Path

from companions.gan.experiment import (COLUMNS, final_values, metrics_table, plot_curves,
                                       plot_metrics)
from support.pages import load_results, write_page
from support.program import run_program

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / 'results'


def names():
    """Return what page.md uses."""
    small, wide = (load_results(RESULTS / f'{name}.json') for name in ('gan', 'gan_wide'))

    def values(metric, loss='non-saturating', beta1=0.5, runs=small['runs']):
        """A metric at the last epoch, or the discriminator's final 'loss', of each seed."""
        return final_values(runs, loss, beta1)[:, ['loss', *COLUMNS].index(metric)]

    def count(key, beta1, runs=small['runs']):
        chosen = [r[key] for r in runs if r['beta1'] == beta1]
        return f'{sum(chosen)} of {len(chosen)}'

    return {'values': values, 'count': count, 'small': small, 'wide': wide, 'real': small['real'],
            'table': metrics_table(small['runs'], small['real']),
            'wide_table': metrics_table(wide['runs'], {})}


def get_args(argv=None):
    return argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)


def main(args):
    results = load_results(RESULTS / 'gan.json')
    plot_curves(RESULTS / 'gan_curves.png', results['runs'])
    plot_metrics(RESULTS / 'gan_metrics.png', results['runs'], results['real'])
    write_page(FOLDER, names())


if __name__ == '__main__':
    run_program(main, get_args)
