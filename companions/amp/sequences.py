"""Compare AMP with SAM and plain training on the sequences of the main assignment.

    python -m companions.amp.sequences --seeds 8
    python -m companions.amp.sequences --tune     # cross-validate ε and ζ in the training set
"""

import argparse

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from Classifier import LSTMClassifier
from companions.amp.amp import project
from companions.common.models import (AMP_SETTINGS, EPOCHS, amp_models, assignment_models,
                                      train_sequence_classifier)
from load_data import DEFAULT_PATH, load_data, targets_of
from support import options
from support.checkpoints import write_json
from support.figures import draw_band, markdown_table, mean_std, save_figure
from support.parallel import parallel_map
from support.program import run_program
from support.sweep import Run
from support.tuning import check_folds, fold_batches, paired_difference, stratified_folds
from training import train

METHODS = tuple(AMP_SETTINGS)
CANDIDATES = [{'epsilon': 0.0},
              *({'epsilon': epsilon, 'inner_lr': zeta}
                for zeta in (0.3, 1.0, 3.0) for epsilon in (0.1, 0.3, 1.0)),
              *({'epsilon': epsilon, 'inner_lr': 'inf'} for epsilon in (0.03, 0.1, 0.3, 1.0))]
RADII = 0.1, 0.3, 1.0  # distances from the weights at which the training loss is measured
COLUMNS = {'accuracy': 'accuracy (%)', 'last_ten': 'mean of the last ten epochs (%)'}


def compare(args):
    """Train with each method, once for each seed; return a record for each model."""
    models = assignment_models(args, ('base',), args.epochs, args.device)
    models = amp_models(args, models, METHODS, args.epochs, args.device)
    tasks = [{'method': method, 'seed': seed, 'checkpoint': checkpoint, 'device': args.device}
             for (method, seed), checkpoint in models.items()]
    return parallel_map(evaluate, tasks, args.jobs, 'losses')


def evaluate(method, seed, checkpoint, device):
    """Return the record of a trained model."""
    model = LSTMClassifier.from_checkpoint(checkpoint).to(device)
    inputs, targets, lengths = (x.to(device) for x in load_data(DEFAULT_PATH, 270)[0][0])
    around = loss_around(model, lambda: F.cross_entropy(model(inputs, lengths), targets))
    kept = {key: checkpoint[key] for key in ('history', 'losses', 'seconds')}
    return {'method': method, 'seed': seed, **kept, **around}


def tune(args):
    """Cross-validate the candidates within the training set; return a record for each fold."""
    labels = targets_of(load_data(DEFAULT_PATH)[0])
    check_folds(args.folds, labels)
    folds = enumerate(stratified_folds(labels, args.folds, args.repeats))
    tasks = [{'args': args, 'fold': fold, 'held_out': held_out} for fold, held_out in folds]
    results = parallel_map(validate, tasks, args.jobs, 'sequences')
    return [{**candidate, 'fold': fold, 'accuracy': accuracy}
            for fold, accuracies in enumerate(results)
            for candidate, accuracy in zip(CANDIDATES, accuracies)]


def validate(args, fold, held_out):
    """Return each candidate's accuracy on the held-out training sequences, all from one base."""
    settings = options.get_args(['--device', args.device])
    batches, _ = load_data(DEFAULT_PATH)
    batches, test = fold_batches(batches, held_out, settings.batch_size)
    unseen = torch.zeros(len(test[0].targets), dtype=torch.bool)
    run = Run('plain', seed=fold, epochs=args.epochs)
    base = train(run, settings, (batches, test[:1], unseen))
    models = [train_sequence_classifier(base, candidate, fold, batches, args.epochs, test,
                                        args.device) for candidate in CANDIDATES]
    return [model['history'][-1] for model in models]


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


def results_of(records, method):
    """Return the entries of a method's records, ordered by seed: {key: array [seeds, ...]}."""
    runs = sorted((r for r in records if r['method'] == method), key=lambda r: r['seed'])
    results = {key: np.array([r[key] for r in runs]) for key in runs[0]}
    history = results['history']
    return results | {'around': np.column_stack([results['loss'], results['loss_around']]),
                      'accuracy': history[:, -1], 'last_ten': history[:, -10:].mean(1)}


def comparison_table(records):
    """Return Markdown: accuracies, their differences from plain training, and the losses."""
    results = {method: results_of(records, method) for method in METHODS}
    header = ['method']
    for name in COLUMNS.values():
        header += [name, 'minus plain']
    header += ['training loss (median) at the weights', *(f'at distance {r:g}' for r in RADII),
               'CPU seconds (median)']
    rows = []
    for method in METHODS:
        row = [method]
        for key in COLUMNS:
            values = results[method][key]
            difference = mean_std(values - results['plain'][key], sign='+')
            row += [mean_std(values), difference if method != 'plain' else '']
        losses = np.median(results[method]['around'], axis=0)
        rows.append([*row, *(f'{loss:.3f}' for loss in losses),
                     f'{np.median(results[method]["seconds"]):.1f}'])
    return markdown_table(header, rows)


def tuning_table(records):
    """Return Markdown: each candidate's accuracy on the held-out folds, and minus that at ε = 0."""
    values = {}
    for r in sorted(records, key=lambda r: r['fold']):
        values.setdefault((r['epsilon'], r.get('inner_lr')), []).append(r['accuracy'])
    rows = []
    for (epsilon, zeta), accuracies in values.items():
        method = {None: 'plain', 'inf': 'SAM'}.get(zeta, 'AMP')
        rows.append((method, f'{epsilon:g}', {None: '', 'inf': '∞'}.get(zeta, zeta),
                     mean_std(accuracies), paired_difference(accuracies, values[0, None])))
    return markdown_table(('method', 'ε', 'ζ', 'accuracy on held-out folds (%)',
                           'minus plain (mean ± standard error)'), rows)


def plot_comparison(path, records):
    """Draw accuracy and training loss over epochs, and the loss over the distance."""
    figure = Figure(figsize=(14, 4.5), layout='constrained')
    axes = figure.subplots(1, 3)
    for k, method in enumerate(METHODS):
        results = results_of(records, method)
        draw_band(axes[0], 100 * results['history'], method, {'color': f'C{k}'})
        axes[1].plot(range(1, 1 + results['losses'].shape[1]), np.median(results['losses'], axis=0),
                     label=method)
        y = np.median(results['around'], axis=0)
        bars = y - results['around'].min(0), results['around'].max(0) - y
        axes[2].errorbar((0, *RADII), y, bars, fmt='o-', capsize=3, label=method)
    axes[0].set(title='Accuracy', xlabel='epoch after the base model',
                ylabel="accuracy on UCI's 370 (%)\nmean, band: ± standard deviation")
    axes[1].set(title='Training loss', xlabel='epoch after the base model',
                ylabel='median over seeds', yscale='log')
    axes[2].set(title='Training loss around the weights', xlabel='distance along the gradient',
                ylabel='median over seeds, bars: lowest to highest', yscale='log')
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.legend(loc='lower right')
    save_figure(path, figure)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Compare AMP with SAM and plain training.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_run_arguments(parser)
    options.add_device_argument(parser)
    parser.add_argument('--epochs', type=options.positive_int, default=EPOCHS)
    parser.add_argument('--tune', action='store_true',
                        help='cross-validate ε and ζ within the training set')
    parser.add_argument('--folds', type=options.fold_count, default=5)
    parser.add_argument('--repeats', type=options.positive_int, default=3)
    args = parser.parse_args(argv)
    if args.dry_run:
        args.seeds, args.epochs, args.folds, args.repeats = 1, 2, 2, 1
    return args


def main(args):
    options.prepare_output_dir(args, 'amp_sequences')
    plots = args.output_dir / 'plots'
    if args.tune:
        records, table = tune(args), tuning_table
        write_json(plots / 'tune_amp_sequences.json', {'epochs': args.epochs}, records)
    else:
        records, table = compare(args), comparison_table
        header = {'chosen': AMP_SETTINGS, 'radii': RADII}
        write_json(plots / 'amp_sequences.json', header, records)
        plot_comparison(plots / 'amp_sequences.png', records)
    print(f'\n{table(records)}\n\nWritten to {plots}')


if __name__ == '__main__':
    run_program(main, get_args)
