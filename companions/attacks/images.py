"""Every attack on an image classifier: accuracy against epsilon, and the perturbed images.

    python -m companions.attacks.images                  # scikit-learn's digits
    python -m companions.attacks.images --cifar10 DIR    # CIFAR-10, binary version
    python -m companions.attacks.images --dry-run

Writes plots/attacks_images.json, attacks_images.png, attacks_samples.png and attacks_smallest.png
under --output-dir. The digits need requirements-extra.txt.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from companions.attacks.attacks import few_pixels, fgsm, iterated, noise, norms, one_shot, pgd
from companions.common import images
from support.checkpoints import write_json
from support.figures import mean_std, save_figure
from support.options import add_run_arguments, finish_args, positive_int
from support.parallel import one_thread, parallel_map
from support.program import run_program

UPDATED = 'iterated, target updated every step'
PIXELS = {'valid_range': (0, 1)}


def bounded_attacks(norm, one_step):
    """Return attacks whose whole perturbation is at most epsilon in `norm`."""
    bound = {'norm': norm, **PIXELS}
    return {
        'one-shot': lambda m, x, y, e: one_shot(m, x, e, **bound),
        'iterated': lambda m, x, y, e: iterated(m, x, y, e / 4, radius=e, **bound),
        one_step: lambda m, x, y, e: fgsm(m, x, y, e, **bound),
        'PGD': lambda m, x, y, e: pgd(m, x, y, e, 10, **bound),
        'noise': lambda m, x, y, e: noise(x, e, generator=torch.Generator().manual_seed(0),
                                          **bound)}


# Bound on the perturbation → attack → function of model, images, labels and epsilon.
ATTACKS = {
    'unbounded': {
        'one-shot': lambda m, x, y, e: one_shot(m, x, e, **PIXELS),
        'iterated': lambda m, x, y, e: iterated(m, x, y, e, **PIXELS),
        UPDATED: lambda m, x, y, e: iterated(m, x, y, e, update_target=True, **PIXELS)},
    'L2': bounded_attacks(2, 'FGM'),
    'L∞': bounded_attacks(math.inf, 'FGSM'),
    'L0': {'few pixels': lambda m, x, y, e: few_pixels(m, x, y, e, **PIXELS)}}
TITLES = {'unbounded': 'unbounded: a step is ε · gradient', 'L2': 'L2 norm of the change ≤ ε',
          'L∞': 'change of every pixel ≤ ε (L∞)', 'L0': 'number of changed pixels ≤ ε (L0)'}
STYLES = {'one-shot': ('o-', 'C0'), 'iterated': ('s-', 'C1'), UPDATED: ('v--', 'C2'),
          'FGM': ('^:', 'C3'), 'FGSM': ('^:', 'C3'), 'PGD': ('D-', 'C4'), 'noise': ('x--', 'gray'),
          'few pixels': ('P-', 'C6')}
EPSILONS = {
    'digits': {'unbounded': (0.0025, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2),
               'L2': (0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3),
               'L∞': (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4), 'L0': (1, 2, 3, 4, 6, 8)},
    'CIFAR-10': {'unbounded': (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1),
                 'L2': (0.05, 0.1, 0.25, 0.5, 1, 2),
                 'L∞': tuple(k / 255 for k in (1, 2, 4, 8, 16)), 'L0': (1, 2, 4, 8, 16, 32)}}
READABLE, BROKEN = 0.95, 0.05  # at least so many images readable, less than so much accuracy left


# ------------------------------------------------------------------------------------ measuring

def train_and_attack(source, seed, epochs, width, count):
    """Train a network on images.load(*source) and attack it; return the records and the network."""
    data = images.load(*source)
    model = images.fit(data, lambda model: torch.optim.Adam(model.parameters(), 2e-3), epochs, seed,
                       width=width)
    return attack_images(data, model, seed, count), model


def attack_images(data, model, seed, count):
    """Attack the first `count` test images; return a record of every attack at every epsilon.

    'accuracy' counts images classified correctly before and after, 'l2_change' is the mean L2 norm
    of the change of those correct before, 'readable' the share of all perturbed images whose
    nearest training image has their true label (None for images other than digits).
    """
    x, y = data.test[:count], data.test_labels[:count]
    correct = images.predict_logits(model, x).argmax(1) == y

    def record(bound, attack, epsilon, perturbed):
        after = images.predict_logits(model, perturbed).argmax(1) == y
        change = norms(perturbed - x, 2)[correct].sum() / max(1, correct.sum())
        return {'seed': seed, 'bound': bound, 'attack': attack, 'epsilon': epsilon,
                'accuracy': (correct & after).float().mean().item(), 'l2_change': change.item(),
                'readable': readable_share(data, perturbed, y)}

    records = [record('', 'none', 0, x)]
    for bound, attacks in ATTACKS.items():
        for name, attack in attacks.items():
            for epsilon in EPSILONS[data.name][bound]:
                parts = [attack(model, *part, epsilon) for part in zip(x.split(500), y.split(500))]
                records.append(record(bound, name, epsilon, torch.cat(parts)))
    return records


def readable_share(data, x, labels):
    if data.name != 'digits':  # a nearest neighbor cannot read others
        return None
    nearest = torch.cdist(x.flatten(1), data.train.flatten(1)).argmin(1)
    return (data.train_labels[nearest] == labels).float().mean().item()


# ------------------------------------------------------------------------------------ reporting

class Point(NamedTuple):
    """An attack at one epsilon: arrays over seeds."""
    accuracy: np.ndarray
    l2_change: np.ndarray
    readable: np.ndarray  # NaN if unknown


def curve(records, bound, attack):
    """Return {epsilon: Point} of an attack."""
    seeds = {}
    for r in records:
        if (r['bound'], r['attack']) == (bound, attack):
            readable = math.nan if r['readable'] is None else r['readable']
            seeds.setdefault(r['epsilon'], []).append((r['accuracy'], r['l2_change'], readable))
    return {epsilon: Point(*np.transpose(values)) for epsilon, values in seeds.items()}


def images_table(records):
    """Return Markdown: the epsilon that each attack needs, and what it achieves while readable."""
    titles = ('bound', 'attack', 'ε for accuracy < 50 %', 'ε for < 5 %', 'L2 change there',
              'readable there (%)', 'largest ε with 95 % readable', 'accuracy there (%)')
    lines = [f'| {" | ".join(titles)} |', '|---' * 8 + '|']
    for bound, attacks in ATTACKS.items():
        for name in attacks:
            points = curve(records, bound, name)
            half, end = (next((e for e, p in points.items() if p.accuracy.mean() < level), None)
                         for level in (0.5, BROKEN))
            cells = [bound, name, *(f'{e:.3g}' if e else '' for e in (half, end)), '', '', '', '']
            if end:
                cells[4] = f'{points[end].l2_change.mean():.2f}'
                cells[5] = f'{100 * points[end].readable.mean():.0f}'.replace('nan', '')
            if readable := [e for e, p in points.items() if p.readable.mean() >= READABLE]:
                cells[6:] = f'{readable[-1]:.3g}', mean_std(points[readable[-1]].accuracy)
            lines.append(f'| {" | ".join(cells)} |')
    clean, = curve(records, '', 'none').values()
    readable = f', readable {100 * clean.readable.mean():.1f} %' if clean.readable[0] >= 0 else ''
    return '\n'.join([*lines, '', f'Unattacked: accuracy {mean_std(clean.accuracy)} %{readable}.'])


def plot_curves(path, records, name):
    figure = Figure(figsize=(11, 8), layout='constrained')
    axes = figure.subplots(2, 2, sharey=True).ravel()
    for ax, bound in zip(axes, ATTACKS):
        for attack in ATTACKS[bound]:
            points = curve(records, '', 'none') | curve(records, bound, attack)
            y = [100 * point.accuracy for point in points.values()]
            style, color = STYLES[attack]
            ax.errorbar(list(points), [v.mean() for v in y],
                        [v.std(ddof=min(1, len(v) - 1)) for v in y], fmt=style, color=color,
                        capsize=2, markersize=5, label=attack)
        ax.set(title=TITLES[bound], xlabel='ε')
        ax.grid(alpha=0.3)
        ax.legend(fontsize=9)
    axes[0].set_xscale('symlog', linthresh=EPSILONS[name]['unbounded'][0])
    figure.supylabel('accuracy (%), mean ± standard deviation over seeds')
    figure.suptitle(f'{name}: accuracy under attack')
    save_figure(path, figure)


def first_images(data, count):
    """Return the first test image of each of the first `count` classes, and their labels."""
    first = torch.stack([(data.test_labels == c).nonzero()[0, 0]
                         for c in data.test_labels.unique()[:count]])
    return data.test[first], data.test_labels[first]


def plot_samples(path, data, model):
    """Draw images under the unbounded one-shot and iterated attacks, one row per epsilon."""
    x, y = first_images(data, 6)
    attacks = [ATTACKS['unbounded'][name] for name in ('one-shot', 'iterated')]
    rows = [(f'ε = {e:g}', torch.cat([attack(model, x, y, e) for attack in attacks]))
            for e in (0, *EPSILONS[data.name]['unbounded'])]
    plot_images(path, rows, torch.cat([y, y]), model, 'Left half: one-shot, right half: iterated')


def plot_smallest(path, data, model, records):
    """Draw images under each attack, at its smallest epsilon with an accuracy below 5 %."""
    x, y = first_images(data, 10)
    rows = [('unattacked', x)]
    for bound, attacks in ATTACKS.items():
        for name, attack in attacks.items():
            points = curve(records, bound, name)
            enough = [e for e, point in points.items() if point.accuracy.mean() < BROKEN]
            if enough and name != UPDATED:
                rows.append((f'{name}\n{bound}, ε = {enough[0]:g}', attack(model, x, y, enough[0])))
    plot_images(path, rows, y, model, 'Each attack at its smallest ε with an accuracy below 5 %')


def plot_images(path, rows, labels, model, title):
    """Draw rows of images; above each, true label → predicted label, red if they differ."""
    height, width = len(rows), len(labels)
    figure = Figure(figsize=(1.5 + 0.75 * width, 0.5 + 0.75 * height), layout='constrained')
    ax = figure.subplots()
    for i, (_, x) in enumerate(rows):
        predicted = images.predict_logits(model, x).argmax(1)
        for j, (image, label, found) in enumerate(zip(x, labels, predicted)):
            ax.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), cmap='gray_r', vmin=0, vmax=1,
                      extent=(j, j + 0.8, i + 0.8, i), aspect='auto')
            ax.text(j + 0.4, i - 0.02, f'{label} → {found}', fontsize=8, ha='center', va='bottom',
                    color='black' if found == label else 'red')
    ax.set(title=title, xlim=(-0.1, width - 0.1), ylim=(height - 0.1, -0.3), xticks=[],
           facecolor='lavender')
    ax.set_yticks([i + 0.4 for i in range(height)], [name for name, _ in rows])
    save_figure(path, figure)


# ------------------------------------------------------------------------------ the command line

def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Gradient attacks on an image classifier.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser)
    parser.add_argument('--cifar10', type=Path, metavar='DIR', default=argparse.SUPPRESS,
                        help="CIFAR-10's binary version (default: the digits)")
    parser.add_argument('--epochs', type=positive_int, default=20, help='of training')
    parser.add_argument('--width', type=positive_int, default=16, help='of the first layer')
    args = parser.parse_args(argv)
    if args.dry_run:
        args.seeds = args.epochs = 1
    return args


def main(args):
    finish_args(args, 'attacks_images')
    source = ('CIFAR-10', args.cifar10) if 'cifar10' in args else ('digits', None)
    data = images.load(*source)
    tasks = [{'source': source, 'seed': seed, 'epochs': args.epochs, 'width': args.width,
              'count': 30 if args.dry_run else 1000} for seed in range(args.seeds)]
    records, models = zip(*parallel_map(train_and_attack, tasks, args.jobs, 'images'))
    records = sum(records, [])
    plots = args.output_dir / 'plots'
    write_json(plots / 'attacks_images.json',
               {'data': data.name, 'epochs': args.epochs, 'width': args.width}, records)
    plot_curves(plots / 'attacks_images.png', records, data.name)
    with one_thread():
        plot_samples(plots / 'attacks_samples.png', data, models[0])
        plot_smallest(plots / 'attacks_smallest.png', data, models[0], records)
    print(f'\n{images_table(records)}\n\nWritten to {plots}')


if __name__ == '__main__':
    run_program(main, get_args)
