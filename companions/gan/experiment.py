"""Train a GAN with both losses of the generator and two values of beta1, and evaluate it.

    python -m companions.gan.experiment                         # scikit-learn's digits, 3 seeds
    python -m companions.gan.experiment --side 28 --widths 256 1024 --epochs 400    # enlarged
    python -m companions.gan.experiment --mnist DIR --widths 256 1024 --epochs 10
    python -m companions.gan.experiment --dry-run

Trained generators are saved in checkpoints/companions/ and loaded again for the same settings.
"""

import argparse
import hashlib
import itertools
import math
import time
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from companions.common import images
from companions.gan.evaluation import Evaluator, nearest
from companions.gan.gan import LOSSES, discriminator, generator, train, uniform_noise
from support.checkpoints import to_cpu, write_json
from support.figures import markdown_table, plus_minus, save_figure
from support.options import (add_device_argument, add_run_arguments, non_negative, positive,
                             positive_int, prepare_output_dir)
from support.parallel import one_thread, seeded
from support.program import run_program
from support.sweep import load_or_train_all

SHOWN = 10       # samples in a row of the figures
WON = 0.1        # the discriminator has won if its final loss is below; 2 ln 2 = 1.39 is chance
COLLAPSED = 0.5  # the generator has collapsed if its final total variation is at least this
COLUMNS = {'discriminator_loss': 'discriminator loss', 'confidence': 'confidence',
           'conditional_entropy': 'H(y given x)', 'marginal_entropy': 'H(y)',
           'total_variation': 'total variation', 'train_distance': 'distance to training images',
           'memorized': 'memorized', 'test_distance': 'distance of test images'}


def run(evaluator, loss, beta1, seed, epochs, batch_size, lr, noise_size, widths, device='cpu'):
    """Train a GAN on evaluator.data; all settings of one seed share initial weights, order, noise.

    Returns a checkpoint of the generator ('arguments' and 'state_dict') that also has

        record    curves, metrics at seven epochs or fewer in geometric steps, processor seconds
        pictures  in [0, 1], float [rows, SHOWN, channels, height, width]: samples at these epochs,
                  then the training images nearest to the last row

    The metrics are computed on the CPU. Raises ValueError for a loss that is not finite.
    """
    start, data = time.process_time(), evaluator.data
    seeds = np.random.SeedSequence(seed).generate_state(4).tolist()
    order, noise, fixed = (torch.Generator().manual_seed(s) for s in seeds[1:])
    x = (2 * data.train.flatten(1) - 1).to(device)
    arguments = {'pixels': x.shape[1], 'noise_size': noise_size, 'width': widths[1]}
    with seeded(seeds[0], device):
        D = discriminator(x.shape[1], widths[0]).to(device)
        G = generator(**arguments).to(device)
    z = uniform_noise(evaluator.count, noise_size, fixed).to(device)
    history, evaluations, pictures = [], [], []
    evaluated = {round(e) for e in np.geomspace(1, epochs, 7)}
    training = train(D, G, x, epochs, order, loss, lr, beta1, batch_size, noise)
    for epoch, metrics in enumerate(training, 1):
        history.append(metrics)
        if not all(map(math.isfinite, metrics.values())):
            raise ValueError(f'{loss} loss not finite: beta1 {beta1:g}, seed {seed}, epoch {epoch}')
        if epoch in evaluated:
            with torch.no_grad():
                samples = (G(z).cpu().view(-1, *data.train.shape[1:]) + 1) / 2
            evaluations.append({'epoch': epoch, **evaluator(samples)})
            pictures.append(samples[:SHOWN])
    pictures.append(data.train[nearest(samples[:SHOWN], data.train)[1]])
    curves = {name: [metrics[name] for metrics in history] for name in metrics}
    record = {'loss': loss, 'beta1': beta1, 'seed': seed, **curves, 'evaluations': evaluations}
    final = final_metrics(record)
    record['won'] = final['discriminator_loss'] < WON
    record['collapsed'] = final['total_variation'] >= COLLAPSED
    record['seconds'] = round(time.process_time() - start, 1)
    return {'arguments': arguments, 'state_dict': to_cpu(G.state_dict()), 'record': record,
            'pictures': torch.stack(pictures)}


def draw_samples(checkpoint, count, seed=0):
    """Draw samples of a saved generator, float [count, pixels] in [-1, 1]."""
    G = generator(**checkpoint['arguments'])
    G.load_state_dict(checkpoint['state_dict'])
    z = uniform_noise(count, G[0].in_features, torch.Generator().manual_seed(seed))
    with one_thread(), torch.no_grad():
        return G(z)


def final_metrics(record):
    """Return the last evaluation, and the mean loss of D in the last tenth of the epochs."""
    losses = record['discriminator_loss']
    last = losses[-max(1, len(losses) // 10):]
    return {**record['evaluations'][-1], 'discriminator_loss': float(np.mean(last))}


def by_setting(records):
    """Group records: {(loss, beta1): records}."""
    groups = {}
    for record in records:
        groups.setdefault((record['loss'], record['beta1']), []).append(record)
    return groups


def metrics_table(records, real):
    """Return Markdown: final metrics, failures, and paired differences from the first beta1."""
    baseline, rows = records[0]['beta1'], []
    for (loss, beta1), runs in by_setting(records).items():
        values = np.array([[final_metrics(r)[c] for c in COLUMNS] for r in runs])
        failures = [f'{sum(r[key] for r in runs)} of {len(runs)}' for key in ('won', 'collapsed')]
        rows.append((loss, f'{beta1:g}', *(plus_minus(column, 2) for column in values.T),
                     *failures))
        if beta1 == baseline:
            control = values
        else:
            cells = [plus_minus(column, 2, '+') for column in (values - control).T]
            rows.append(('', f'*minus {baseline:g}*', *cells, '', ''))
    for name, metrics in real.items():
        cells = ['' if metrics.get(c) is None else f'{metrics[c]:.2f}' for c in COLUMNS]
        rows.append((f'*{name}*', '', *cells, '', ''))
    return markdown_table(('loss', 'beta1', *COLUMNS.values(), 'D won', 'collapsed'), rows)


def tile(rows):
    """Join images [rows, columns, 1, height, width] into one, with a gray line between them."""
    tiles = F.pad(rows[:, :, 0], (0, 1, 0, 1), value=0.5)
    return tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)


def plot_grid(path, data, checkpoints):
    """Plot SHOWN × SHOWN samples of each of the `checkpoints`, from the same noise."""
    figure = Figure(figsize=(5.2 * len(checkpoints), 5.6), layout='constrained')
    axes = figure.subplots(1, len(checkpoints), squeeze=False).ravel()
    for ax, checkpoint in zip(axes, checkpoints):
        samples = (draw_samples(checkpoint, SHOWN * SHOWN) + 1) / 2
        ax.imshow(tile(samples.view(SHOWN, SHOWN, *data.train.shape[1:])).numpy(), cmap='gray_r',
                  vmin=0, vmax=1)
        record = checkpoint['record']
        ax.set(xticks=[], yticks=[], title=f'{record["loss"]} loss, beta1 {record["beta1"]:g}')
    figure.suptitle(f'{data.name}: samples, seed {record["seed"]}')
    save_figure(path, figure)


def plot_samples(path, data, records, pictures):
    """Plot samples from fixed noise, a panel per setting, a row per epoch."""
    figure = Figure(figsize=(11, 8.7), layout='constrained')
    losses = len({r['loss'] for r in records})
    axes = figure.subplots(losses, len(by_setting(records)) // losses, squeeze=False).ravel()
    for ax, record, rows in zip(axes, records, pictures):
        tiles = tile(rows)
        ax.imshow(tiles.numpy(), cmap='gray_r', vmin=0, vmax=1)
        labels = [*(f'epoch {e["epoch"]}' for e in record['evaluations']), 'nearest\nin training']
        positions = (np.arange(len(labels)) + 0.5) * len(tiles) / len(labels) - 1
        ax.set_yticks(positions, labels, fontsize=8)
        ax.set(xticks=[], title=f'{record["loss"]} loss, beta1 {record["beta1"]:g}')
    figure.suptitle(f'{data.name}: samples from fixed noise, seed {records[0]["seed"]}')
    save_figure(path, figure)


def plot_curves(path, records, real):
    """Plot both losses and three metrics over epochs, means over seeds."""
    figure = Figure(figsize=(12, 6.5), layout='constrained')
    losses = 'discriminator_loss', 'generator_loss'
    metrics = 'total_variation', 'confidence', 'test_distance'
    *panels, corner = figure.subplots(2, 3).ravel()
    axes = dict(zip((*losses, *metrics), panels))
    for k, ((loss, beta1), runs) in enumerate(by_setting(records).items()):
        style = {'color': f'C{k}', 'ls': ('-', '--', '-.', ':')[k % 4],
                 'label': f'{loss} loss, beta1 {beta1:g}'}
        for name in losses:
            values = np.mean([r[name] for r in runs], 0)
            axes[name].plot(range(1, len(values) + 1), values, **style)
        epochs = [e['epoch'] for e in runs[0]['evaluations']]
        for metric in metrics:
            values = [[e[metric] for e in r['evaluations']] for r in runs]
            axes[metric].plot(epochs, np.mean(values, 0), marker='osv^'[k % 4], **style)
    references = {'discriminator_loss': 2 * math.log(2), **real['training images']}
    for metric, ax in axes.items():
        if metric in references:
            ax.axhline(references[metric], color='black', lw=1)
        ax.set(title=COLUMNS.get(metric, 'generator loss'), xscale='log', xlabel='epoch')
    axes['discriminator_loss'].set_yscale('log')
    corner.axis('off')
    corner.legend(*panels[0].get_legend_handles_labels(), loc='center')
    save_figure(path, figure)


def get_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='A GAN, and metrics of what it generates.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser)
    add_device_argument(parser)
    images.add_data_arguments(parser, 'MNIST')
    parser.add_argument('--side', type=positive_int, default=argparse.SUPPRESS,
                        help='pixels per side to scale the images to')
    parser.add_argument('--loss', nargs='+', choices=LOSSES, default=LOSSES, help="the generator's")
    parser.add_argument('--beta1', nargs='+', type=non_negative, default=(0.5, 0.9),
                        help="Adam's, below 1; the first is the baseline")
    parser.add_argument('--lr', type=positive, default=1e-3, help="Adam's learning rate")
    parser.add_argument('--epochs', type=positive_int, default=170)
    parser.add_argument('--batch-size', type=positive_int, default=128)
    parser.add_argument('--noise-size', type=positive_int, default=96)
    parser.add_argument('--widths', nargs=2, type=positive_int, default=(256, 512),
                        metavar=('D', 'G'), help='hidden units per layer of D and of G')
    args = parser.parse_args(argv)
    if max(args.beta1) >= 1:
        parser.error('argument --beta1: expected values below 1')
    args.loss, args.beta1 = list(dict.fromkeys(args.loss)), list(dict.fromkeys(args.beta1))
    if args.dry_run:
        args.seeds, args.epochs = 1, 2
    return args


def load_images(args):
    """Return the data set, scaled to --side, and the prefix of the files written for it."""
    data = images.load(*args.source)
    prefix = f'gan{data.suffix}'
    if 'side' in args:
        side, prefix = args.side, f'{prefix}_{args.side}'
        train, test = (F.interpolate(x, (side, side), mode='bilinear', antialias=True)
                       for x in (data.train, data.test))
        data = data._replace(name=f'{data.name} scaled to {side}×{side}', train=train, test=test)
    return data, prefix


def main(args):
    prepare_output_dir(args, 'gan')
    data, prefix = load_images(args)
    with one_thread():
        evaluator = Evaluator(data, 100, 0) if args.dry_run else Evaluator(data, 1000)
    settings = {key: getattr(args, key)
                for key in ('epochs', 'batch_size', 'lr', 'noise_size', 'widths', 'device')}
    content = b''.join(x.numpy().tobytes() for x in data[1:])
    config = {**settings, 'samples': evaluator.count, 'torch': torch.__version__,
              'data_sha256': hashlib.sha256(content).hexdigest()}
    tasks = {}
    for seed, loss, beta1 in itertools.product(range(args.seeds), args.loss, args.beta1):
        run_of = {'loss': loss, 'beta1': beta1, 'seed': seed}
        tasks[seed, loss, beta1] = (f'{prefix}_{loss}_{beta1:g}_seed{seed}', {**config, **run_of},
                                    partial(run, evaluator, **run_of, **settings))
    checkpoints = list(load_or_train_all(args, tasks, data.name).values())
    plots = args.output_dir / 'plots'
    records = [checkpoint['record'] for checkpoint in checkpoints]
    header = {'data': data.name, 'pixels': data.train[0].numel(), **settings,
              'samples': evaluator.count, 'classifier_accuracy': evaluator.accuracy,
              'real': evaluator.real}
    write_json(plots / f'{prefix}.json', header, records)
    plot_grid(plots / f'{prefix}_grid.png', data, checkpoints[:len(args.beta1)])
    plot_samples(plots / f'{prefix}_samples.png', data, records,
                 [checkpoint['pictures'] for checkpoint in checkpoints])
    plot_curves(plots / f'{prefix}_curves.png', records, evaluator.real)
    print(f'\n{metrics_table(records, evaluator.real)}\n\nAccuracy of the classifier on the test '
          f'images: {100 * evaluator.accuracy:.1f} %\nProcessor time of a run: '
          f'{np.mean([record["seconds"] for record in records]):.1f} s\n\nWritten to {plots} and '
          f'{args.output_dir / "checkpoints" / "companions"}')


if __name__ == '__main__':
    run_program(main, get_args)
