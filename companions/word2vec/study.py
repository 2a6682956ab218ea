"""word2vec: train skip-gram and CBOW on a corpus, and evaluate the vectors.

    python -m companions.word2vec.study                        # on a translation of the Bible
    python -m companions.word2vec.study --corpus docstrings    # of installed libraries
    python -m companions.word2vec.study --text book.txt
    python -m companions.word2vec.study --tune                 # compare learning rates
"""

import argparse
import importlib.metadata
import time
from functools import partial
from pathlib import Path
from timeit import timeit

import numpy as np
import torch

from companions.common import corpus as corpora
from companions.word2vec import by_hand, fast, figures, predictors, vectors
from support.checkpoints import write_json
from support.options import (add_device_argument, add_run_arguments, positive, positive_int,
                             prepare_output_dir)
from support.parallel import parallel_map
from support.program import run_program
from support.sweep import load_or_train_all

SETTINGS = {'dim': 100, 'window': 5, 'negatives': 5, 'epochs': 5}
LEARNING_RATES = {'skip-gram': 0.1, 'CBOW': 0.8, 'gensim skip-gram': 0.2}  # by --tune
PREDICTOR = {'epochs': 40, 'context_size': 2, 'embedding_dim': 20, 'batch_size': 128, 'rate': 3e-3,
             'words': (*predictors.WORDS, *'king man water file value'.split())}
RATES = 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2  # of --tune
ANALOGIES = ('min max minimum', 'row rows column', 'compute computed return', 'array arrays value',
             'film films actor', 'good better bad', 'he she his', 'man woman king',
             'father mother son', 'son daughter brother', 'king kings priest', 'eat bread drink')
# Pairs that define a direction, and other words that are not neutral to it. Gender has the ten
# pairs of Bolukbasi et al., NIPS 2016, Figure 2; the others occur in technical texts.
DIRECTIONS = {
    'gender': ('she he, her his, woman man, mary john, herself himself, daughter son, '
               'mother father, gal guy, girl boy, female male',
               'him hers men women husband husbands wife wives brother brothers brethren sister '
               'sisters fathers mothers sons daughters boys girls king queen prince princess lord '
               'lady master mistress widow virgin concubine damsel maiden maid handmaid harlot '
               'actor actress gentleman mr mrs miss uncle aunt'),
    'size': ('max min, maximum minimum, upper lower, larger smaller, largest smallest, '
             'highest lowest, greater less, high low, above below',
             'maxima minima maximize minimize maximization minimization higher fewer more large '
             'small top bottom'),
    'plural': ('values value, functions function, arrays array, numbers number, lists list, '
               'methods method, objects object, files file, words word, films film', '')}


def evaluation_pairs(text, forms=vectors.FORMS, tuning=False):
    """Return every second pair of word forms; with `tuning` the others, to choose settings on."""
    return vectors.find_form_pairs(text.index, forms)[int(not tuning)::2]


def measure(text, method, seed, settings, tuning=False):
    """Train a table and evaluate it. Returns (record, table), table None if training diverged."""
    record = {'job': 'vectors', 'method': method, 'seed': seed, 'mrr': None, 'top10': None,
              'by_count': [], 'analogies': None}
    start = time.process_time()
    try:
        table, _ = (fast.train_gensim(text, seed, **settings) if method.startswith('gensim')
                    else fast.train(text, method, seed, **settings))
    except fast.Diverged:
        return {**record, 'seconds': time.process_time() - start}, None
    record['seconds'] = time.process_time() - start
    pairs, plurals = (evaluation_pairs(text, forms, tuning) for forms in (vectors.FORMS, ('s',)))
    common = plurals[np.argsort(-text.counts[plurals].min(1), kind='stable')[:30]]
    if len(pairs):
        record |= vectors.evaluate_forms(table, pairs, text.counts)
    if len(common) > 1:
        record['analogies'] = vectors.analogy_accuracy(table, common)
    return record, table


def compare_speed(text, settings, words=300_000, repetitions=5, steps=50):
    """Time training against gensim, and single steps with softmax and negative sampling.

    Where gensim is installed, an epoch on the first `words` words is trained by `train` and by
    gensim in turn, `repetitions` times. Returns these records and that of `compare_steps`.
    """
    rows, tokens = np.unique(text.tokens[:words], return_inverse=True)
    part = fast.Text([text.words[row] for row in rows], np.bincount(tokens), tokens,
                     text.sentences[:words])
    safe = {**settings, 'epochs': 1, 'learning_rate': 0.025}  # cannot diverge; as fast as any rate
    records = []
    for repetition in range(repetitions if fast.HAS_GENSIM else 0):
        start = time.perf_counter()
        fast.train(part, 'skip-gram', repetition, **safe)
        seconds = time.perf_counter() - start
        _, theirs = fast.train_gensim(part, repetition, **safe)
        records.append({'job': 'speed', 'repetition': repetition, 'words': len(tokens),
                        'ratio': theirs / seconds})
    return records + [compare_steps(len(text.words), settings['dim'], settings['negatives'], steps)]


def compare_steps(size, dim, K, steps, repetitions=9):
    """Time one pair's gradient and update with softmax and negative sampling (medians, in µs)."""
    noise, generator = fast.Noise(np.ones(size), 1), np.random.default_rng(0)
    inputs, outputs = generator.standard_normal((2, size, dim)).astype(np.float32) / dim
    pairs = generator.integers(size, size=(steps, 2))

    def update_all(c, o, cost_and_gradient, *arguments):
        _, grad_v, grad = cost_and_gradient(inputs[c], o, outputs, *arguments)
        inputs[c] -= 0.01 * grad_v
        np.subtract(outputs, 0.01 * grad, out=outputs)

    def update_rows(c, o):
        rows = [o, *by_hand.getNegativeSamples(o, noise, K)]
        _, grad_v, grad = by_hand.negative_sampling_rows(inputs[c], outputs[rows])
        inputs[c] -= 0.01 * grad_v
        np.subtract.at(outputs, rows, 0.01 * grad)

    kinds = {'softmax': (update_all, by_hand.softmaxCostAndGradient),
             'negative, whole gradient': (update_all, by_hand.negSamplingCostAndGradient, noise, K),
             'negative': (update_rows,)}
    seconds = np.array([[timeit(lambda: [update(c, o, *arguments) for c, o in pairs], number=1)
                         for update, *arguments in kinds.values()] for _ in range(repetitions)])
    medians = 1e6 * np.median(seconds, 0) / steps
    return {'job': 'steps', 'vocabulary': size, 'dim': dim, 'K': K,
            'microseconds': dict(zip(kinds, medians.tolist())),
            'factor': float(np.median(seconds[:, 0] / seconds[:, 2]))}


def study_bias(text, table, name):
    """Return what debiasing along `name` does; only the pairs if fewer than three are known."""
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
    if len(known) < 3 or len(neutral) == 0:
        return record
    g = vectors.find_bias_direction(unit, pairs)
    record |= zip(('by_all_others', 'by_one_other'), vectors.direction_agreement(unit, pairs))
    order = np.argsort(unit[neutral[:2000]] @ g, kind='stable')  # of the most frequent ones
    words = [text.words[row] for row in neutral[order]]
    record |= {'ends': [words[:8], words[:-9:-1]], 'debiased': {}}
    tables = {'as trained': (unit, g), 'hard': (vectors.hard_debias(unit, g, neutral, pairs), g)}
    tables |= {f'soft, λ = {strength:g}': vectors.soft_debias(unit, g, neutral, strength)
               for strength in (0.2, 10.0, 1000.0)}
    for kind, (t, along) in tables.items():
        record['debiased'][kind] = {
            'bias': vectors.direct_bias(t, along, neutral),
            'pairs_apart': float(np.abs((t[pairs[:, 0]] - t[pairs[:, 1]]) @ along).mean()),
            'mrr': vectors.evaluate_forms(t, forms, text.counts)['mrr'] if len(forms) else None}
    return record


def examples(text, table):
    """Return neighbors, {word: its eight nearest}, and analogies, [[a, b, c, answer], …]."""
    index, unit = text.index, vectors.normalize_rows(table)
    near = {word: vectors.find_nearest(unit, unit[index[word]], 8, (index[word],))
            for word in figures.query_words(text)}
    solved = [[*words, text.words[vectors.solve_analogy(unit, *(index[word] for word in words))]]
              for words in map(str.split, ANALOGIES) if index.keys() >= {*words} and len(unit) > 3]
    return {'job': 'examples', 'analogies': solved,
            'cosines': predictors.cosines(torch.from_numpy(table), index),
            'neighbors': {word: [text.words[row] for row in rows] for word, rows in near.items()}}


def small_text(sentences, text, words=10_000, vocabulary=500):
    """Make a Text of sentences of five words or more, of the `vocabulary` most frequent words."""
    frequent = set(text.words[:vocabulary])
    kept = [s for s in sentences if len(s) >= 5 and frequent.issuperset(s)]
    if len(set().union(*kept)) < 2:
        raise ValueError('no two different words in sentences of five words or more that consist '
                         f'of the {vocabulary} most frequent words, expected a larger corpus')
    return fast.text_of(corpora.subsample(kept, words), 1)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser)
    add_device_argument(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--corpus', choices=(*corpora.TRANSLATIONS, 'docstrings'), default='asv',
                        help='a translation of the Bible, or the docstrings of libraries')
    source.add_argument('--text', type=Path, metavar='FILE', help='a text file in UTF-8')
    source.add_argument('--sst', type=Path, metavar='DIR',
                        help='folder of the Stanford Sentiment Treebank')
    parser.add_argument('--tune', action='store_true', help='compare learning rates')
    parser.add_argument('--max-words', type=positive_int, default=2_000_000,
                        help='subsample the sentences of a larger corpus')
    parser.add_argument('--min-count', type=positive_int, default=5, help='drop rarer words')
    for name, default in SETTINGS.items():
        parser.add_argument(f'--{name}', default=default, type=positive_int)
    parser.add_argument('--learning-rate', type=positive, default=argparse.SUPPRESS,
                        help="skip-gram's, CBOW's is four times that (default: chosen by --tune)")
    args = parser.parse_args(argv)
    if args.dim < 2:
        parser.error('argument --dim: expected at least 2, to draw')
    if args.dry_run:
        args.seeds, args.epochs, args.dim = 1, 1, 10
        args.max_words = min(args.max_words, 20_000)
    return args


def source_name(args):
    return 'text' if args.text else 'sst' if args.sst else args.corpus


def read_corpus(args):
    if args.text:
        return corpora.text_file(args.text, args.max_words)
    if args.sst:
        return corpora.treebank(args.sst, args.max_words)
    if args.corpus in corpora.TRANSLATIONS:
        return corpora.bible(args.corpus, args.max_words)
    libraries = ('numpy',) if args.dry_run else tuple(corpora.LIBRARIES)
    return corpora.docstrings(args.max_words, args.jobs, libraries)


def main(args):
    prepare_output_dir(args, 'word2vec')
    plots, checkpoints = (args.output_dir / path for path in ('plots', 'checkpoints/companions'))
    corpus, stem = read_corpus(args), f'word2vec_{source_name(args)}'
    text = fast.text_of(corpus.sentences, args.min_count)
    print(f'{corpus.name}: {len(text.tokens):,} words, {len(text.words):,} different')
    settings = {name: getattr(args, name) for name in SETTINGS}
    header = {'corpus': corpus.name, 'sha256': corpus.sha256, 'sources': corpus.sources,
              'words': len(text.tokens), 'vocabulary': len(text.words),
              'min_count': args.min_count, **settings, 'torch': torch.__version__,
              'numpy': np.__version__,
              'gensim': importlib.metadata.version('gensim') if fast.HAS_GENSIM else None}
    chosen = LEARNING_RATES
    if 'learning_rate' in args:  # of CBOW, a window shares one gradient
        chosen = dict.fromkeys(chosen, args.learning_rate) | {'CBOW': 4 * args.learning_rate}
    if not fast.HAS_GENSIM:
        chosen = {method: rate for method, rate in chosen.items() if method in fast.GRADIENTS}
    tasks = [{'text': text, 'method': method, 'seed': seed, 'tuning': args.tune,
              'settings': {**settings, 'learning_rate': rate}}
             for method in chosen for rate in (RATES if args.tune else [chosen[method]])
             for seed in range(args.seeds)]

    if args.tune:
        if len(evaluation_pairs(text, tuning=True)) == 0:
            raise ValueError(f'{corpus.name}: no word occurs both with and without s, ed or ing at '
                             'its end, expected a larger corpus')
        found = parallel_map(measure, tasks, args.jobs, 'learning rates')
        records = [{'method': task['method'], 'learning_rate': task['settings']['learning_rate'],
                    'seed': task['seed'], 'mrr': record['mrr']}
                   for task, (record, _) in zip(tasks, found)]
        write_json(plots / f'tune_{stem}.json', {**header, 'learning_rates': RATES}, records)
        print(f'\n{figures.rate_table(records)}\n')
        return

    small = small_text(corpus.sentences, text)
    records, tables = map(list, zip(*parallel_map(measure, tasks, args.jobs, 'vectors')))
    table = next((table for table in tables[:args.seeds] if table is not None), None)  # skip-gram
    if table is None:
        raise fast.Diverged('skip-gram: the vectors of every seed diverged, expected a smaller '
                            f'--learning-rate than {chosen["skip-gram"]:g}')
    options = PREDICTOR | {'device': args.device} | ({'epochs': 2} if args.dry_run else {})
    found = load_or_train_all(args, {
        (name, seed): (f'{stem}_{name.replace(" ", "-")}_seed{seed}',
                       {'corpus': corpus.sha256, 'min_count': args.min_count, 'method': name,
                        'seed': seed, 'torch': torch.__version__, **options},
                       partial(predictors.fit, small, name, seed, **options))
        for name in predictors.PREDICTORS for seed in range(args.seeds)}, 'predictors')
    vectors.save_vectors(checkpoints / stem, text.words, table)
    records += [checkpoint['record'] for checkpoint in found.values()]
    seen = predictors.windows(small, PREDICTOR['context_size'])
    records.append({'job': 'ceilings', 'accuracy': predictors.ceilings(*seen),
                    'loss': predictors.lowest_losses(*seen), 'words': len(small.tokens),
                    'vocabulary': len(small.words), 'windows': len(seen[0])})
    if args.dry_run:
        records += compare_speed(text, settings, words=5_000, repetitions=1, steps=5)
    else:
        records += fast.run_alone(compare_speed, text=text, settings=settings)
    records.append(examples(text, table))
    tasks = [{'text': text, 'table': table, 'name': name} for name in DIRECTIONS]
    jobs = args.jobs if args.dry_run else max(2, args.jobs)  # one job is this process: more threads
    records += parallel_map(study_bias, tasks, jobs, 'bias')
    write_json(plots / f'{stem}.json', {**header, 'learning_rates': chosen}, records)
    figures.plot_vectors(plots / f'{stem}_vectors.png', text, table)
    figures.plot_forms(plots / f'{stem}_forms.png', {corpus.name: records})
    figures.plot_predictors(plots / f'{stem}_predictors.png', records)
    print(f'\n{figures.report(records)}\n\nWritten to {plots} and {checkpoints}')


if __name__ == '__main__':
    run_program(main, get_args)
