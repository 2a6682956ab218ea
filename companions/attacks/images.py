"""Every attack on an image classifier: accuracy against epsilon, and the perturbed images.

    python -m companions.attacks.images                  # scikit-learn's digits
    python -m companions.attacks.images --cifar10 DIR    # CIFAR-10, binary version

The assignment's attacks are called 'one-shot' and 'iterated', unbounded; its iterated attack picks
its target again at every step. 'iterated, fixed target' is not the assignment's.
"""

import argparse
import time

import numpy as np
import torch
from matplotlib.figure import Figure

from companions.attacks.attacks import few_pixels, fgsm, iterated, noise, norms, one_shot, pgd
from companions.common import images
from support.checkpoints import write_json
from support.figures import markdown_table, mean_std, save_figure
from support.options import (add_device_argument, add_run_arguments, positive_int,
                             prepare_output_dir)
from support.parallel import one_thread, parallel_map
from support.program import run_program

FIXED = 'iterated, fixed target'
PIXELS = {'valid_range': (0, 1)}


def bounded_attacks(bound, one_step, **kw):
    """Return attacks whose whole perturbation is at most epsilon in a norm."""
    return {
        (bound, 'one-shot'): lambda m, x, y, e: one_shot(m, x, e, **kw),
        (bound, 'iterated'): lambda m, x, y, e: iterated(m, x, y, e / 4, radius=e, **kw),
        (bound, FIXED): lambda m, x, y, e: iterated(
            m, x, y, e / 4, radius=e, fixed_target=True, **kw),
        (bound, one_step): lambda m, x, y, e: fgsm(m, x, y, e, **kw),
        (bound, 'PGD'): lambda m, x, y, e: pgd(m, x, y, e, 10, **kw),
        (bound, 'noise'): lambda m, x, y, e: noise(
            x, e, generator=torch.Generator().manual_seed(0), **kw)}


# {(bound on the perturbation, name): function of model, images, labels and epsilon}
ATTACKS = {
    ('unbounded', 'one-shot'): lambda m, x, y, e: one_shot(m, x, e, **PIXELS),
    ('unbounded', 'iterated'): lambda m, x, y, e: iterated(m, x, y, e, **PIXELS),
    ('unbounded', FIXED): lambda m, x, y, e: iterated(m, x, y, e, fixed_target=True, **PIXELS),
    **bounded_attacks('L2', 'FGM', norm=2, **PIXELS),
    **bounded_attacks('L∞', 'FGSM', norm=torch.inf, **PIXELS),
    ('L0', 'few pixels'): lambda m, x, y, e: few_pixels(m, x, y, e, **PIXELS)}
STYLES = {'one-shot': 'o-C0', 'iterated': 's-C1', FIXED: 'v--C2', 'FGM': '^:C3', 'FGSM': '^:C3',
          'PGD': 'D-C4', 'noise': 'x--C7', 'few pixels': 'P-C6'}
EPSILONS = {
    'digits': {'unbounded': (0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2),
               'L2': (0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3),
               'L∞': (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4), 'L0': (1, 2, 3, 4, 6, 8)},
    'CIFAR-10': {'unbounded': (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1),
                 'L2': (0.05, 0.1, 0.25, 0.5, 1, 2),
                 'L∞': tuple(k / 255 for k in (1, 2, 4, 8, 16)), 'L0': (1, 2, 4, 8, 16, 32)}}


def train_and_attack(source, seed, epochs, width, count, device='cpu'):
    """Train a network on images.load(*source) and attack it.

    Returns the records of the attacks, the network, on the CPU, and the record of its training,
    whose seconds are processor time, which does not depend on what else the machine is doing.
    """
    data, losses = images.load(*source).to(device), []
    start = time.process_time()
    model = images.fit(data, lambda model: torch.optim.Adam(model.parameters(), 2e-3), epochs, seed,
                       width=width, after_epoch=lambda model, loss: losses.append(loss))
    training = {'seed': seed, 'train_loss': losses,
                'cpu_seconds': round(time.process_time() - start, 2)}
    return attack_images(data, model, seed, count), model.cpu(), training


def attack_images(data, model, seed, count):
    """Attack the first `count` test images; return a record of every attack at every epsilon.

    'accuracy' counts images classified correctly before and after, 'l2_change' is the mean L2 norm
    of the change of those correct before, 'target_kept' the fraction of these whose least likely
    class is still the same, 'readable' the fraction of all perturbed images whose nearest training
    image has their true label (None for images other than digits).
    """
    x, y = data.test[:count], data.test_labels[:count]
    logits = images.predict_logits(model, x)
    correct, target = logits.argmax(1) == y, logits.argmin(1)

    def record(bound, attack, epsilon, perturbed):
        logits = images.predict_logits(model, perturbed)
        after, kept = logits.argmax(1) == y, (logits.argmin(1) == target)[correct]
        change = norms(perturbed - x, 2)[correct].sum() / max(1, correct.sum())
        readable = None
        if data.name == 'digits':  # on photographs, the nearest image says little
            nearest = torch.cdist(perturbed.flatten(1), data.train.flatten(1)).argmin(1)
            readable = (data.train_labels[nearest] == y).float().mean().item()
        return {'seed': seed, 'bound': bound, 'attack': attack, 'epsilon': epsilon,
                'accuracy': (correct & after).float().mean().item(), 'l2_change': change.item(),
                'target_kept': (kept.sum() / max(1, len(kept))).item(), 'readable': readable}

    records = [record('', 'none', 0, x)]
    for (bound, name), attack in ATTACKS.items():
        for epsilon in EPSILONS[data.name][bound]:
            parts = [attack(model, *part, epsilon) for part in zip(x.split(500), y.split(500))]
            records.append(record(bound, name, epsilon, torch.cat(parts)))
    return records


def curve(records, bound, attack):
    """Return {epsilon: {metric: array over seeds}} of an attack; 'readable' is NaN if unknown."""
    points = {}
    for r in records:
        if (r['bound'], r['attack']) == (bound, attack):
            points.setdefault(r['epsilon'], []).append(r)
    return {epsilon: {metric: np.array([r[metric] for r in point], dtype=float)
                      for metric in ('accuracy', 'l2_change', 'target_kept', 'readable')}
            for epsilon, point in points.items()}


def smallest_epsilon(points, accuracy):
    """Return the smallest epsilon of a curve with a lower mean accuracy, or None."""
    return next((e for e, p in points.items() if p['accuracy'].mean() < accuracy), None)


def readable_epsilon(points):
    """Return the largest epsilon of a curve at which 95 % of the images are readable, or None."""
    return max((e for e, p in points.items() if p['readable'].mean() >= 0.95), default=None)


def images_table(records):
    """Return Markdown: the epsilon that each attack needs, and what it achieves while readable."""
    rows = []
    for bound, name in ATTACKS:
        points = curve(records, bound, name)
        half, end = smallest_epsilon(points, 0.5), smallest_epsilon(points, 0.05)
        row = [bound, name, *(f'{e:.3g}' if e else '' for e in (half, end)), '', '', '', '']
        if end:
            row[4] = f'{points[end]["l2_change"].mean():.2f}'
            row[5] = f'{100 * points[end]["readable"].mean():.0f}'.replace('nan', '')
        if readable := readable_epsilon(points):
            row[6:] = f'{readable:.3g}', mean_std(points[readable]['accuracy'])
        rows.append(row)
    table = markdown_table(('bound', 'attack', 'ε for accuracy < 50 %', 'ε for < 5 %',
                            'L2 change there', 'readable there (%)', 'largest ε with 95 % readable',
                            'accuracy there (%)'), rows)
    clean, = curve(records, '', 'none').values()
    share = clean['readable'].mean()
    readable = f', readable {100 * share:.1f} %' if share >= 0 else ''
    return f'{table}\n\nUnattacked: accuracy {mean_std(clean["accuracy"])} %{readable}.'


def plot_curves(path, records, name):
    figure = Figure(figsize=(11, 8), layout='constrained')
    panels = dict(zip(EPSILONS[name], figure.subplots(2, 2, sharey=True).flat))
    for bound, attack in ATTACKS:
        points = curve(records, '', 'none') | curve(records, bound, attack)
        y = 100 * np.array([point['accuracy'] for point in points.values()])
        panels[bound].errorbar(list(points), y.mean(1), y.std(1, ddof=min(1, y.shape[1] - 1)),
                               fmt=STYLES[attack], capsize=2, markersize=5, label=attack)
    for bound, ax in panels.items():
        ax.set(title=f'{bound} norm of the change ≤ ε', xlabel='ε')
        ax.grid(alpha=0.3)
        ax.legend(fontsize=9, loc='lower left' if bound == 'unbounded' else (0.63, 0.22))
    panels['unbounded'].set_title('unbounded: a step is ε · gradient')
    panels['unbounded'].set_xscale('symlog', linthresh=EPSILONS[name]['unbounded'][0])
    figure.supylabel(f'accuracy on {name} (%), mean ± standard deviation over seeds')
    save_figure(path, figure)


def plot_training(path, training):
    """Draw training loss against epoch: every network, and their mean."""
    losses = np.array([run['train_loss'] for run in training])
    epochs = np.arange(1, losses.shape[1] + 1)
    figure = Figure(figsize=(6, 3.2), layout='constrained')
    ax = figure.subplots()
    ax.plot(epochs, losses.T, color='C0', lw=0.5, alpha=0.5)
    ax.plot(epochs, losses.mean(0), color='C0', lw=2)
    ax.set(title=f'Training of the {len(losses)} networks that are attacked; bold: mean',
           xlabel='epoch', ylabel='training loss', yscale='log')
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(alpha=0.3)
    save_figure(path, figure)


def plot_samples(folder, data, model, records):
    """Draw images under the assignment's two attacks, and under all where accuracy is below 5 %."""
    one, many = (ATTACKS['unbounded', name] for name in ('one-shot', 'iterated'))
    rows = {f'ε = {e:g}': [(one, e), (many, e)]
            for e in (0, *EPSILONS[data.name]['unbounded'])}
    plot_images(folder / f'attacks_samples{data.suffix}.png', "The assignment's attacks. "
                'Left half: one-shot, right half: iterated', data, model, 6, rows)
    rows = {'unattacked': [(one, 0)]}
    for (bound, name), attack in ATTACKS.items():
        epsilon = smallest_epsilon(curve(records, bound, name), 0.05)
        if epsilon:
            rows[f'{name}\n{bound}, ε = {epsilon:g}'] = [(attack, epsilon)]
    plot_images(folder / f'attacks_smallest{data.suffix}.png',
                'Each attack at its smallest ε with an accuracy below 5 %', data, model, 10, rows)


def plot_images(path, title, data, model, classes, rows):
    """Draw the first test image of each class under `rows`, {title: [(attack, epsilon)]}.

    Above each image: true label → predicted label, red if they differ.
    """
    first = np.unique(data.test_labels, return_index=True)[1][:classes]
    x, y = data.test[first], data.test_labels[first]
    perturbed = [torch.cat([attack(model, x, y, e) for attack, e in row]) for row in rows.values()]
    height, width = len(rows), len(perturbed[0])
    figure = Figure(figsize=(1.5 + 0.75 * width, 0.5 + 0.75 * height), layout='constrained')
    ax = figure.subplots(subplot_kw={'facecolor': 'lavender'})
    for i, row in enumerate(perturbed):
        predicted = images.predict_logits(model, row).argmax(1)
        labels = y.repeat(len(row) // len(y))
        for j, (image, label, found) in enumerate(zip(row, labels, predicted)):
            ax.imshow(image.permute(1, 2, 0).numpy(), cmap='gray_r', vmin=0, vmax=1, aspect='auto',
                      extent=(j, j + 0.8, i + 0.8, i))
            ax.text(j + 0.4, i - 0.02, f'{label} → {found}', fontsize=8, ha='center', va='bottom',
                    color='black' if found == label else 'red')
    ax.set(title=title, xlim=(-0.1, width - 0.1), ylim=(height - 0.1, -0.3), xticks=[])
    ax.set_yticks([i + 0.4 for i in range(height)], list(rows))
    save_figure(path, figure)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Gradient attacks on an image classifier.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser)
    add_device_argument(parser)
    images.add_data_arguments(parser, 'CIFAR-10')
    parser.add_argument('--epochs', type=positive_int, default=20, help='of training')
    parser.add_argument('--width', type=positive_int, default=16, help='of the first layer')
    args = parser.parse_args(argv)
    if args.dry_run:
        args.seeds = args.epochs = 1
    return args


def main(args):
    prepare_output_dir(args, 'attacks_images')
    data = images.load(*args.source)
    tasks = [{'source': args.source, 'seed': seed, 'epochs': args.epochs, 'width': args.width,
              'count': 30 if args.dry_run else 1000, 'device': args.device}
             for seed in range(args.seeds)]
    records, models, training = zip(*parallel_map(train_and_attack, tasks, args.jobs, 'images'))
    records = sum(records, [])
    plots = args.output_dir / 'plots'
    write_json(plots / f'attacks_images{data.suffix}.json',
               {'data': data.name, 'epochs': args.epochs, 'width': args.width,
                'device': args.device, 'training': training}, records)
    plot_curves(plots / f'attacks_images{data.suffix}.png', records, data.name)
    plot_training(plots / f'attacks_training{data.suffix}.png', training)
    with one_thread():
        plot_samples(plots, data, models[0], records)
    print(f'\n{images_table(records)}\n\nWritten to {plots}')


if __name__ == '__main__':
    run_program(main, get_args)
