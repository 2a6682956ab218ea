"""Up to which radius smoothed sequence classifiers are certified, beside the attacks on them.

    python -m companions.attacks.sequences --seeds 8    # first
    python -m companions.attacks.certified --seeds 8

Certifies classifiers smoothed by noise in the raw input, on UCI's 370 test sequences, with each
model trained without such noise and with it. Writes attacks_certified.json and .png to plots/ under
--output-dir, where attacks_sequences.json must be.
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from companions.attacks import sequences
from companions.attacks.sequences import ALL, accuracies, load_classifier
from companions.attacks.smoothing import ABSTAIN, certified_accuracy, certify
from companions.common.models import (EPOCHS, NOISE, NOISY, WITH_NOISE, amp_models,
                                      assignment_models, best_recipe_models, noise_models,
                                      valid_steps)
from load_data import EVALUATION_BATCH, UCI_PATH, load_data
from support.checkpoints import write_json
from support.figures import markdown_table, mean_std, save_figure
from support.options import prepare_output_dir
from support.pages import load_results
from support.parallel import parallel_map
from support.program import run_program

RADII = tuple(k / 40 for k in range(31))  # 0 to 0.75, more than `certify` can reach
COLUMNS = 0.1, 0.25, 0.5                  # radii of the table
CERTIFICATE = {'selection': 100, 'samples': 1000, 'alpha': 0.001}


def certify_sequences(name, seed, checkpoint, certificate, device='cpu'):
    """Certify one model, smoothed, on UCI's 370 test sequences.

    Returns records like those of `attack_sequences`: 'certified' is the accuracy certified up to
    the radius `epsilon`, 'abstained' the share without a class.
    """
    _, test = load_data(UCI_PATH, EVALUATION_BATCH)
    classify, _ = load_classifier(name, checkpoint, 'raw', device)
    classes, radii = [], []
    for k, (x, _, lengths) in enumerate(test):
        x, lengths = x.to(device), lengths.to(device)
        found, radius = certify(lambda x: classify(x, lengths), x, NOISE,
                                mask=valid_steps(x, lengths), seed=1000 * seed + k, **certificate)
        classes.append(found)
        radii.append(radius)
    classes, radii = torch.cat(classes), torch.cat(radii)
    labels = torch.cat([y for _, y, _ in test])
    values = [('certified', radius, certified_accuracy(classes, radii, labels, radius))
              for radius in RADII]
    values.append(('abstained', 0.0, (classes == ABSTAIN).float().mean().item()))
    return [{'model': name, 'seed': seed, 'input': 'raw', 'attack': kind, 'epsilon': radius,
             'accuracy': accuracy} for kind, radius, accuracy in values]


def certified_table(certified, attacked):
    """Return Markdown: for each model what is certified, and what the attacks leave."""
    columns = {'without noise or attack': (attacked, 'none', 0.0),
               'smoothed': (certified, 'certified', 0.0),
               'abstained': (certified, 'abstained', 0.0)}
    for radius in COLUMNS:
        columns[f'certified to {radius:g}'] = certified, 'certified', radius
        columns[f'robust, ε = {radius:g}'] = attacked, ALL, radius
    rows = [[name, *(mean_std(accuracies(records, name, 'raw', *key))
                     for records, *key in columns.values())]
            for base in NOISY for name in (base, base + WITH_NOISE)]
    return markdown_table(('model', *columns), rows)


def plot_certified(path, certified, attacked):
    """Draw for each of NOISY the accuracy certified and under attack, over the radius."""
    figure = Figure(figsize=(13, 4.4), layout='constrained')
    epsilons = sorted({r['epsilon'] for r in attacked if r['attack'] == ALL})
    for ax, name in zip(figure.subplots(1, len(NOISY), sharey=True), NOISY):
        for suffix, color in (('', 'C7'), (WITH_NOISE, 'C0')):
            words = f'trained {suffix.strip() or "without noise"}'
            robust = [accuracies(attacked, name + suffix, 'raw', ALL if e else 'none', e)
                     for e in (0.0, *epsilons)]
            smoothed = [accuracies(certified, name + suffix, 'raw', 'certified', r) for r in RADII]
            for x, values, style, what in (((0.0, *epsilons), robust, 'o-', 'under attack'),
                                           (RADII, smoothed, '--', 'smoothed: certified')):
                y = 100 * np.array(values)
                mean, deviation = y.mean(1), y.std(1, ddof=min(1, y.shape[1] - 1))
                ax.plot(x, mean, style, color=color, markersize=4, label=f'{what}, {words}')
                ax.fill_between(x, mean - deviation, mean + deviation, color=color, alpha=0.15)
        ax.set(title=name, ylim=(0, 101), xlabel='radius (L2)')
        ax.grid(alpha=0.3)
    figure.axes[0].set_ylabel("accuracy on UCI's 370 (%)\nmean, band: ± standard deviation")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=2)
    save_figure(path, figure)


def get_args(argv=None):
    return sequences.get_args(argv, 'Certified accuracy of the sequence classifiers.')


def main(args):
    prepare_output_dir(args, 'attacks_certified')
    plots = args.output_dir / 'plots'
    try:
        attacked = load_results(plots / 'attacks_sequences.json')['runs']
    except FileNotFoundError:
        raise FileNotFoundError(f'{plots / "attacks_sequences.json"}: no such file; run python -m '
                                f'companions.attacks.sequences first') from None
    epochs, certificate = EPOCHS, CERTIFICATE
    if args.dry_run:
        epochs, certificate = 2, {'selection': 2, 'samples': 20, 'alpha': 0.1}
    models = assignment_models(args, ('base', 'Adv', 'Prox'), epochs)
    models |= amp_models(args, models, ('AMP',), epochs) | best_recipe_models(args)
    models |= noise_models(args, models, epochs)
    tasks = [{'name': name, 'seed': seed, 'checkpoint': checkpoint, 'certificate': certificate,
              'device': args.device} for (name, seed), checkpoint in models.items()
             if name.removesuffix(WITH_NOISE) in NOISY]
    tasks.sort(key=lambda task: 'Prox' not in task['name'])  # the longest first
    certified = sum(parallel_map(certify_sequences, tasks, args.jobs, 'certificates'), [])
    write_json(plots / 'attacks_certified.json', {'sigma': NOISE, **certificate}, certified)
    plot_certified(plots / 'attacks_certified.png', certified, attacked)
    print('', certified_table(certified, attacked), f'Written to {plots}', sep='\n\n')


if __name__ == '__main__':
    run_program(main, get_args)
