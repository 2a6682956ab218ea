"""The numbers and pictures of this folder's page: python -m companions.pages word2vec"""

import math
from pathlib import Path

import numpy as np

from companions.word2vec.figures import (bias_table, plot_forms, plot_predictors, rate_table,
                                         select, vector_table)
from support.figures import markdown_table, mean_std
from support.pages import load_results
from support.statistics import Effect, correct

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / 'results'
CORPORA = {'asv': 'the Bible', 'docstrings': 'docstrings'}


def names():
    """Return what page.md uses."""
    bible, docstrings = (describe(source) for source in CORPORA)
    records = load_results(RESULTS / 'word2vec_asv.json')['runs']

    def last(key, name):
        return np.array([record[key][-1] for record in select(records, 'accuracy', name)])

    def loss(name):
        return f'{last("loss", name).mean():.2f}'

    def accuracy(name):
        return mean_std(last('accuracy', name))

    apart = last('loss', 'SkipGram joint') - last('loss', 'SkipGram')
    return {'bible': bible, 'docstrings': docstrings,
            'loss': loss, 'accuracy': accuracy, 'apart': f'{apart.mean():.3f}',
            'log4': f'{math.log(4):.3f}', 'bounds': select(records, 'ceilings')[0],
            'seconds': {name: np.mean([record['seconds']
                                       for record in select(records, 'accuracy', name)])
                        for name in ('SkipGram', 'CBOW')},
            'cosine_table': cosine_table(records), 'context_table': context_table(records)}


def describe(source):
    """Return what page.md uses of one corpus."""
    results = load_results(RESULTS / f'word2vec_{source}.json')
    records = results['runs']

    def mrr(method, k):
        """Return the MRR of each seed in per cent: of all pairs (k = 0), or of the k-th group."""
        values = [[run['mrr'], *(row[3] for row in run['by_count'])]
                  for run in select(records, 'vectors', method)]  # by ascending seed
        return [100 * value[k] if len(value) > 1 else np.nan for value in values]

    gains = [Effect((other, k), mrr('skip-gram', k), mrr(other, k))
             for other in ('gensim skip-gram', 'CBOW') for k in range(6)]
    rates = load_results(RESULTS / f'tune_word2vec_{source}.json')['runs']
    one = {record['job']: record for record in records}  # of each job
    return {'results': results, 'gains': correct(gains), 'seeds': len(mrr('CBOW', 0)),
            'steps': one['steps'], 'examples': one['examples'],
            'speed': np.median([record['ratio'] for record in select(records, 'speed')]),
            'speeds': sorted(record['ratio'] for record in select(records, 'speed')),
            'bias': {record['direction']: record for record in select(records, 'bias')},
            'vector_table': vector_table(records), 'bias_table': bias_table(records),
            'rate_table': rate_table(rates)}


def cosine_table(records):
    """Return Markdown: cosines of the assignment's words, of SkipGram's first seed and word2vec."""
    first, (vectors,) = select(records, 'accuracy', 'SkipGram')[0], select(records, 'examples')
    columns = [{(a, b): f'{value:.2f}' for a, b, value in cosines} for cosines in
               (first['untrained']['cosines'], first['trained']['cosines'], vectors['cosines'])]
    rows = [[f'{a}, {b}', *(column.get((a, b), '') for column in columns)] for a, b in columns[-1]]
    return markdown_table(['words', '`SkipGram`, untrained', 'trained', 'word2vec'], rows)


def context_table(records):
    """Return Markdown: the contexts that SkipGram's first seed predicts."""
    first = select(records, 'accuracy', 'SkipGram')[0]
    before, after = (first[when]['contexts'] for when in ('untrained', 'trained'))
    rows = [[word, *(' '.join([*words[:2], f'**{word}**', *words[2:]])
                     for words in (before[word], after[word]))] for word in after]
    return markdown_table(['word', 'untrained', 'trained'], rows)


def draw_figures():
    runs = {name: load_results(RESULTS / f'word2vec_{source}.json')['runs']
            for source, name in CORPORA.items()}
    plot_forms(RESULTS / 'word2vec_forms.png', runs)
    plot_predictors(RESULTS / 'word2vec_predictors.png', runs['the Bible'])
