"""Compare AMP with SAM and plain training, on sequences and on images.

    python -m companions.amp.experiment --seeds 8     # both; 'sequences' or 'images' for one
    python -m companions.amp.experiment images --gtsrb DIR   # or --cifar10 DIR, instead of digits
    python -m companions.amp.experiment --tune        # cross-validate ε and ζ in the training sets

Writes plots/amp.json and amp.png, or plots/tune_amp.json, under --output-dir, and the sequence
classifiers to checkpoints/companions/. The digits need requirements-extra.txt.
"""

import argparse
import math
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from Classifier import LSTMClassifier
from companions.amp.amp import AMP, project
from companions.attacks.attacks import pgd
from companions.common import images
from companions.common.models import (AMP_SETTINGS, EPOCHS, amp_models, assignment_models,
                                      train_sequence_classifier)
from load_data import DEFAULT_PATH, load_data, sequences_of, targets_of
from support import options
from support.checkpoints import write_json
from support.figures import draw_band, markdown_table, mean_std, save_figure
from support.parallel import parallel_map
from support.program import run_program
from support.sweep import Run
from support.tuning import check_folds, fold_batches, paired_difference, stratified_folds
from training import train

METHODS = tuple(AMP_SETTINGS)
CHOSEN = {'sequences': AMP_SETTINGS,  # by --tune; on images, the best of those with ε above 0
          'images': {'plain': {'epsilon': 0.0}, 'AMP': {'epsilon': 0.1, 'inner_lr': 3.0},
                     'SAM': {'epsilon': 0.03, 'inner_lr': math.inf}}}
CANDIDATES = [{'epsilon': 0.0},
              *({'epsilon': epsilon, 'inner_lr': zeta}
                for zeta in (0.3, 1.0, 3.0) for epsilon in (0.1, 0.3, 1.0)),
              *({'epsilon': epsilon, 'inner_lr': math.inf} for epsilon in (0.03, 0.1, 0.3, 1.0))]
RADII = 0.1, 0.3, 1.0  # distances from the weights at which the training loss is measured
ATTACK = 0.5           # on images: L2 size of the PGD attack


# ------------------------------------------------------------------------------------- sequences

def compare_on_sequences(args):
    models = assignment_models(args, ('base',), args.epochs)
    models = amp_models(args, models, METHODS, args.epochs)
    tasks = [{'method': method, 'seed': seed, 'checkpoint': checkpoint}
             for (method, seed), checkpoint in models.items()]
    return parallel_map(evaluate_on_sequences, tasks, args.jobs, 'losses')


def evaluate_on_sequences(method, seed, checkpoint):
    model = LSTMClassifier.from_checkpoint(checkpoint)
    (inputs, targets, lengths), = load_data(DEFAULT_PATH, 270)[0]
    losses = loss_around(model, lambda: F.cross_entropy(model(inputs, lengths), targets))
    return {'job': 'sequences', 'method': method, 'seed': seed, 'history': checkpoint['history'],
            **losses}


def validate_on_sequences(epochs, held_out, fold):
    """Return each candidate's accuracy on the held-out training sequences, all from one base."""
    settings = options.get_args([])
    batches, _ = load_data(DEFAULT_PATH)
    batches, test = fold_batches(sequences_of(batches), targets_of(batches), held_out,
                                 settings.batch_size)
    unseen = torch.zeros(len(test[0].targets), dtype=torch.bool)
    base = train(Run('plain', seed=fold, epochs=epochs), settings, (batches, test[:1], unseen))
    return [train_sequence_classifier(base, candidate, fold, batches, epochs, test)['history'][-1]
            for candidate in CANDIDATES]


def loss_around(model, loss_of):
    """Return the loss, loss_of(), at the weights and at RADII from them along its gradient.

    In a flat minimum it stays low.
    """
    parameters = list(model.parameters())
    loss = loss_of()
    direction = project(torch.autograd.grad(loss, parameters), 1.0, to_sphere=True)
    around = []
    with torch.no_grad():
        for radius in RADII:
            theta = [p.clone() for p in parameters]
            for p, d in zip(parameters, direction):
                p.add_(d, alpha=radius)
            around.append(loss_of().item())
            for p, t in zip(parameters, theta):
                p.copy_(t)
    return {'loss': loss.item(), 'loss_around': around}


# ---------------------------------------------------------------------------------------- images

def train_on_images(source, method, seed, epochs, width):
    data = images.load(*source)
    model = fit_images(data, CHOSEN['images'][method], epochs, seed, width)
    x, y = data.test[:1000], data.test_labels[:1000]
    attacked = pgd(model, x, y, ATTACK, norm=2, valid_range=(0, 1))
    correct = torch.stack([images.predict_logits(model, v).argmax(1) == y for v in (x, attacked)])
    losses = loss_around(
        model, lambda: F.cross_entropy(model(data.train[:2000]), data.train_labels[:2000]))
    return {'job': data.name, 'method': method, 'seed': seed,
            'accuracy': images.accuracy(model, data.test, data.test_labels),
            'attacked': correct.all(0).float().mean().item(), **losses}


def fit_images(data, settings, epochs, seed, width):
    return images.fit(data, lambda model: AMP(
        model.parameters(), lr=2e-3, **settings, base_optimizer=torch.optim.Adam, model=model),
        epochs, seed, width=width)


def validate_on_images(source, epochs, width, held_out, fold):
    """Return each candidate's accuracy on the held-out training images."""
    data = images.load(*source)
    x, y, held_out = data.train, data.train_labels, torch.tensor(held_out)
    part = images.Images(data.name, x[~held_out], y[~held_out], x[held_out], y[held_out])
    models = [fit_images(part, candidate, epochs, fold, width) for candidate in CANDIDATES]
    return [images.accuracy(model, part.test, part.test_labels) for model in models]


# ------------------------------------------------------------------------------ table and figure

def metrics(record):
    """Return a record's accuracies by column name, and its losses at 0 and RADII."""
    if record['job'] == 'sequences':
        shares = {'accuracy (%)': record['history'][-1],
                  'mean of the last ten epochs (%)': np.mean(record['history'][-10:])}
    else:
        shares = {'accuracy (%)': record['accuracy'],
                  f'PGD, L2 {ATTACK:g} (%)': record['attacked']}
    return shares, [record['loss'], *record['loss_around']]


def comparison_table(records, job):
    """Return Markdown: accuracies, their differences to plain training, and the losses."""
    runs = {(r['method'], r['seed']): metrics(r) for r in records if r['job'] == job}
    seeds = sorted({seed for _, seed in runs})
    columns = list(runs[METHODS[0], seeds[0]][0])
    header = [job]
    for column in columns:
        header += [column, 'minus plain']
    header += ['training loss (median) at the weights',
               *(f'at distance {radius:g}' for radius in RADII)]
    rows = []
    for method in METHODS:
        row = [method]
        for column in columns:
            values = [runs[method, seed][0][column] for seed in seeds]
            difference = [v - runs['plain', seed][0][column] for v, seed in zip(values, seeds)]
            row += [mean_std(values), mean_std(difference, sign='+') if method != 'plain' else '']
        losses = np.median([runs[method, seed][1] for seed in seeds], axis=0)
        rows.append([*row, *(f'{loss:.3f}' for loss in losses)])
    return markdown_table(header, rows)


def plot_comparison(path, records):
    """Draw accuracy over epochs for sequences, and each job's training loss over the distance."""
    jobs = list(dict.fromkeys(record['job'] for record in records))
    panels = [('sequences', 'accuracy')] * ('sequences' in jobs) + [(job, 'loss') for job in jobs]
    figure = Figure(figsize=(1 + 5 * len(panels), 4.5), layout='constrained')
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (job, what) in zip(axes, panels):
        for k, method in enumerate(METHODS):
            runs = [r for r in records if (r['job'], r['method']) == (job, method)]
            if what == 'accuracy':
                accuracy = 100 * np.array([r['history'] for r in runs])
                draw_band(ax, accuracy, method, {'color': f'C{k}'})
            else:
                low, y, high = np.percentile([metrics(r)[1] for r in runs], (0, 50, 100), axis=0)
                ax.errorbar((0, *RADII), y, (y - low, high - y), fmt='o-', capsize=3, label=method)
        if what == 'accuracy':
            ax.set(title='sequences: accuracy', xlabel='epoch after the base model',
                   ylabel="accuracy on UCI's 370 (%)\nmean, band: ± standard deviation")
        else:
            ax.set(title=f'{job}: training loss', yscale='log',
                   xlabel='distance from the weights, along the gradient',
                   ylabel='median over seeds, bar: lowest to highest')
        ax.grid(alpha=0.3)
        ax.legend(loc='lower right')
    save_figure(path, figure)


# --------------------------------------------------------------------------------- choosing ε and ζ

def tune(args):
    """Cross-validate the candidates within the training sets; return a record for each fold."""
    jobs = {}
    if args.job != 'images':
        train_set, _ = load_data(DEFAULT_PATH)
        jobs['sequences'] = targets_of(train_set), partial(validate_on_sequences, args.epochs)
    if args.job != 'sequences':
        data = images.load(*args.source)
        jobs[data.name] = data.train_labels.numpy(), partial(
            validate_on_images, args.source, args.image_epochs, args.width)
    for labels, _ in jobs.values():
        check_folds(args.folds, labels)
    records = []
    for job, (labels, validate) in jobs.items():
        folds = enumerate(stratified_folds(labels, args.folds, args.repeats))
        tasks = [{'held_out': held_out, 'fold': fold} for fold, held_out in folds]
        for fold, accuracies in enumerate(parallel_map(validate, tasks, args.jobs, job)):
            for candidate, accuracy in zip(CANDIDATES, accuracies):
                zeta = candidate.get('inner_lr')  # JSON has no infinity
                records.append({'job': job, 'epsilon': candidate['epsilon'],
                                'inner_lr': 'inf' if zeta == math.inf else zeta,
                                'fold': fold, 'accuracy': accuracy})
    return records


def tuning_table(records, job):
    """Return Markdown: each candidate's accuracy on the held-out folds, and minus that at ε = 0."""
    values = {}
    for r in sorted(records, key=lambda r: r['fold']):
        if r['job'] == job:
            values.setdefault((r['epsilon'], r['inner_lr']), []).append(r['accuracy'])
    rows = []
    for (epsilon, zeta), accuracies in values.items():
        if epsilon == 0:
            names = 'plain', '', ''
        else:
            names = ('SAM', epsilon, '∞') if zeta == 'inf' else ('AMP', epsilon, f'{zeta:g}')
        rows.append([*names, mean_std(accuracies), paired_difference(accuracies, values[0, None])])
    return markdown_table(('method', 'ε', 'ζ', 'accuracy on held-out folds (%)',
                           'minus plain (mean ± standard error)'), rows)


# ------------------------------------------------------------------------------------ the program

def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Compare AMP with SAM and plain training.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('job', nargs='?', choices=('both', 'sequences', 'images'), default='both')
    options.add_run_arguments(parser)
    folder = parser.add_mutually_exclusive_group()
    for name in ('CIFAR-10', 'GTSRB'):
        folder.add_argument(f'--{name.lower().replace("-", "")}', metavar='DIR', dest='source',
                            type=partial(lambda ...
