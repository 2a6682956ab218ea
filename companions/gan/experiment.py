"""Train a GAN with both losses of the generator and two values of beta1, and evaluate it.

    python -m companions.gan.experiment                         # scikit-learn's digits, 3 seeds
    python -m companions.gan.experiment --loss minimax --beta1 0.5 --seeds 1
    python -m companions.gan.experiment --mnist DIR --epochs 10 --widths 256 1024 --seeds 1
    python -m companions.gan.experiment --dry-run

Networks and classifier are trained on the training images only. The default data are 1,347 digits
of 8×8 pixels; their generator has 512 hidden units, the assignment's for MNIST 1,024 (`--widths 256
1024`). Writes plots/gan.json, gan_samples.png, gan_curves.png, gan_metrics.png under --output-dir.
"""

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from companions.common import images
from companions.gan.evaluation import Evaluator, nearest
from companions.gan.gan import LOSSES, discriminator, generator, train, uniform_noise
from support.checkpoints import write_json
from support.figures import save_figure
from support.options import add_run_arguments, finish_args, non_negative, positive, positive_int
from support.parallel import one_thread, parallel_map, seeded
from support.program import run_program

COUNT = 1000     # samples to evaluate
SHOWN = 10       # of them in the figure
WON = 0.1        # the discriminator has won if its final loss is below; 2 ln 2 = 1.39 is chance
COLLAPSED = 0.5  # the generator has collapsed if its final total variation is at least this
COLUMNS = {'confidence': 'confidence', 'conditional_entropy': 'H(y given x)',
           'marginal_entropy': 'H(y)', 'total_variation': 'total variation',
           'train_distance': 'distance to training images', 'memorized': 'memorized',
           'test_distance': 'distance of test images'}
STYLES = '-', '--', '-.'  # of lines, by beta1


# ------------------------------------------------------------------------------------- training

def run(evaluator, loss, beta1, seed, epochs, batch_size, lr, noise_size, widths):
    """Train a GAN on evaluator.data; all settings of one seed share initial weights, order, noise.

    Returns a record with metrics at `evaluation_epochs`; and pictures in [0, 1], float
    [rows, SHOWN, channels, height, width]: samples at these epochs, then the training images
    nearest to the last row. Raises ValueError for a loss that is not finite.
    """
    data, seeds = evaluator.data, np.random.SeedSequence(seed).generate_state(4).tolist()
    order, noise, fixed = (torch.Generator().manual_seed(s) for s in seeds[1:])
    x = 2 * data.train.flatten(1) - 1
    with seeded(seeds[0]):
        D, G = discriminator(x.shape[1], widths[0]), generator(x.shape[1], noise_size, widths[1])
    z = uniform_noise(evaluator.count, noise_size, fixed)
    curves, evaluations, pictures = [], [], []
    training = train(D, G, x, epochs, order, loss, lr, beta1, batch_size, noise)
    for epoch, metrics in enumerate(training, 1):
        curves.append(metrics)
        if not all(map(math.isfinite, metrics.values())):
            raise ValueError(f'{loss} loss not finite: beta1 {beta1:g}, seed {seed}, epoch {epoch}')
        if epoch in evaluation_epochs(epochs):
            with torch.no_grad():
                samples = (G(z).view(-1, *data.train.shape[1:]) + 1) / 2
            evaluations.append({'epoch': epoch, **evaluator(samples)})
            pictures.append(samples[:SHOWN])
    pictures.append(data.train[nearest(samples[:SHOWN], data.train)[1]])
    curves = {name: [metrics[name] for metrics in curves] for name in curves[0]}
    record = {'loss': loss, 'beta1': beta1, 'seed': seed, **curves, 'evaluations': evaluations}
    record['won'] = bool(final_loss(record) < WON)
    record['collapsed'] = evaluations[-1]['total_variation'] >= COLLAPSED
    return record, torch.stack(pictures)


def final_loss(record):
    """Average the discriminator's loss over the last tenth of the epochs."""
    losses = record['discriminator_loss']
    return np.mean(losses[-max(1, len(losses) // 10):])


def evaluation_epochs(epochs):
    """Choose at most seven epochs, from the first to the last, in geometric steps."""
    return sorted({round(e) for e in np.geomspace(1, epochs, 7).tolist()})


# -------------------------------------------------------------------------- table and figures

def settings_of(records):
    """Return the losses and the values of beta1 in `records`, both in order."""
    return [list(dict.fromkeys(r[key] for r in records)) for key in ('loss', 'beta1')]


def final_values(records, loss, beta1):
    """Collect final losses of D and metrics as an array [seeds, 1 + len(COLUMNS)]."""
    return np.array([[final_loss(r), *(r['evaluations'][-1][name] for name in COLUMNS)]
                     for r in records if (r['loss'], r['beta1']) == (loss, beta1)])


def metrics_table(records, real):
    """Format final metrics and failures, and paired differences to the first beta1, as Markdown."""
    losses, betas = settings_of(records)
    names = ['loss', 'beta1', 'discriminator loss', *COLUMNS.values(), 'D won', 'collapsed']
    lines = [f'| {" | ".join(names)} |', '|---' * len(names) + '|']
    for loss, beta1 in itertools.product(losses, betas):
        values = final_values(records, loss, beta1)
        failures = [f'{sum(r[key] for r in records if (r["loss"], r["beta1"]) == (loss, beta1))} '
                    f'of {len(values)}' for key in ('won', 'collapsed')]
        cells = ' | '.join([loss, f'{beta1:g}', *map(format_mean, values.T), *failures])
        lines.append(f'| {cells} |')
        if beta1 != betas[0]:
            difference = values - final_values(records, loss, betas[0])
            cells = ' | '.join(format_mean(column, '+') for column in difference.T)
            lines.append(f'| | *minus {betas[0]:g}* | {cells} | | |')
    for name, metrics in real.items():
        cells = ' | '.join('' if metrics[c] is None else f'{metrics[c]:.2f}' for c in COLUMNS)
        lines.append(f'| *{name}* | | | {cells} | | |')
    return '\n'.join(lines)


def format_mean(values, sign=''):
    deviation = f' ± {np.std(values, ddof=1):.2f}' if len(values) > 1 else ''
    return f'{np.mean(values):{sign}.2f}{deviation}'


def plot_samples(path, data, records, pictures):
    """Plot samples from fixed noise, a panel per setting, a row per epoch."""
    figure = Figure(figsize=(11, 8.7), layout='constrained')
    axes = figure.subplots(*map(len, settings_of(records)), squeeze=False).ravel()
    height = data.train.shape[2]
    for ax, record, rows in zip(axes, records, pictures):
        tiles = F.pad(rows[:, :, 0], (0, 1, 0, 1), value=0.5)  # a line between images
        tiles = tiles.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
        ax.imshow(tiles.numpy(), cmap='gray_r', vmin=0, vmax=1)
        labels = [*(f'epoch {e["epoch"]}' for e in record['evaluations']), 'nearest\nin training']
        ax.set_yticks((np.arange(len(labels)) + 0.5) * (height + 1) - 1, labels, fontsize=8)
        ax.set(xticks=[], title=f'{record["loss"]} loss, beta1 {record["beta1"]:g}')
    figure.suptitle(f'{data.name}: samples from fixed noise, seed {records[0]["seed"]}')
    save_figure(path, figure)


def plot_curves(path, records):
    """Plot the discriminator's loss over epochs, a panel per loss of the generator."""
    losses, betas = settings_of(records)
    figure = Figure(figsize=(10, 4), layout='constrained')
    axes = figure.subplots(1, len(losses), sharey=True, squeeze=False)[0]
    for record in records:
        k, y = betas.index(record['beta1']), record['discriminator_loss']
        label = f'beta1 {record["beta1"]:g}, each seed' if record['seed'] == 0 else None
        axes[losses.index(record['loss'])].plot(range(1, len(y) + 1), y, STYLES[k % 3], lw=0.8,
                                                color=f'C{k}', label=label)
    for ax, loss in zip(axes, losses):
        ax.axhline(2 * math.log(2), color='black', lw=1, ls=':')
        ax.set(yscale='log', title=f'{loss} loss', xlabel='epoch')
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("discriminator's loss (dotted: chance)")
    axes[-1].legend()
    save_figure(path, figure)


def plot_metrics(path, records, real):
    """Plot three of the metrics over epochs, means over seeds, beside those of real images."""
    figure = Figure(figsize=(11, 4), layout='constrained')
    shown = (('total_variation', 'test images', 'total variation from uniform classes'),
             ('confidence', 'test images', 'confidence of the classifier'),
             ('test_distance', 'training images', 'distance of test images (ratio)'))
    losses, betas = settings_of(records)
    for ax, (metric, kind, title) in zip(figure.subplots(1, 3), shown):
        for loss, beta1 in itertools.product(losses, betas):
            runs = [r['evaluations'] for r in records if (r['loss'], r['beta1']) == (loss, beta1)]
            k = betas.index(beta1)
            ax.plot([e['epoch'] for e in runs[0]],
                    np.mean([[e[metric] for e in run] for run in runs], 0),
                    'os'[losses.index(loss)] + STYLES[k % 3], color=f'C{k}',
                    label=f'{loss} loss, beta1 {beta1:g}')
        ax.axhline(real[kind][metric], color='black', lw=1, ls=':', label='real images')
        ax.set(title=title, xscale='log', xlabel='epoch')
        ax.grid(alpha=0.3)
    figure.legend(*ax.get_legend_handles_labels(), loc='outside lower center', ncols=5, fontsize=9)
    save_figure(path, figure)


# ------------------------------------------------------------------------------ the command line

def resize(data, side):
    """Scale the images to `side`×`side` pixels, bilinearly."""
    train, test = (F.interpolate(x, (side, side), mode='bilinear', antialias=True)
                   for x in (data.train, data.test))
    return data._replace(train=train, test=test)


def get_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='A GAN, and metrics of what it generates.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument('--mnist', type=Path, metavar='DIR', default=argparse.SUPPRESS,
                        help="folder of MNIST's four idx files, plain or .gz (default: digits)")
    parser.add_argument('--side', type=positive_int, default=argparse.SUPPRESS,
                        help='pixels per side to scale the images to')
    parser.add_argument('--loss', nargs='+', choices=LOSSES, default=LOSSES, help="the generator's")
    parser.add_argument('--beta1', nargs='+', type=non_negative, default=(0.5, 0.9),
                        help="Adam's; the first is the baseline")
    parser.add_argument('--lr', type=positive, default=1e-3, help="Adam's learning rate")
    parser.add_argument('--epochs', type=positive_int, default=170)
    parser.add_argument('--batch-size', type=positive_int, default=128)
    parser.add_argument('--noise-size', type=positive_int, default=96)
    parser.add_argument('--widths', nargs=2, type=positive_int, default=(256, 512),
                        metavar=('D', 'G'), help='hidden units per layer of D and of G')
    args = parser.parse_args(argv)
    args.loss, args.beta1 = list(dict.fromkeys(args.loss)), list(dict.fromkeys(args.beta1))
    if args.dry_run:
        args.seeds, args.epochs = 1, 2
    return args


def main(args):
    finish_args(args, 'gan')
    data = images.mnist(args.mnist) if 'mnist' in args else images.digits()
    if 'side' in args:
        data = resize(data, args.side)
    with one_thread():
        evaluator = Evaluator(data, 100, 0) if args.dry_run else Evaluator(data, COUNT)
    settings = {key: getattr(args, key)
                for key in ('epochs', 'batch_size', 'lr', 'noise_size', 'widths')}
    tasks = [{'evaluator': evaluator, 'loss': loss, 'beta1': beta1, 'seed': seed, **settings}
             for seed in range(args.seeds) for loss in args.loss for beta1 in args.beta1]
    records, pictures = zip(*parallel_map(run, tasks, args.jobs, data.name))
    plots = args.output_dir / 'plots'
    header = {'data': data.name, 'pixels': data.train[0].numel(), **settings,
              'samples': evaluator.count, 'classifier_accuracy': evaluator.accuracy,
              'real': evaluator.real}
    write_json(plots / 'gan.json', header, records)
    plot_samples(plots / 'gan_samples.png', data, records, pictures)
    plot_curves(plots / 'gan_curves.png', records)
    plot_metrics(plots / 'gan_metrics.png', records, evaluator.real)
    print(f'\n{metrics_table(records, evaluator.real)}\n\nAccuracy of the classifier on the test '
          f'images: {100 * evaluator.accuracy:.1f} %\n\nWritten to {plots}')


if __name__ == '__main__':
    run_program(main, get_args)
