"""The numbers and pictures of this folder's page: python -m companions.pages word2vec"""

from pathlib import Path

import numpy as np

from companions.word2vec.figures import bias_table, rate_table, select, vector_table
from support.figures import mean_std
from support.pages import load_results
from support.statistics import Effect, correct

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / 'results'


def names():
    """Return what page.md uses."""
    results = load_results(RESULTS / 'word2vec_docstrings.json')
    records = results['runs']

    def mrr(method, k):
        """Return the MRR of each seed in per cent: of all pairs (k = 0), or of the k-th group."""
        values = [[run['mrr'], *(row[3] for row in run['by_count'])]
                  for run in select(records, 'vectors', method)]  # by ascending seed
        return [100 * value[k] if len(value) > 1 else np.nan for value in values]

    def accuracy(name):
        return mean_std([r['accuracy'][-1] for r in select(records, 'accuracy', name)])

    gains = [Effect('gensim', mrr('skip-gram', 0), mrr('gensim skip-gram', 0)),
             *(Effect(k, mrr('skip-gram', k), mrr('CBOW', k)) for k in range(1, 6))]
    one = {record['job']: record for record in records}  # of each job
    return {'results': results, 'steps': one['steps'], 'ceilings': one['ceilings']['small'],
            'examples': one['examples'], 'gains': correct(gains), 'accuracy': accuracy,
            'seeds': len(mrr('CBOW', 0)),
            'speed': np.median([record['ratio'] for record in select(records, 'speed')]),
            'bias': {record['direction']: record for record in select(records, 'bias')},
            'vector_table': vector_table(records), 'bias_table': bias_table(records),
            'rate_table': rate_table(load_results(RESULTS / 'tune_word2vec_docstrings.json')['runs'])}
