"""Compare AMP with SAM and plain training, on sequences and on images.

    python -m companions.amp.experiment --seeds 8     # both; 'sequences' or 'images' for one
    python -m companions.amp.experiment images --gtsrb DIR   # or --cifar10 DIR, instead of digits
    python -m companions.amp.experiment --tune        # cross-validate ε and ζ in the training sets
"""

import argparse

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
                     'SAM': {'epsilon': 0.03, 'inner_lr': 'inf'}}}
CANDIDATES = [{'epsilon': 0.0},
              *({'epsilon': epsilon, 'inner_lr': zeta}
                for zeta in (0.3, 1.0, 3.0) for epsilon in (0.1, 0.3, 1.0)),
              *({'epsilon': epsilon, 'inner_lr': 'inf'} for epsilon in (0.03, 0.1, 0.3, 1.0))]
RADII = 0.1, 0.3, 1.0  # distances from the weights at which the training loss is measured
ATTACK = 0.5           # on images: L2 size of the PGD attack
COLUMNS = {'accuracy': 'accuracy (%)', 'last_ten': 'mean of the last ten epochs (%)',
           'attacked': f'PGD, L2 {ATTACK:g} (%)'}


def compare(args):
    """Train with each method, once for each seed; return a record for each model."""
    records = []
    if args.job != 'images':
        models = assignment_models(args, ('base',), args.epochs)
        models = amp_models(args, models, METHODS, args.epochs)
        tasks = [{'method': method, 'seed': seed, 'checkpoint': checkpoint}
                 for (method, seed), checkpoint in models.items()]
        records += parallel_map(evaluate_on_sequences, tasks, args.jobs, 'losses')
    if args.job != 'sequences':
        tasks = [{'args': args, 'method': method, 'seed': seed}
                 for method in METHODS for seed in range(args.seeds)]
        records += parallel_map(train_on_images, tasks, args.jobs, args.source[0])
    return records


def tune(args):
    """Cross-validate the candidates within the training sets; return a record for each fold."""
    jobs = {}
    if args.job != 'images':
        jobs['sequences'] = validate_on_sequences, targets_of(load_data(DEFAULT_PATH)[0])
    if args.job != 'sequences':
        jobs[args.source[0]] = validate_on_images, images.load(*args.source).train_labels.numpy()
    for _, labels in jobs.values():
        check_folds(args.folds, labels)
    records = []
    for job, (validate, labels) in jobs.items():
        folds = enumerate(stratified_folds(labels, args.folds, args.repeats))
        tasks = [{'args': args, 'fold': fold, 'held_out': held_out} for fold, held_out in folds]
        for fold, accuracies in enumerate(parallel_map(validate, tasks, args.jobs, job)):
            records += [{'job': job, **candidate, 'fold': fold, 'accuracy': accuracy}
                        for candidate, accuracy in zip(CANDIDATES, accuracies)]
    return records


def evaluate_on_sequences(method, seed, checkpoint):
    model = LSTMClassifier.from_checkpoint(checkpoint)
    (inputs, targets, lengths), = load_data(DEFAULT_PATH, 270)[0]
    losses = loss_around(model, lambda: F.cross_entropy(model(inputs, lengths), targets))
    return {'job': 'sequences', 'method': method, 'seed': seed, 'history': checkpoint['history'],
            **losses}


def validate_on_sequences(args, fold, held_out):
    """Return each candidate's accuracy on the held-out training sequences, all from one base."""
    settings = options.get_args([])
    batches, _ = load_data(DEFAULT_PATH)
    batches, test = fold_batches(sequences_of(batches), targets_of(batches), held_out,
                                 settings.batch_size)
    unseen = torch.zeros(len(test[0].targets), dtype=torch.bool)
    run = Run('plain', seed=fold, epochs=args.epochs)
    base = train(run, settings, (batches, test[:1], unseen))
    models = [train_sequence_classifier(base, candidate, fold, batches, args.epochs, test)
              for candidate in CANDIDATES]
    return [model['history'][-1] for model in models]


def train_on_images(args, method, seed):
    data = images.load(*args.source)
    model = fit_images(args, data, CHOSEN['images'][method], seed)
    x, y = data.test[:1000], data.test_labels[:1000]
    attacked = pgd(model, x, y, ATTACK, norm=2, valid_range=(0, 1))
    correct = torch.stack([images.predict_logits(model, v).argmax(1) == y for v in (x, attacked)])
    losses = loss_around(
        model, lambda: F.cross_entropy(model(data.train[:2000]), data.train_labels[:2000]))
    return {'job': data.name, 'method': method, 'seed': seed,
            'accuracy': images.accuracy(model, data.test, data.test_labels),
            'attacked': correct.all(0).float().mean().item(), **losses}


def fit_images(args, data, settings, seed):
    return images.fit(data, lambda model: AMP(
        model.parameters(), lr=2e-3, **settings, base_optimizer=torch.optim.Adam, model=model),
        args.image_epochs, seed, width=args.width)


def validate_on_images(args, fold, held_out):
    """Return each candidate's accuracy on the held-out training images."""
    data = images.load(*args.source)
    x, y, held_out = data.train, data.train_labels, torch.tensor(held_out)
    part = images.Images(data.name, x[~held_out], y[~held_out], x[held_out], y[held_out])
    models = [fit_images(args, part, candidate, fold) for candidate in CANDIDATES]
    return [images.accuracy(model, part.test, part.test_labels) for model in models]


def loss_around(model, loss_of):
    """Return the loss, loss_of(), at the weights and at RADII from them along its gradient.

    In a flat minimum it stays low.
    """
    parameters = list(model.parameters())
    loss = loss_of()
    direction = project(torch.autograd.grad(loss, parameters), 1.0, to_sphere=True)
    theta, around = [p.detach().clone() for p in parameters], []
    with torch.no_grad():
        for radius in (*RADII, 0):  # 0 restores the weights
            for p, t, d in zip(parameters, theta, direction):
                p.copy_(torch.add(t, d, alpha=radius))
            around.append(loss_of().item())
    return {'loss': loss.item(), 'loss_around': around[:-1]}


def results_of(records, job, method):
    """Return the entries of a method's records, ordered by seed: {key: array [seeds, ...]}."""
    runs = sorted((r for r in records if (r['job'], r['method']) == (job, method)),
                  key=lambda r: r['seed'])
    results = {key: np.array([r[key] for r in runs]) for key in runs[0]}
    results['losses'] = np.column_stack([results['loss'], results['loss_around']])
    if job == 'sequences':
        history = results['history']
        results |= {'accuracy': history[:, -1], 'last_ten': history[:, -10:].mean(1)}
    return results


def comparison_table(records, job):
    """Return Markdown: accuracies, their differences to plain training, and the losses."""
    results = {method: results_of(records, job, method) for method in METHODS}
    columns = [(key, name) for key, name in COLUMNS.items() if key in results['plain']]
    header = [job]
    for _, name in columns:
        header += [name, 'minus plain']
    header += ['training loss (median) at the weights', *(f'at distance {r:g}' for r in RADII)]
    rows = []
    for method in METHODS:
        row = [method]
        for key, _ in columns:
            values = results[method][key]
            difference = mean_std(values - results['plain'][key], sign='+')
            row += [mean_std(values), difference if method != 'plain' else '']
        losses = np.median(results[method]['losses'], axis=0)
        rows.append([*row, *(f'{loss:.3f}' for loss in losses)])
    return markdown_table(header, rows)


def tuning_table(records, job):
    """Return Markdown: each candidate's accuracy on the held-out folds, and minus that at ε = 0."""
    values = {}
    for r in sorted(records, key=lambda r: r['fold']):
        if r['job'] == job:
            values.setdefault((r['epsilon'], r.get('inner_lr')), []).append(r['accuracy'])
    rows = []
    for (epsilon, zeta), accuracies in values.items():
        method = {None: 'plain', 'inf': 'SAM'}.get(zeta, 'AMP')
        rows.append((method, f'{epsilon:g}', {None: '', 'inf': '∞'}.get(zeta, zeta),
                     mean_std(accuracies), paired_difference(accuracies, values[0, None])))
    return markdown_table(('method', 'ε', 'ζ', 'accuracy on held-out folds (%)',
                           'minus plain (mean ± standard error)'), rows)


def plot_comparison(path, records):
    """Draw each job's training loss over the distance, and accuracy over epochs for sequences."""
    jobs = list(dict.fromkeys(record['job'] for record in records))
    panels = len(jobs) + ('sequences' in jobs)
    figure = Figure(figsize=(1 + 5 * panels, 4.5), layout='constrained')
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for k, method in enumerate(METHODS):
        for ax, job in zip(axes[-len(jobs):], jobs):
            losses = results_of(records, job, method)['losses']
            y = np.median(losses, axis=0)
            ax.errorbar((0, *RADII), y, (y - losses.min(0), losses.max(0) - y), fmt='o-',
                        capsize=3, label=method)
            ax.set(title=f'{job}: training loss', xlabel='distance along the gradient',
                   ylabel='median over seeds, bars: lowest to highest', yscale='log')
        if 'sequences' in jobs:
            accuracy = 100 * results_of(records, 'sequences', method)['history']
            draw_band(axes[0], accuracy, method, {'color': f'C{k}'})
            axes[0].set(title='sequences: accuracy', xlabel='epoch after the base model',
                        ylabel="accuracy on UCI's 370 (%)\nmean, band: ± standard deviation")
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.legend(loc='lower right')
    save_figure(path, figure)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Compare AMP with SAM and plain training.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('job', nargs='?', choices=('both', 'sequences', 'images'), default='both')
    options.add_run_arguments(parser)
    parser.set_defaults(source=('digits', None))  # arguments of images.load
    group = parser.add_mutually_exclusive_group()
    for option, name in (('--cifar10', 'CIFAR-10'), ('--gtsrb', 'GTSRB')):
        group.add_argument(option, metavar='DIR', dest='source', default=argparse.SUPPRESS,
                           type=lambda folder, name=name: (name, folder),
                           help=f'folder of {name}, to use instead of digits')
    parser.add_argument('--epochs', type=options.positive_int, default=EPOCHS,
                        help='of the sequence classifiers')
    parser.add_argument('--image-epochs', type=options.positive_int, default=20,
                        help='of the image classifiers')
    parser.add_argument('--width', type=options.positive_int, default=16,
                        help='of the image classifiers: channels of the first layer')
    parser.add_argument('--tune', action='store_true',
                        help='cross-validate ε and ζ within the training sets')
    parser.add_argument('--folds', type=options.fold_count, default=5)
    parser.add_argument('--repeats', type=options.positive_int, default=3)
    args = parser.parse_args(argv)
    if args.job == 'sequences' and args.source[1]:
        parser.error('argument --cifar10 or --gtsrb: only with the job images')
    if args.dry_run:
        args.seeds, args.epochs, args.image_epochs, args.folds, args.repeats = 1, 2, 1, 2, 1
    return args


def main(args):
    options.finish_args(args, 'amp')
    if args.job != 'sequences':
        images.load(*args.source)  # fail now, not after the sequences
    plots = args.output_dir / 'plots'
    if args.tune:
        records, table = tune(args), tuning_table
        header = {'epochs': args.epochs, 'image_epochs': args.image_epochs}
        write_json(plots / 'tune_amp.json', header, records)
    else:
        records, table = compare(args), comparison_table
        header = {'chosen': CHOSEN, 'radii': RADII, 'attack': ATTACK}
        write_json(plots / 'amp.json', header, records)
        plot_comparison(plots / 'amp.png', records)
    for job in dict.fromkeys(record['job'] for record in records):
        print(f'\n{job}\n\n{table(records, job)}')
    print(f'\nWritten to {plots}')


if __name__ == '__main__':
    run_program(main, get_args)
