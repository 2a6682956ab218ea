"""Compare adversarial training on word embeddings with plain training, noise and posted code.

    python -m companions.embeddings.experiment                      # texts: sentences of docstrings
    python -m companions.embeddings.experiment frozen --seeds 8     # word2vec's vectors, fixed
    python -m companions.embeddings.experiment frozen --task spans  # two heads: a span's two ends
    python -m companions.embeddings.experiment --tsv reviews.tsv    # lines of label, tab, text
    python -m companions.embeddings.experiment --tune               # cross-validate ε
    python -m companions.embeddings.experiment --dry-run

Trained models are saved in checkpoints/companions/ and loaded again for the same settings.
"""

import argparse
import functools
import itertools
import math
import time
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from companions.common import corpus
from companions.embeddings import posted
from companions.embeddings.adversarial import adversarial_loss, perturbation
from companions.embeddings.models import NormalizedEmbedding, build_model
from companions.embeddings.texts import PADDING, make_problem
from support.checkpoints import to_cpu, write_json
from support.figures import markdown_table, mean_std, save_figure
from support.options import (add_device_argument, add_run_arguments, fold_count, non_negative,
                             positive_int, prepare_output_dir)
from support.parallel import parallel_map, seeded
from support.program import import_optional, run_program
from support.sweep import load_or_train_all
from support.tuning import check_folds, stratified_folds

VECTORS = {'scratch': 'from scratch', 'word2vec': 'word2vec, fine-tuned',
           'frozen': 'word2vec, frozen'}
METHODS = 'plain', 'random', 'adversarial', 'posted', 'posted, tuned'
# By --tune, for spans with frozen vectors.
CHOSEN_EPSILON = {'libraries': {'scratch': 1.0, 'word2vec': 3.0, 'frozen': 0.1},
                  'spans': dict.fromkeys(VECTORS, 3.0)}
POSTED_EPSILON = {'libraries': {'scratch': 0.3, 'word2vec': 0.3, 'frozen': 0.1},
                  'spans': dict.fromkeys(VECTORS, 1.0)}
EPSILONS = 0.1, 0.3, 1.0, 3.0, 10.0  # that --tune compares
NORMS = 0.0, 1.0, 2.0, 4.0, 8.0      # of the perturbations of the test texts
SETTINGS = {'epochs': 6, 'hidden_size': 64, 'dropout': 0.3, 'batch_size': 128, 'lr': 5e-3}
DEFAULTS = {'libraries': {'train': 4500, 'test': 2000, 'max_length': 30},
            'spans': {'train': 2000, 'test': 1000, 'max_length': 50}}
MIN_LENGTH = 5                       # words of a docstring's sentence


def fit(problem, vectors, method, epsilon, seed, settings, held_out=None, device='cpu'):
    """Train a model on the training texts and evaluate it on the test texts.

    With `held_out` (bool [N]) the training texts it marks replace the test texts. All methods of
    one seed start from the same weights and see the same minibatches. Returns a checkpoint, see
    models.load_model, that also has the 'words' of the table's rows from 2 on, 'class_names' and a
    'record'.
    """
    start, train, test = time.process_time(), problem.train, problem.test
    if held_out is not None:
        test = train.subset(torch.from_numpy(held_out))
        train = train.subset(torch.from_numpy(~held_out))
    train, test = train.to(device), test.to(device)
    epsilon = 0.0 if method == 'plain' else epsilon
    order, noise, initial = (torch.Generator().manual_seed(3 * seed + k) for k in range(3))
    random_table = torch.randn(problem.table.shape, generator=initial)
    table = random_table if vectors == 'scratch' else problem.table
    embedding = NormalizedEmbedding(table, problem.counts, frozen=vectors == 'frozen')
    if method.startswith('posted'):  # its plain table requires a gradient even where it is fixed
        embedding = nn.Embedding.from_pretrained(embedding.normalized().detach(), freeze=False)
    arguments = {'hidden_size': settings['hidden_size'], 'dropout': settings['dropout'],
                 'classes': problem.class_names and len(problem.class_names)}
    losses = []
    with seeded(seed, device):
        model = build_model(embedding, **arguments).to(device)
        trained = [p for p in model.parameters()
                   if vectors != 'frozen' or p is not model.embedding.weight]
        optimizer = torch.optim.Adam(trained, settings['lr'])
        for _ in range(settings['epochs']):
            model.train()
            losses.append(0.0)
            for tokens, lengths, labels in train.batches(settings['batch_size'], order):

                def loss_of(outputs):
                    return model.loss(outputs, labels)

                if method.startswith('posted'):
                    total, loss = posted.posted_loss(lambda: model(model.embed(tokens), lengths),
                                                     model.embedding, loss_of, optimizer, epsilon)
                else:
                    total, loss = adversarial_loss(
                        lambda e: model(e, lengths), model.embed(tokens), tokens != PADDING,
                        loss_of, epsilon, noise if method == 'random' else None)
                if not math.isfinite(total.item()):
                    raise ValueError(f'loss not finite: {vectors}, {method} {epsilon:g}, '
                                     f'seed {seed}')
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                losses[-1] += loss.item() * len(labels) / len(train.labels)
        found = accuracy(model, test, NORMS if held_out is None else (0.0,))
    record = {'vectors': vectors, 'method': method, 'epsilon': epsilon, 'seed': seed,
              'loss': losses, 'accuracy': found,
              'seconds': round(time.process_time() - start, 1)}
    return {'arguments': arguments, 'state_dict': to_cpu(model.state_dict()),
            'words': problem.words, 'class_names': problem.class_names, 'record': record}


def accuracy(model, data, norms):
    """Return the accuracy on `data` for each norm of r, with r along the gradient at e."""
    model.eval()
    correct = torch.zeros(len(norms), dtype=torch.int64)
    for tokens, lengths, labels in data.batches(256):
        embedded = model.embed(tokens).detach().requires_grad_()
        outputs, r = model(embedded, lengths), None
        if any(norms):
            r = perturbation(model.loss(outputs, labels), embedded, tokens != PADDING, 1.0)
        with torch.no_grad():
            found = [model(embedded + norm * r, lengths) if norm else outputs for norm in norms]
        correct += torch.stack([model.correct(each, labels).sum() for each in found]).cpu()
    return (correct.double() / len(data.labels)).tolist()


def accuracies(records, vectors, method):
    """Collect the accuracies of all seeds as an array [seeds, norms]."""
    return np.array([r['accuracy'] for r in records
                     if (r['vectors'], r['method']) == (vectors, method)])


def results_table(records):
    """Format accuracies, with paired differences from plain training, as Markdown."""
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


def tuning_table(records):
    """Format mean held-out accuracies by epsilon as Markdown, the largest of each row in bold."""
    rows = []
    for vectors in dict.fromkeys(record['vectors'] for record in records):
        for method in ('adversarial', 'posted'):
            means = [100 * np.mean([r['accuracy'][0] for r in records
                                    if (r['vectors'], r['epsilon']) == (vectors, epsilon)
                                    and r['method'] in ('plain', method)])
                     for epsilon in (0.0, *EPSILONS)]
            rows.append((VECTORS[vectors], method, *(
                f'**{x:.1f}**' if x == max(means) else f'{x:.1f}' for x in means)))
    return markdown_table(('held-out accuracy (%)', 'training', 'plain',
                           *(f'ε = {epsilon:g}' for epsilon in EPSILONS)), rows)


def plot_comparison(path, records):
    """Plot each seed's paired difference, accuracy against the perturbation, loss against epoch."""
    figure = Figure(figsize=(14, 4.4), layout='constrained')
    left, middle, right = figure.subplots(1, 3)
    compared = list(dict.fromkeys(record['vectors'] for record in records))
    for k, vectors in enumerate(compared):
        methods = {r['method'] for r in records if r['vectors'] == vectors}
        values = {method: 100 * accuracies(records, vectors, method) for method in methods}
        for method, x, style in (('random', k - 0.2, 's'), ('adversarial', k, 'o'),
                                 ('posted, tuned', k + 0.2, '^')):
            difference = (values[method] - values['plain'])[:, 0]
            left.plot([x] * len(difference), difference, f'C{k}{style}', alpha=0.5)
            left.plot(x, difference.mean(), 'k_', ms=18)
        for method, style in (('adversarial', 'o-'), ('plain', 'o--'), ('posted', 'o:')):
            if method not in methods:
                continue
            line, = middle.plot(NORMS, values[method].mean(0), f'C{k}{style}', ms=4,
                                label=f'{VECTORS[vectors]}: {method}')
            losses = [record['loss'] for record in records
                      if (record['vectors'], record['method']) == (vectors, method)]
            mean = np.mean(losses, 0)
            right.plot(range(1, len(mean) + 1), mean, color=f'C{k}', ls=line.get_ls())
    left.axhline(0, color='black', lw=0.8)
    left.set_xticks(range(k + 1), [VECTORS[v].replace(' ', '\n') for v in compared])
    left.set(title='Test accuracy minus plain training', xlim=(-0.6, k + 0.6),
             ylabel='percentage points: seeds and mean')
    left.margins(y=0.2)
    left.legend(left.lines[:6:2], ('noise of equal norm', 'adversarial', 'posted, ε tuned'),
                fontsize=8)
    middle.set(title='Test accuracy when embeddings are perturbed', ylim=(0, None),
               xlabel='L2 norm of the perturbation of a text', ylabel='accuracy (%)')
    right.set(title='Training loss of the texts as they are', xlabel='epoch', ylim=(0, None))
    figure.legend(*middle.get_legend_handles_labels(), loc='outside lower center', fontsize=8,
                  ncols=len(compared))
    save_figure(path, figure)


def get_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Adversarial training on word embeddings against plain training.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('vectors', nargs='?', choices=VECTORS, help='default: all three')
    add_run_arguments(parser)
    add_device_argument(parser)
    parser.add_argument('--task', choices=DEFAULTS, default='libraries',
                        help="tell a sentence's library, or find a parameter's description")
    parser.add_argument('--tsv', type=Path, metavar='FILE', default=argparse.SUPPRESS,
                        help='texts in UTF-8, lines of label, tab, text, instead of docstrings')
    for name, text in (('train', 'training texts at most'), ('test', 'test texts at most'),
                       ('max_length', 'words: longer sentences are left out, other texts cut')):
        default = ', '.join(f'{task} {values[name]}' for task, values in DEFAULTS.items())
        parser.add_argument(f'--{name.replace("_", "-")}', type=positive_int,
                            default=argparse.SUPPRESS, help=f'{text} (default: {default})')
    parser.add_argument('--min-count', type=positive_int, default=2,
                        help='words rarer than this in training share one vector')
    parser.add_argument('--dim', type=positive_int, default=50, help='of the vectors')
    parser.add_argument('--epochs', type=positive_int, default=SETTINGS['epochs'])
    parser.add_argument('--epsilon', type=non_negative, default=argparse.SUPPRESS,
                        help=f'norm of r (default: {CHOSEN_EPSILON}, chosen by --tune)')
    parser.add_argument('--tune', action='store_true', help='cross-validate ε in the training set')
    parser.add_argument('--folds', type=fold_count, default=5)
    args = parser.parse_args(argv)
    for name, value in DEFAULTS[args.task].items():
        setattr(args, name, getattr(args, name, value))
    if args.task == 'spans' and 'tsv' in args:
        parser.error('argument --tsv: not with --task spans')
    if args.max_length < MIN_LENGTH and 'tsv' not in args:
        parser.error(f'argument --max-length: expected at least {MIN_LENGTH} words')
    if args.dry_run:
        args.seeds, args.epochs, args.folds, args.dim, args.train, args.test = 1, 1, 2, 8, 200, 100
    return args


def load_texts(args):
    if 'tsv' in args:
        return corpus.labeled_file(args.tsv, args.max_length)
    libraries = tuple(corpus.LIBRARIES)
    if args.dry_run:
        import_optional('sklearn', '--dry-run')
        libraries = 'numpy', 'sklearn'
    if args.task == 'spans':
        return corpus.parameter_spans(args.jobs, libraries, args.max_length)
    return corpus.labeled_docstrings(args.jobs, libraries, MIN_LENGTH, args.max_length)


def main(args):
    prepare_output_dir(args, 'embeddings')
    texts = load_texts(args)
    vector_epochs = 1 if args.dry_run else 5
    problem = make_problem(texts, args.train, args.test, args.min_count, args.dim, vector_epochs)
    classes, train, test = problem.class_names, len(problem.train.labels), len(problem.test.labels)
    kind = f'{len(classes)} classes ({", ".join(classes)})' if classes else 'spans'
    print(f'{texts.name}: {train} training and {test} test texts of {kind}, '
          f'{len(problem.counts):,} rows in the table')
    settings, plots = {**SETTINGS, 'epochs': args.epochs}, args.output_dir / 'plots'
    header = {'corpus': texts.name, 'sha256': texts.sha256, 'sources': texts.sources,
              'classes': classes, 'train': train, 'test': test, 'rows': len(problem.counts),
              'max_length': args.max_length, 'min_count': args.min_count, 'dim': args.dim,
              **settings, 'norms': NORMS, 'torch': torch.__version__}
    compared = [args.vectors] if args.vectors else VECTORS
    name = 'embeddings' if args.task == 'libraries' else f'embeddings_{args.task}'
    name += '_tsv' if 'tsv' in args else ''
    function = functools.partial(fit, problem=problem, settings=settings, device=args.device)
    if args.tune:
        groups = problem.train.labels.numpy() if classes else np.zeros(train, dtype=int)
        check_folds(args.folds, groups)
        folds, name = list(stratified_folds(groups, args.folds, 1)), f'tune_{name}'
        alternatives = [('plain', 0.0),
                        *itertools.product(('adversarial', 'posted'), EPSILONS)]
        tasks = [{'vectors': vectors, 'method': method, 'epsilon': epsilon, 'seed': fold,
                  'held_out': held_out} for vectors in compared
                 for method, epsilon in alternatives for fold, held_out in enumerate(folds)]
        checkpoints = parallel_map(function, tasks, args.jobs, 'tuning')
    else:
        config = {**header, 'vector_epochs': vector_epochs, 'device': args.device}
        tasks = {}
        for vectors, method, seed in itertools.product(compared, METHODS, range(args.seeds)):
            run = {'vectors': vectors, 'method': method, 'seed': seed,
                   'epsilon': epsilon_of(args, vectors, method)}
            stem = f"{name}_{vectors}_{method.replace(', ', '_')}_seed{seed}"
            tasks[stem] = stem, {**config, **run}, functools.partial(function, **run)
        checkpoints = load_or_train_all(args, tasks, 'training').values()
    records = [checkpoint['record'] for checkpoint in checkpoints]
    write_json(plots / f'{name}.json', header, records)
    if not args.tune:
        plot_comparison(plots / f'{name}.png', records)
    table = (tuning_table if args.tune else results_table)(records)
    print(f'\n{table}\n\nWritten to {plots}')


def epsilon_of(args, vectors, method):
    if method == 'posted':
        return posted.EPSILON
    if method == 'posted, tuned':
        return POSTED_EPSILON[args.task][vectors]
    return getattr(args, 'epsilon', CHOSEN_EPSILON[args.task][vectors])


if __name__ == '__main__':
    run_program(main, get_args)
