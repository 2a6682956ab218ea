"""Write this folder's README.md and picture from results/: python -m companions.amp.page"""

import argparse
import math
from pathlib import Path

import numpy as np

from companions.amp.experiment import (RADII, comparison_table, metrics, plot_comparison,
                                       tuning_table)
from support.pages import load_results, write_page
from support.program import run_program
from support.statistics import Effect, format_p

FOLDER = Path(__file__).parent


def names():
    """Return what page.md uses."""
    records = load_results(FOLDER / 'results' / 'amp.json')['runs']
    tuned = load_results(FOLDER / 'results' / 'tune_amp.json')['runs']

    def runs(job, method):
        found = [r for r in records if (r['job'], r['method']) == (job, method)]
        return sorted(found, key=lambda r: r['seed'])

    def gain(job, method, what):
        """Return the effect of a method on a column of the table, against plain training."""
        return Effect(method, *([100 * metrics(r)[0][what] for r in runs(job, m)]
                                for m in (method, 'plain')))

    def before_spikes(method):
        """Return the effect on the mean accuracy of epochs 66 to 75."""
        return Effect(method, *([100 * np.mean(r['history'][65:75]) for r in runs('sequences', m)]
                                for m in (method, 'plain')))

    def lowest(method):
        """Return the lowest accuracy of any seed after the fiftieth epoch, in per cent."""
        return 100 * min(min(r['history'][50:]) for r in runs('sequences', method))

    def loss(job, method, radius):
        """Return the training loss at a distance from the weights, the median over seeds."""
        return np.median([metrics(r)[1][(0, *RADII).index(radius)] for r in runs(job, method)])

    return {'gain': gain, 'before_spikes': before_spikes, 'lowest': lowest, 'loss': loss,
            'describe': lambda e: f'{e.mean:+.1f} ± {e.deviation:.1f} ({format_p(e.p)})',
            'format_p': format_p, 'seeds': len(runs('digits', 'plain')),
            'overlap': math.sqrt(1 + 5 * 3 / (5 - 1)),  # Nadeau and Bengio 2003: five folds, thrice
            'comparison': {job: comparison_table(records, job) for job in ('sequences', 'digits')},
            'tuning': {job: tuning_table(tuned, job) for job in ('sequences', 'digits')}}


def get_args(argv=None):
    return argparse.ArgumentParser(description=__doc__).parse_args(argv)


def main(args):
    plot_comparison(FOLDER / 'results' / 'amp.png',
                    load_results(FOLDER / 'results' / 'amp.json')['runs'])
    write_page(FOLDER, names())


if __name__ == '__main__':
    run_program(main, get_args)
