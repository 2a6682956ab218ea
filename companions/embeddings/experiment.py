"""Compare adversarial training on word embeddings with plain training and with random noise.

    python -m companions.embeddings.experiment                      # texts: sentences of docstrings
    python -m companions.embeddings.experiment frozen --seeds 8     # word2vec's vectors, fixed
    python -m companions.embeddings.experiment --tsv reviews.tsv    # lines of label, tab, text
    python -m companions.embeddings.experiment --tune               # cross-validate ε
    python -m companions.embeddings.experiment --dry-run
"""

import argparse
import functools
import importlib.util
import itertools
import math
import time
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from companions.common import corpus
from companions.embeddings.adversarial import adversarial_loss, perturbation
from companions.embeddings.models import NormalizedEmbedding, TextLSTM
from companions.embeddings.texts import PADDING, make_problem
from support.checkpoints import write_json
from support.figures import markdown_table, mean_std, save_figure
from support.options import (add_run_arguments, finish_args, fold_count, non_negative,
                             positive_int)
from support.parallel import parallel_map, seeded
from support.program import run_program
from support.tuning import check_folds, stratified_folds

VECTORS = {'scratch': 'from scratch', 'word2vec': 'word2vec, fine-tuned',
           'frozen': 'word2vec, frozen'}
METHODS = 'plain', 'random', 'adversarial'
CHOSEN_EPSILON = {'scratch': 1.0, 'word2vec': 3.0, 'frozen': 1.0}  # by --tune on docstrings
EPSILONS = 0.0, 0.3, 1.0, 3.0, 10.0  # that --tune compares
NORMS = 0.0, 1.0, 2.0, 4.0, 8.0      # of the perturbations of the test texts
SETTINGS = {'epochs': 6, 'hidden_size': 64, 'dropout': 0.3, 'batch_size': 128, 'lr': 5e-3}
MIN_LENGTH = 5                       # words of a docstring's sentence


def fit(problem, vectors, method, epsilon, seed, settings, held_out=None):
    """Train a TextLSTM on the training texts, evaluate it on the test texts and return a record.

    With `held_out` (bool [N]) the training texts it marks replace the test texts. All methods of
    one seed start from the same weights and see the same minibatches.
    """
    start, train, test = time.perf_counter(), problem.train, problem.test
    if held_out is not None:
        test = train.subset(torch.from_numpy(held_out))
        train = train.subset(torch.from_numpy(~held_out))
    epsilon = 0.0 if method == 'plain' else epsilon
    order, noise, initial = (torch.Generator().manual_seed(3 * seed + k) for k in range(3))
    random_table = torch.randn(problem.table.shape, generator=initial)
    table = random_table if vectors == 'scratch' else problem.table
    losses = []
    with seeded(seed):
        model = TextLSTM(NormalizedEmbedding(table, problem.counts, vectors == 'frozen'),
                         settings['hidden_size'], len(problem.class_names), settings['dropout'])
        optimizer = torch.optim.Adam(model.parameters(), settings['lr'])
        for _ in range(settings['epochs']):
            model.train()
            losses.append(0.0)
            for tokens, lengths, labels in train.batches(settings['batch_size'], order):
                total, loss = adversarial_loss(
                    lambda e: model(e, lengths), model.embed(tokens), tokens != PADDING,
                    lambda logits: F.cross_entropy(logits, labels), epsilon,
                    noise if method == 'random' else None)
                if not math.isfinite(total.item()):
                    raise ValueError(f'loss not finite: {vectors}, {method} {epsilon:g}, '
                                     f'seed {seed}')
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                losses[-1] += loss.item() * len(labels) / len(train.labels)
        found = accuracy(model, test, NORMS if held_out is None else (0.0,))
    return {'vectors': vectors, 'method': method, 'epsilon': epsilon, 'seed': seed, 'loss': losses,
            'accuracy': found, 'seconds': round(time.perf_counter() - start, 1)}


def accuracy(model, data, norms):
    """Return the accuracy on `data` for each norm of r, with r along the gradient at e."""
    model.eval()
    correct = torch.zeros(len(norms), dtype=torch.int64)
    for tokens, lengths, labels in data.batches(256):
        embedded = model.embed(tokens).detach().requires_grad_()
        logits, r = model(embedded, lengths), None
        if any(norms):
            r = perturbation(F.cross_entropy(logits, labels), embedded, tokens != PADDING, 1.0)
        with torch.no_grad():
            outputs = [model(embedded + norm * r, lengths) if norm else logits for norm in norms]
        correct += torch.stack([(output.argmax(1) == labels).sum() for output in outputs])
    return (correct.double() / len(data.labels)).tolist()


def accuracies(records, vectors, method):
    """Collect the accuracies of all seeds as an array [seeds, norms]."""
    return np.array([r['accuracy'] for r in records
                     if (r['vectors'], r['method']) == (vectors, method)])


def results_table(records):
    """Format accuracies, with paired differences to plain training, as Markdown."""
    rows, setting = [], itemgetter('vectors', 'method', 'epsilon')
    for (vectors, method, epsilon), runs in itertools.groupby(records, setting):
        runs = list(runs)
        values = np.array([run['accuracy'] for run in runs])
        if method == 'plain':
            plain, difference = values, ''
        else:
            difference = mean_std((values - plain)[:, 0], '+')
        seconds = np.mean([run['seconds'] for run in runs])
        rows.append((VECTORS[vectors], method, f'{epsilon:g}', mean_std(values[:, 0]), difference,
                     *map(mean_std, values.T[1:]), f'{seconds:.1f}'))
    perturbed = [f'at r of norm {norm:g} (%)' for norm in NORMS[1:values.shape[1]]]
    return markdown_table(('vectors', 'training', 'ε', 'accuracy (%)', 'minus plain', *perturbed,
                           'seconds'), rows)


def plot_comparison(path, records):
    """Plot each seed's paired difference, and accuracy against the norm of the perturbation."""
    figure = Figure(figsize=(10, 4.2), layout='constrained')
    left, right = figure.subplots(1, 2)
    compared = list(dict.fromkeys(record['vectors'] for record in records))
    for k, vectors in enumerate(compared):
        plain, noise, adversarial = (100 * accuracies(records, vectors, m) for m in METHODS)
        for values, x, style in ((noise, k - 0.15, 's'), (adversarial, k + 0.15, 'o')):
            difference = (values - plain)[:, 0]
            left.plot([x] * len(values), difference, f'C{k}{style}', alpha=0.5)
            left.plot(x, difference.mean(), 'k_', ms=22)
        for values, style, label in ((adversarial, '-', 'adversarial'), (plain, '--', 'plain')):
            right.plot(NORMS, values.mean(0), f'C{k}o{style}', label=f'{VECTORS[vectors]}: {label}')
    left.axhline(0, color='black', lw=0.8)
    left.set_xticks(range(k + 1), [VECTORS[v].replace(' ', '\n') for v in compared])
    left.set(title='Test accuracy minus plain training', xlim=(-0.6, k + 0.6),
             ylabel='percentage points: seeds and mean')
    left.margins(y=0.2)
    left.legend(left.lines[:3:2], ('noise of equal norm', 'adversarial'), loc='upper right',
                fontsize=8)
    right.set(title='Test accuracy when embeddings are perturbed', ylim=(0, None),
              xlabel='L2 norm of the perturbation of a text', ylabel='accuracy (%)')
    right.legend(fontsize=8)
    save_figure(path, figure)


def get_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Adversarial training on word embeddings against plain training.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('vectors', nargs='?', choices=VECTORS, help='default: all three')
    add_run_arguments(parser)
    parser.add_argument('--tsv', type=Path, metavar='FILE', default=argparse.SUPPRESS,
                        help='texts in UTF-8, lines of label, tab, text, instead of docstrings')
    parser.add_argument('--train', type=positive_int, default=4500, help='training texts at most')
    parser.add_argument('--test', type=positive_int, default=2000, help='test texts at most')
    parser.add_argument('--max-length', type=positive_int, default=30,
                        help='words: longer sentences are left out, longer texts of --tsv cut')
    parser.add_argument('--min-count', type=positive_int, default=2,
                        help='words rarer than this in training share one vector')
    parser.add_argument('--dim', type=positive_int, default=50, help='of the vectors')
    parser.add_argument('--epochs', type=positive_int, default=SETTINGS['epochs'])
    parser.add_argument('--epsilon', type=non_negative, default=argparse.SUPPRESS,
                        help=f'norm of r (default: {CHOSEN_EPSILON}, chosen by --tune)')
    parser.add_argument('--tune', action='store_true', help='cross-validate ε in the training set')
    parser.add_argument('--folds', type=fold_count, default=5)
    args = parser.parse_args(argv)
    if args.max_length < MIN_LENGTH and 'tsv' not in args:
        parser.error(f'argument --max-length: expected at least {MIN_LENGTH} words')
    if args.dry_run:
        args.seeds, args.epochs, args.folds, args.dim, args.train, args.test = 1, 1, 2, 8, 200, 100
    return args


def load_texts(args):
    if 'tsv' in args:
        return corpus.labelled_file(args.tsv, args.max_length)
    if args.dry_run and importlib.util.find_spec('sklearn') is None:
        raise ValueError('--dry-run needs the package scikit-learn: '
                         'python -m pip install -r requirements-extra.txt')
    libraries = ('numpy', 'sklearn') if args.dry_run else tuple(corpus.LIBRARIES)
    return corpus.labelled_docstrings(args.jobs, libraries, MIN_LENGTH, args.max_length)


def main(args):
    finish_args(args, 'embeddings')
    texts = load_texts(args)
    problem = make_problem(texts, args.train, args.test, args.min_count, args.dim,
                           vector_epochs=1 if args.dry_run else 5)
    classes, train, test = problem.class_names, len(problem.train.labels), len(problem.test.labels)
    print(f'{texts.name}: {train} training and {test} test texts of {len(classes)} classes '
          f'({", ".join(classes)}), {len(problem.counts):,} rows in the table')
    settings, plots = {**SETTINGS, 'epochs': args.epochs}, args.output_dir / 'plots'
    header = {'corpus': texts.name, 'sha256': texts.sha256, 'sources': texts.sources,
              'classes': classes, 'train': train, 'test': test, 'rows': len(problem.counts),
              'max_length': args.max_length, 'min_count': args.min_count, 'dim': args.dim,
              **settings, 'norms': NORMS, 'torch': torch.__version__}
    compared = [args.vectors] if args.vectors else VECTORS
    if args.tune:
        check_folds(args.folds, problem.train.labels)
        folds = list(stratified_folds(problem.train.labels.numpy(), args.folds, 1))
        name = 'tune_embeddings'
        tasks = [{'vectors': vectors, 'method': 'adversarial' if epsilon else 'plain',
                  'epsilon': epsilon, 'seed': fold, 'held_out': held_out} for vectors in compared
                 for epsilon in EPSILONS for fold, held_out in enumerate(folds)]
    else:
        name = 'embeddings'
        chosen = dict.fromkeys(VECTORS, args.epsilon) if 'epsilon' in args else CHOSEN_EPSILON
        tasks = [{'vectors': vectors, 'method': method, 'seed': seed, 'epsilon': chosen[vectors]}
                 for vectors in compared for method in METHODS for seed in range(args.seeds)]
    function = functools.partial(fit, problem=problem, settings=settings)
    records = parallel_map(function, tasks, args.jobs, 'training')
    write_json(plots / f'{name}.json', header, records)
    if not args.tune:
        plot_comparison(plots / 'embeddings.png', records)
    print(f'\n{results_table(records)}\n\nWritten to {plots}')


if __name__ == '__main__':
    run_program(main, get_args)
