"""Write this folder's README.md and picture from results/: python -m companions.word2vec.page"""

import argparse
from pathlib import Path

import numpy as np

from companions.word2vec.figures import bias_table, plot_results, rate_table, select, vector_table
from support.figures import mean_std
from support.pages import load_results, write_page
from support.program import run_program
from support.statistics import Effect, correct, format_p

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / 'results'


def names():
    """Return what page.md uses."""
    results = load_results(RESULTS / 'word2vec.json')
    records = results['runs']
    (steps,), (ceilings,), (examples,) = (
        select(records, job) for job in ('steps', 'ceilings', 'examples'))

    def mrr(method, group=None):
        """Return the MRR of each seed, of all pairs or of a group of counts, 0 the rarest."""
        runs = select(records, 'vectors', method)  # by ascending seed
        return np.array([np.nan if r['mrr'] is None else r['mrr'] if group is None
                         else r['by_count'][group][3] for r in runs])

    def gain(label, other, group=None):
        return Effect(label, 100 * mrr('skip-gram', group), 100 * mrr(other, group))

    def accuracy(name):
        return mean_std([r['accuracy'][-1] for r in select(records, 'accuracy', name)])

    groups = len(next(r['by_count'] for r in records if r.get('by_count')))
    gains = [gain(k, 'CBOW', k) for k in range(groups)] + [gain('gensim', 'gensim skip-gram')]
    return {'results': results, 'steps': steps, 'ceilings': ceilings, 'examples': examples,
            'mrr': lambda *key: mean_std([x for x in mrr(*key) if np.isfinite(x)]),
            'gains': correct(gains), 'format_p': format_p, 'accuracy': accuracy,
            'seeds': len(mrr('CBOW')), 'median': np.median,
            'ratios': [record['ratio'] for record in select(records, 'speed')],
            'bias': {record['direction']: record for record in select(records, 'bias')},
            'vector_table': vector_table(records), 'bias_table': bias_table(records),
            'rate_table': rate_table(load_results(RESULTS / 'tune_word2vec.json')['runs'])}


def get_args(argv=None):
    return argparse.ArgumentParser(description=__doc__).parse_args(argv)


def main(args):
    plot_results(RESULTS / 'word2vec.png', load_results(RESULTS / 'word2vec.json')['runs'])
    write_page(FOLDER, names())


if __name__ == '__main__':
    run_program(main, get_args)
