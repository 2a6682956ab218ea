"""word2vec: train skip-gram and CBOW on a corpus, and measure what their vectors are worth.

    python -m companions.word2vec.study                      # docstrings of installed libraries
    python -m companions.word2vec.study --text book.txt      # a text file
    python -m companions.word2vec.study --sst DIR            # the Stanford Sentiment Treebank
    python -m companions.word2vec.study --tune               # compare learning rates
    python -m companions.word2vec.study --dry-run

Written to --output-dir: plots/word2vec.json, word2vec.png and word2vec_vectors.png, or
plots/tune_word2vec.json. Speed and vectors are compared with gensim's if it is installed.
"""

import argparse
import importlib.metadata
import time
from pathlib import Path

import numpy as np
import torch

from companions.common import corpus as corpora
from companions.word2vec import predictors, vectors
from companions.word2vec.by_hand import (getNegativeSamples, negative_sampling_rows,
                                         negSamplingCostAndGradient, softmaxCostAndGradient)
from companions.word2vec.fast import (GRADIENTS, Diverged, Noise, Text, has_gensim, run_alone,
                                      text_of, train, train_gensim)
from companions.word2vec.figures import (plot_results, plot_vectors, query_words, rate_table,
                                         report)
from support.checkpoints import write_json
from support.options import add_run_arguments, finish_args, positive, positive_int
from support.parallel import parallel_map
from support.program import run_program

SETTINGS = {'dim': 100, 'window': 5, 'negatives': 5, 'epochs': 5, 'learning_rate': 0.2}
CBOW_RATE = 4  # CBOW's learning rate as a multiple of skip-gram's: a window shares its gradient
RATES = 0.1, 0.2, 0.4, 0.8, 1.6, 3.2  # of --tune
PREDICTOR = {'words': 10_000, 'vocabulary': 500, 'epochs': 40}  # its last layer has 4 V units
ANALOGIES = ('min max minimum', 'row rows column', 'compute computed return', 'array arrays value',
             'man woman king', 'good better bad', 'film films actor')
# Pairs that define a direction, and other words that are not neutral to it. Gender has the ten
# pairs of Bolukbasi et al., NIPS 2016, Figure 2; the others occur in technical texts.
DIRECTIONS = {
    'gender': ('she he, her his, woman man, mary john, herself himself, daughter son, '
               'mother father, gal guy, girl boy, female male',
               'him women men wife husband sister brother queen king actress actor lady gentleman '
               'mrs mr miss aunt uncle'),
    'size': ('max min, maximum minimum, upper lower, larger smaller, largest smallest, '
             'highest lowest, greater less, high low, above below',
             'maxima minima maximize minimize maximization minimization higher fewer more large '
             'small top bottom'),
    'plural': ('values value, functions function, arrays array, numbers number, lists list, '
               'methods method, objects object, files file, words word, films film', '')}
MIN_PAIRS = 3


def available_methods():
    return [*GRADIENTS, *['gensim skip-gram'] * has_gensim()]


def evaluation_pairs(text, forms=vectors.FORMS, tuning=False):
    """Return every second pair of word forms; with `tuning` the others, to choose settings on."""
    return vectors.find_form_pairs(text.index, forms)[int(not tuning)::2]


def measure(text, method, seed, settings, tuning=False):
    """Train a table and evaluate it. Returns (record, table), table None if training diverged."""
    start = time.perf_counter()
    table, found = None, {'mrr': None, 'top10': None, 'by_count': [], 'analogies': None}
    try:
        table, _ = (train_gensim(text, seed, **settings) if method.startswith('gensim')
                    else train(text, method, seed, **settings))
    except Diverged:
        pass
    seconds = time.perf_counter() - start
    pairs, plurals = (evaluation_pairs(text, forms, tuning) for forms in (vectors.FORMS, ('s',)))
    common = plurals[np.argsort(-text.counts[plurals].min(1), kind='stable')[:30]]
    if table is not None and len(pairs):
        found |= vectors.evaluate_forms(table, pairs, text.counts)
    if table is not None and len(common) > 1:
        found['analogies'] = vectors.analogy_accuracy(table, common)
    return {'job': 'vectors', 'method': method, 'seed': seed, 'seconds': seconds, **found}, table


def measure_rate(text, method, seed, settings):
    """Return the MRR on the pairs for tuning at one learning rate; None if training diverged."""
    mrr = measure(text, method, seed, settings, tuning=True)[0]['mrr']
    return {'method': method, 'learning_rate': settings['learning_rate'], 'seed': seed, 'mrr': mrr}


def compare_speed(text, settings, words=300_000, repetitions=5):
    """Time one epoch of `train` and of gensim in turn on the first `words` words."""
    rows, tokens = np.unique(text.tokens[:words], return_inverse=True)
    part = Text([text.words[row] for row in rows], np.bincount(tokens), tokens,
                text.sentences[:words])
    settings = {**settings, 'epochs': 1, 'learning_rate': 0.025}  # converges; irrelevant to speed
    records = []
    for repetition in range(repetitions):
        start, cpu_start = time.perf_counter(), time.process_time()
        train(part, 'skip-gram', repetition, **settings)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
        records.append({'job': 'speed', 'repetition': repetition, 'words': len(tokens),
                        'words_per_second': len(tokens) / seconds, 'cores': cpu / seconds})
        if has_gensim():
            _, theirs = train_gensim(part, repetition, **settings)
            records[-1] |= {'gensim_words_per_second': len(tokens) / theirs,
                            'ratio': theirs / seconds}
    return records


def compare_steps(size, dim, K, steps=50, repetitions=9):
    """Time one pair's gradient and update with softmax and negative sampling (medians, in µs)."""
    generator = np.random.default_rng(0)
    noise = Noise(np.ones(size), 1)
    inputs, outputs = generator.standard_normal((2, size, dim)).astype(np.float32) / dim
    pairs = generator.integers(size, size=(steps, 2))

    def update_all(c, o, cost_and_gradient, *arguments):
        _, grad_v, grad = cost_and_gradient(inputs[c], o, outputs, *arguments)
        inputs[c] -= 0.01 * grad_v
        np.subtract(outputs, 0.01 * grad, out=outputs)

    def update_rows(c, o):
        rows = [o, *getNegativeSamples(o, noise, K)]
        _, grad_v, grad = negative_sampling_rows(inputs[c], outputs[rows])
        inputs[c] -= 0.01 * grad_v
        np.subtract.at(outputs, rows, 0.01 * grad)

    kinds = {'softmax': (update_all, softmaxCostAndGradient),
             'negative, whole gradient': (update_all, negSamplingCostAndGradient, noise, K),
             'negative': (update_rows,)}
    seconds = {name: [] for name in kinds}
    for _ in range(repetitions):
        for name, (update, *arguments) in kinds.items():
            start = time.perf_counter()
            for c, o in pairs:
                update(c, o, *arguments)
            seconds[name].append((time.perf_counter() - start) / steps)
    return {'job': 'steps', 'vocabulary': size, 'dim': dim, 'K': K,
            'microseconds': {name: 1e6 * float(np.median(s)) for name, s in seconds.items()},
            'factor': float(np.median(np.divide(seconds['softmax'], seconds['negative'])))}


def study_bias(text, table, name, strengths=(0.2, 10.0, 1000.0)):
    """Return what debiasing along `name` does; only the pairs if fewer than MIN_PAIRS are known."""
    index, forms = text.index, evaluation_pairs(text)
    unit = vectors.normalize_rows(table.astype(np.float64))
    defining, related = DIRECTIONS[name]
    named = [pair.split() for pair in defining.split(', ')]
    known = [pair for pair in named if index.keys() >= {*pair}]
    record = {'job': 'bias', 'direction': name, 'pairs': known, 'of': len(named)}
    pairs = np.array([[index[word] for word in pair] for pair in known], dtype=np.int64)
    specific = [*pairs.ravel(), *(index[word] for word in related.split() if word in index)]
    if name == 'plural':
        specific += [*vectors.find_form_pairs(index, ('s',)).ravel()]
    neutral = np.setdiff1d(np.arange(len(unit)), specific)
    if len(known) < MIN_PAIRS or len(neutral) == 0:
        return record
    g, share = vectors.find_bias_direction(unit, pairs)
    tables = {'as trained': (unit, g), 'hard': (vectors.hard_debias(unit, g, neutral, pairs), g)}
    tables |= {f'soft, λ = {strength:g}': vectors.soft_debias(unit, g, neutral, strength)
               for strength in strengths}
    order = np.argsort(unit[neutral[:2000]] @ g, kind='stable')  # of the most frequent ones
    words = [text.words[row] for row in neutral[order]]
    agreement = zip(('by_all_others', 'by_one_other'), vectors.direction_agreement(unit, pairs))
    return {**record, 'explained_variance': share, **dict(agreement),
            'ends': [words[:8], words[:-9:-1]],
            'debiased': {kind: {
                'bias': vectors.direct_bias(t, along, neutral),
                'pairs_apart': float(np.abs((t[pairs[:, 0]] - t[pairs[:, 1]]) @ along).mean()),
                'mrr': vectors.evaluate_forms(t, forms, text.counts)['mrr'] if len(forms) else None}
                for kind, (t, along) in tables.items()}}


def examples(text, table):
    """Return neighbours, {word: its eight nearest}, and analogies, [[a, b, c, answer], …]."""
    index, unit = text.index, vectors.normalize_rows(table)
    near = {word: vectors.find_nearest(unit, unit[index[word]], 8, (index[word],))
            for word in query_words(text)}
    solved = [[*words, text.words[vectors.solve_analogy(unit, *(index[word] for word in words))]]
              for words in map(str.split, ANALOGIES) if index.keys() >= {*words} and len(unit) > 3]
    return {'job': 'examples', 'analogies': solved,
            'neighbours': {word: [text.words[row] for row in rows] for word, rows in near.items()}}


def small_text(sentences, text, words, vocabulary):
    """Make a Text of sentences of five words or more, of the `vocabulary` most frequent words."""
    frequent = set(text.words[:vocabulary])
    kept = [s for s in sentences if len(s) >= 5 and frequent.issuperset(s)]
    if len({word for sentence in kept for word in sentence}) < 2:
        raise ValueError('no two different words in sentences of five words or more that consist '
                         f'of the {vocabulary} most frequent words, expected a larger corpus')
    return text_of(corpora.subsample(kept, words), 1)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--text', type=Path, metavar='FILE', help='a text file in UTF-8')
    source.add_argument('--sst', type=Path, metavar='DIR',
                        help='the folder of the Treebank, with datasetSentences.txt')
    parser.add_argument('--tune', action='store_true',
                        help='compare learning rates, on word pairs that are not reported')
    parser.add_argument('--max-words', type=positive_int, default=2_000_000,
                        help='drop sentences, evenly, beyond so many words')
    parser.add_argument('--min-count', type=positive_int, default=5, help='drop rarer words')
    for name, default in SETTINGS.items():
        parser.add_argument(f'--{name.replace("_", "-")}', default=default,
                            type=positive if name == 'learning_rate' else positive_int)
    args = parser.parse_args(argv)
    if args.dim < 2:
        parser.error('argument --dim: expected at least 2, to draw')
    if args.dry_run:
        args.seeds, args.epochs, args.dim = 1, 1, 10
        args.max_words = min(args.max_words, 20_000)
    return args


def read_corpus(args):
    if args.text:
        return corpora.text_file(args.text, args.max_words)
    if args.sst:
        return corpora.treebank(args.sst, args.max_words)
    libraries = ('numpy',) if args.dry_run else tuple(corpora.LIBRARIES)
    return corpora.docstrings(args.max_words, args.jobs, libraries)


def main(args):
    finish_args(args, 'word2vec')
    plots, settings = args.output_dir / 'plots', {name: getattr(args, name) for name in SETTINGS}
    corpus = read_corpus(args)
    text = text_of(corpus.sentences, args.min_count)
    header = {'corpus': corpus.name, 'sha256': corpus.sha256, 'sources': corpus.sources,
              'words': len(text.tokens), 'vocabulary': len(text.words),
              'min_count': args.min_count, **settings,
              'torch': torch.__version__, 'numpy': np.__version__,
              'gensim': importlib.metadata.version('gensim') if has_gensim() else None}
    print(f'{corpus.name}: {len(text.tokens):,} words, {len(text.words):,} different')

    if args.tune:
        if len(evaluation_pairs(text, tuning=True)) == 0:
            raise ValueError(f'{corpus.name}: no word occurs both with and without s, ed or ing at '
                             'its end, expected a larger corpus')
        tasks = [{'text': text, 'method': method, 'seed': seed,
                  'settings': {**settings, 'learning_rate': rate}}
                 for method in available_methods() for rate in RATES for seed in range(args.seeds)]
        records = parallel_map(measure_rate, tasks, args.jobs, 'learning rates')
        write_json(plots / 'tune_word2vec.json', {**header, 'learning_rate': RATES}, records)
        print(f'\n{rate_table(records)}\n')
        return

    small = small_text(corpus.sentences, text, PREDICTOR['words'], PREDICTOR['vocabulary'])
    cbow_settings = {**settings, 'learning_rate': CBOW_RATE * args.learning_rate}
    tasks = [{'text': text, 'method': method, 'seed': seed,
              'settings': cbow_settings if method == 'CBOW' else settings}
             for method in available_methods() for seed in range(args.seeds)]
    records, tables = map(list, zip(*parallel_map(measure, tasks, args.jobs, 'vectors')))
    table = next((table for record, table in zip(records, tables)
                  if record['method'] == 'skip-gram' and table is not None), None)
    if table is None:
        raise Diverged('skip-gram: the vectors of every seed diverged, expected a smaller '
                       f'--learning-rate than {args.learning_rate:g}')
    epochs = 2 if args.dry_run else PREDICTOR['epochs']
    tasks = [{'text': small, 'name': name, 'seed': seed, 'epochs': epochs}
             for name in predictors.PREDICTORS for seed in range(args.seeds)]
    records += parallel_map(predictors.fit, tasks, args.jobs, 'predictors')
    highest = {name: predictors.ceilings(*predictors.windows(which, 2))
               for name, which in (('small', small), ('all', text))}
    records.append({'job': 'ceilings', **highest})
    if args.dry_run:
        records += compare_speed(text, settings, words=5_000, repetitions=1)
        records.append(compare_steps(len(text.words), args.dim, args.negatives, 5, 1))
    else:
        records += run_alone(compare_speed, text=text, settings=settings)
        records.append(run_alone(compare_steps, size=len(text.words), dim=args.dim,
                                 K=args.negatives))
    records.append(examples(text, table))
    tasks = [{'text': text, 'table': table, 'name': name} for name in DIRECTIONS]
    jobs = args.jobs if args.dry_run else max(2, args.jobs)  # one job is this process: more threads
    records += parallel_map(study_bias, tasks, jobs, 'bias')
    header['cbow_learning_rate'] = cbow_settings['learning_rate']
    write_json(plots / 'word2vec.json', header, records)
    plot_vectors(plots / 'word2vec_vectors.png', text, table)
    plot_results(plots / 'word2vec.png', records)
    print(f'\n{report(records)}\n\nWritten to {plots}')


if __name__ == '__main__':
    run_program(main, get_args)
