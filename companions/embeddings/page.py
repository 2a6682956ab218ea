"""Write README.md from page.md and results/*.json, and draw the figure.

    python -m companions.embeddings.page
"""

import argparse
from pathlib import Path

from companions.embeddings.experiment import (NORMS, VECTORS, accuracies, comparison_table,
                                              plot_comparison, tuning_table)
from support.pages import load_results, write_page
from support.program import run_program
from support.statistics import Effect, correct, format_p

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / 'results'


def names():
    """Return what page.md uses."""
    results = load_results(RESULTS / 'embeddings.json')

    def accuracy(vectors, method, norm=0.0):
        """Per cent, of each seed, on test texts perturbed by an r of that norm."""
        return 100 * accuracies(results['runs'], vectors, method)[:, NORMS.index(norm)]

    pairs = ('adversarial', 'plain'), ('adversarial', 'random'), ('random', 'plain')
    gains = correct([Effect((vectors, *pair), *(accuracy(vectors, method) for method in pair))
                     for vectors in VECTORS for pair in pairs])
    rows = [f'| {VECTORS[vectors]} | {method} minus {other} | {e.mean:+.1f} ± {e.deviation:.1f} '
            f'| {format_p(e.p_holm)} |' for (vectors, method, other), e in gains.items()]
    gains_table = '\n'.join(['| vectors | compared | difference (points) | p, corrected |',
                             '|---|---|---|---|', *rows])
    tuning = tuning_table(load_results(RESULTS / 'tune_embeddings.json')['runs'])
    return {'results': results, 'accuracy': accuracy, 'format_p': format_p,
            'gains': {vectors: gains[vectors, 'adversarial', 'plain'] for vectors in VECTORS},
            'gains_table': gains_table,
            'comparison_table': comparison_table(results['runs']), 'tuning_table': tuning}


def get_args(argv=None):
    return argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)


def main(args):
    plot_comparison(RESULTS / 'embeddings.png', load_results(RESULTS / 'embeddings.json')['runs'])
    write_page(FOLDER, names())


if __name__ == '__main__':
    run_program(main, get_args)
