"""AMP with one, two and three inner steps against plain training, on few images.

    python -m companions.amp.images                             # scikit-learn's digits
    python -m companions.amp.images --gtsrb DIR --model cnn     # or --cifar10 DIR

The settings of every method are chosen by cross-validation within the training sets, then the
methods are compared on the test set.
"""

import argparse
import time

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from companions.amp.amp import AMP
from companions.common import images
from support import options
from support.checkpoints import write_json
from support.figures import draw_mean, markdown_table, mean_std, save_figure
from support.parallel import parallel_map
from support.program import run_program
from support.statistics import Effect, correct, format_p
from support.tuning import best_epsilon, check_folds, stratified_folds

LABELS = {'right': 0.0, '30 % wrong': 0.3}  # the share of the training labels that are wrong
OPTIMIZERS = {'SGD': (torch.optim.SGD, {'momentum': 0.9}), 'Adam': (torch.optim.Adam, {})}
METHODS = {0: 'plain', 1: 'AMP, N = 1', 2: 'AMP, N = 2', 3: 'AMP, N = 3'}  # by inner steps
GROUPS = [(labels, optimizer) for labels in LABELS for optimizer in OPTIMIZERS]
# Candidates. Plain training chooses the learning rate, and AMP keeps it.
LEARNING_RATES = {'SGD': (0.01, 0.03, 0.1, 0.3), 'Adam': (0.001, 0.003, 0.01, 0.03)}
EPSILONS, INNER_LRS = (0.1, 0.3, 1.0), (0.3, 3.0)
SETTINGS = 'lr', 'epsilon', 'inner_lr'


def training_set(args, labels, seed):
    """Return images.draw_training_set for one of LABELS, on the device."""
    data = images.load(*args.source)
    return images.draw_training_set(data, args.per_class, LABELS[labels], seed).to(args.device)


def fit(args, data, optimizer, settings, seed, after_epoch=None):
    """Train a network with AMP(**settings), with 'inner_iter' 0 for plain training."""
    if settings['inner_iter'] == 0:
        settings = {'lr': settings['lr'], 'epsilon': 0.0}
    base, base_settings = OPTIMIZERS[optimizer]

    def make_mlp():
        return nn.Sequential(nn.Flatten(), nn.Linear(data.train[0].numel(), args.width), nn.ReLU(),
                             nn.Linear(args.width, data.classes))

    return images.fit(
        data, lambda model: AMP(model.parameters(), base_optimizer=base, model=model, **settings,
                                **base_settings),
        args.epochs, seed, args.batch_size, args.width, make_mlp if args.model == 'mlp' else None,
        after_epoch)


def validate(args, labels, optimizer, candidates, seed, held_out):
    """Return each candidate's accuracy on the held-out part of the training set of a seed."""
    data = training_set(args, labels, seed)
    x, y, held_out = data.train, data.train_labels, torch.tensor(held_out)
    part = images.Images(data.name, x[~held_out], y[~held_out], x[held_out], y[held_out])
    models = [fit(args, part, optimizer, candidate, seed) for candidate in candidates]
    return [images.accuracy(model, part.test, part.test_labels) for model in models]


def cross_validate(args, candidates):
    """Cross-validate {(labels, optimizer, steps): candidates}; return a record for each fold.

    The folds are those of the training sets of the first `args.tuning_sets` seeds. Held-out labels
    are as wrong as those trained on.
    """
    tasks, found = [], []
    for (labels, optimizer, steps), settings in candidates.items():
        for seed in range(args.tuning_sets):
            y = training_set(args, labels, seed).train_labels.cpu().numpy()
            check_folds(args.folds, y)
            for fold, held_out in enumerate(stratified_folds(y, args.folds, 1)):
                tasks.append({'args': args, 'labels': labels, 'optimizer': optimizer,
                              'candidates': settings, 'seed': seed, 'held_out': held_out})
                found.append({'labels': labels, 'optimizer': optimizer, 'seed': seed, 'fold': fold})
    results = parallel_map(validate, tasks, args.jobs, 'cross-validation')
    return [{**record, **candidate, 'accuracy': accuracy}
            for record, task, accuracies in zip(found, tasks, results)
            for candidate, accuracy in zip(task['candidates'], accuracies)]


def held_out_accuracies(records, labels, optimizer, steps):
    """Return a method's {(lr, epsilon, inner_lr): accuracies} of cross-validation."""
    accuracies = {}
    for r in records:
        if (r['labels'], r['optimizer'], r['inner_iter']) == (labels, optimizer, steps):
            accuracies.setdefault(tuple(r[key] for key in SETTINGS), []).append(r['accuracy'])
    return accuracies


def choose(records, labels, optimizer, steps):
    """Return the settings with the largest mean accuracy, the smallest of equals."""
    best = best_epsilon(held_out_accuracies(records, labels, optimizer, steps))
    return {**dict(zip(SETTINGS, best)), 'inner_iter': steps}


def tune(args):
    """Choose the learning rates by plain training, then AMP's ε and ζ; return all records."""
    records = cross_validate(args, {
        (labels, optimizer, 0): [{'lr': lr, 'epsilon': 0.0, 'inner_lr': 1.0, 'inner_iter': 0}
                                 for lr in LEARNING_RATES[optimizer]]
        for labels, optimizer in GROUPS})
    lr = {group: choose(records, *group, 0)['lr'] for group in GROUPS}
    return records + cross_validate(args, {
        (*group, steps): [{'lr': lr[group], 'epsilon': epsilon, 'inner_lr': zeta,
                           'inner_iter': steps} for epsilon in EPSILONS for zeta in INNER_LRS]
        for group in GROUPS for steps in METHODS if steps})


def train_and_test(args, labels, optimizer, settings, seed):
    """Train a network and test it after every epoch; return its record.

    'seconds' is the CPU time of training alone, which other processes hardly change. Raises
    ValueError for a loss that is not finite.
    """
    data = training_set(args, labels, seed)
    losses, accuracies, testing = [], [], 0.0

    def test(model, loss):
        nonlocal testing
        started = time.process_time()
        losses.append(loss)
        accuracies.append(images.accuracy(model, data.test, data.test_labels))
        testing += time.process_time() - started

    started = time.process_time()
    fit(args, data, optimizer, settings, seed, test)
    seconds = time.process_time() - started - testing
    if not np.isfinite(losses).all():
        raise ValueError(f'the loss is not finite: labels {labels}, {optimizer}, {settings}, '
                         f'seed {seed}')
    return {'labels': labels, 'optimizer': optimizer, **settings, 'seed': seed,
            'train_loss': losses, 'test_accuracy': accuracies, 'seconds': round(seconds, 3)}


def compare(args, tuning):
    """Train with the settings that `tuning` chooses, once for each seed; return the records."""
    tasks = [{'args': args, 'labels': labels, 'optimizer': optimizer,
              'settings': choose(tuning, labels, optimizer, steps), 'seed': seed}
             for labels, optimizer in GROUPS for steps in METHODS for seed in range(args.seeds)]
    return parallel_map(train_and_test, tasks, args.jobs, 'comparison')


def results_of(records, labels, optimizer, steps):
    """Return a method's settings, and its results by seed: {key: array [seeds, ...]}."""
    runs = sorted((r for r in records if (r['labels'], r['optimizer'], r['inner_iter'])
                   == (labels, optimizer, steps)), key=lambda r: r['seed'])
    return {**{setting: runs[0][setting] for setting in SETTINGS},
            **{key: np.array([r[key] for r in runs])
               for key in ('train_loss', 'test_accuracy', 'seconds')}}


def effects_of(records):
    """Return {(labels, optimizer, steps): Effect} of AMP against plain training, corrected.

    All are tested together, at the last epoch.
    """
    def accuracy(*method):
        return 100 * results_of(records, *method)['test_accuracy'][:, -1]

    return correct([Effect((*group, steps), accuracy(*group, steps), accuracy(*group, 0))
                    for group in GROUPS for steps in METHODS if steps])


def comparison_table(records):
    """Return Markdown: the chosen settings, test accuracy, its paired difference, and seconds."""
    several = len({r['seed'] for r in records}) > 1
    effects, rows = effects_of(records) if several else {}, []
    for group in GROUPS:
        for steps, name in METHODS.items():
            found = results_of(records, *group, steps)
            ball = [f'{found[key]:g}' if steps else '' for key in ('epsilon', 'inner_lr')]
            difference = ['', '']
            if effect := effects.get((*group, steps)):
                difference = [f'{effect.mean:+.1f} ({effect.low:+.1f} to {effect.high:+.1f})',
                              format_p(effect.p_holm).removeprefix('p ').removeprefix('= ')]
            rows.append([*group, name, f'{found["lr"]:g}', *ball,
                         mean_std(found['test_accuracy'][:, -1]), *difference,
                         f'{found["seconds"].mean():.2f}'])
    return markdown_table(('labels', 'optimizer', 'method', 'learning rate', 'ε', 'ζ',
                           'test accuracy (%)', 'minus plain (95 % interval)', 'p, corrected',
                           'CPU seconds'), rows)


def tuning_tables(records):
    """Return two Markdown tables of the mean accuracy on held-out folds, the chosen in bold.

    They are of plain training by learning rate, and of AMP by ε and ζ.
    """
    def cells(group, steps):
        accuracies = held_out_accuracies(records, *group, steps)
        best = tuple(choose(records, *group, steps)[key] for key in SETTINGS)
        return {key: f'**{100 * np.mean(values):.1f}**' if key == best
                else f'{100 * np.mean(values):.1f}' for key, values in accuracies.items()}

    plain = [[*group, ', '.join(f'{lr:g}: {cell}' for (lr, _, _), cell in cells(group, 0).items())]
             for group in GROUPS]
    amp = [[*group, steps, *cells(group, steps).values()]
           for group in GROUPS for steps in METHODS if steps]
    balls = [f'ε = {epsilon:g}, ζ = {zeta:g}' for epsilon in EPSILONS for zeta in INNER_LRS]
    return (markdown_table(('labels', 'optimizer', 'learning rate: accuracy (%)'), plain),
            markdown_table(('labels', 'optimizer', 'N', *balls), amp))


def plot_comparison(path, records):
    """Draw test accuracy, and below it the training loss, against epoch."""
    figure = Figure(figsize=(14, 6.5), layout='constrained')
    axes = figure.subplots(2, len(GROUPS), sharex=True, sharey='row')
    for column, group in zip(axes.T, GROUPS):
        for steps, name in METHODS.items():
            found = results_of(records, *group, steps)
            style = {'color': f'C{steps - 1}' if steps else 'k', 'linestyle': '-' if steps else '--'}
            draw_mean(column[0], 100 * found['test_accuracy'], name, style)
            draw_mean(column[1], found['train_loss'], name, style)
        column[0].set_title(f'labels {group[0]}, {group[1]}')
        column[1].set_xlabel('epoch')
    last = [100 * r['test_accuracy'][-1] for r in records]
    floor = max(0, 5 * int((min(last) - 10) / 5))  # the first epochs would flatten the others
    axes[0, 0].set(ylim=(floor, None), ylabel=f'test accuracy (%), cut off below {floor}')
    axes[1, 0].set_ylabel('training loss')
    for ax in axes.flat:
        ax.grid(alpha=0.3)
    axes[0, 0].legend(loc='lower right')
    seeds = len({r['seed'] for r in records})
    figure.suptitle(f'Means over {seeds} training sets' if seeds > 1 else 'One training set')
    save_figure(path, figure)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Compare AMP with plain training on few images.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_run_arguments(parser, seeds=10)
    options.add_device_argument(parser)
    images.add_data_arguments(parser, 'CIFAR-10', 'GTSRB')
    parser.add_argument('--model', choices=('mlp', 'cnn'), default='mlp',
                        help='one hidden layer, or the convolutional network of common/images.py')
    parser.add_argument('--width', type=options.positive_int, default=64,
                        help='units of the hidden layer, or channels of the first layer')
    parser.add_argument('--per-class', type=options.positive_int, default=20,
                        help='training images of each class')
    parser.add_argument('--epochs', type=options.positive_int, default=30)
    parser.add_argument('--batch-size', type=options.positive_int, default=50)
    parser.add_argument('--folds', type=options.fold_count, default=4, help='of cross-validation')
    parser.add_argument('--tuning-sets', type=options.positive_int, default=2,
                        help='cross-validate in the training sets of that many seeds')
    args = parser.parse_args(argv)
    if args.dry_run:
        args.seeds = args.tuning_sets = args.epochs = 1
        args.folds = 2
    return args


def main(args):
    options.prepare_output_dir(args, 'amp_images')
    data = images.load(*args.source)
    header = {'data': data.name, **{key: getattr(args, key) for key in (
        'model', 'width', 'per_class', 'epochs', 'batch_size', 'folds', 'tuning_sets', 'device')}}
    plots = args.output_dir / 'plots'
    tuning = tune(args)
    write_json(plots / f'tune_amp_images{data.suffix}.json', header, tuning)
    print('\n\n'.join(tuning_tables(tuning)))
    records = compare(args, tuning)
    write_json(plots / f'amp_images{data.suffix}.json', header, records)
    plot_comparison(plots / f'amp_images{data.suffix}.png', records)
    print(f'\n{comparison_table(records)}\n\nWritten to {plots}')


if __name__ == '__main__':
    run_program(main, get_args)
