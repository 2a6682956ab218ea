"""Which of the sequence classifiers withstand attacks, compared with their controls.

    python -m companions.attacks.sequences --seeds 8
    python -m companions.attacks.sequences --dry-run

Takes the models from checkpoints/ under --output-dir, or trains them into checkpoints/companions/.
Writes plots/attacks_sequences.json and attacks_sequences.png there.
"""

import argparse
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure

from Classifier import LSTMClassifier
from companions.attacks.attacks import noise, pgd
from companions.best_recipe.recipe import BestClassifier
from companions.common.models import MODELS, amp_models, assignment_models, best_recipe_models
from load_data import UCI_PATH, load_data
from support.checkpoints import write_json
from support.figures import mean_std, save_figure
from support.options import add_run_arguments, finish_args
from support.parallel import parallel_map
from support.program import run_program
from support.statistics import Effect, correct, format_p
from training import EVALUATION_BATCH

STYLES = {'base': ('gray', '-'), 'Adv control': ('gray', '--'), 'Adv': ('C3', '-'),
          'Prox control': ('gray', '-.'), 'Prox': ('C0', '-'), 'AMP': ('C1', '-'),
          'SAM': ('C2', '--'), 'best recipe': ('black', ':')}
CONTROLS = {'Adv': 'Adv control', 'Prox': 'Prox control', 'AMP': 'Prox control',
            'SAM': 'Prox control', 'best recipe': 'base'}
INPUTS = 'normalized', 'raw'  # what is attacked: the convolution's input, or the data's values
MASKING_EPSILON = 0.5         # at which gradient masking is tested
EFFORT = {'epsilons': (0.1, 0.25, MASKING_EPSILON, 1.0), 'steps': 10, 'restarts': 3,
          'more_steps': 50, 'noise_draws': 10}
DRY_RUN_EFFORT = {'epsilons': (MASKING_EPSILON,), 'steps': 1, 'restarts': 1, 'more_steps': 1,
                  'noise_draws': 1}


# ------------------------------------------------------------------------------------ measuring

def load_classifier(name, checkpoint, attacked):
    """Return (classify, prepare), functions for attacks on the input `attacked`, one of INPUTS.

    prepare(raw sequences) is that input, x [B, T, F]; classify(x, lengths) its logits.
    """
    cls = BestClassifier if name == 'best recipe' else LSTMClassifier
    model = cls.from_checkpoint(checkpoint).eval().requires_grad_(False)
    mode, epsilon = MODELS.get(name, ('plain', 0.0))
    settings = {'mode': mode, 'epsilon': epsilon} if mode == 'ProxLSTM' else {}
    prepare = return_input
    if attacked == 'normalized':
        prepare, model.features = model.features, return_input
    return (lambda x, lengths: model(x, lengths, **settings)), prepare


def return_input(x):
    return x


def attack_sequences(name, seed, checkpoint, control, epsilons, steps, restarts, more_steps,
                     noise_draws):
    """Attack one model on UCI's 370 test sequences and return records of its accuracy.

    'noise' is the mean over `noise_draws`; 'PGD' counts sequences classified correctly before and
    at this and every smaller epsilon. Three more test for gradient masking, on the raw input at
    MASKING_EPSILON: 'PGD, restarts' attacks what 'PGD' left, from random starts, 'PGD, more steps'
    what is left then; 'PGD, transferred' uses the gradients of `control`, a checkpoint or None.
    """
    _, test = load_data(UCI_PATH, EVALUATION_BATCH)
    total = sum(len(batch.targets) for batch in test)
    records = []

    def add(attack, epsilon, correct):
        records.append({'model': name, 'seed': seed, 'input': attacked, 'attack': attack,
                        'epsilon': epsilon, 'accuracy': correct / total})

    for attacked in INPUTS[1:] if name == 'best recipe' else INPUTS:  # it reads both at once
        classify, prepare = load_classifier(name, checkpoint, attacked)
        batches = [(prepare(x), y, lengths) for x, y, lengths in test]
        generator = torch.Generator().manual_seed(seed)
        left = unattacked = still_correct(batches, classify, lambda model, x, labels, mask: x)
        add('none', 0.0, count(left))
        for epsilon in epsilons:
            bound = {'epsilon': epsilon, 'norm': 2}
            draws = [count(still_correct(batches, classify, partial(
                add_noise, generator=generator, **bound))) for _ in range(noise_draws)]
            add('noise', epsilon, np.mean(draws).item())
            attack = partial(pgd, steps=steps, **bound)
            left = still_correct(left, classify, attack)
            add('PGD', epsilon, count(left))
            if attacked == 'raw' and epsilon == MASKING_EPSILON:
                again = left
                for _ in range(restarts):
                    again = still_correct(again, classify, partial(attack, generator=generator))
                add('PGD, restarts', epsilon, count(again))
                again = still_correct(again, classify, partial(attack, steps=more_steps))
                add('PGD, more steps', epsilon, count(again))
                if control is not None:
                    source, _ = load_classifier(CONTROLS[name], control, attacked)
                    # stop=False: a point that just fools the control hardly fools another model.
                    transferred = partial(attack, stop=False)
                    again = still_correct(unattacked, classify, transferred, source)
                    add('PGD, transferred', epsilon, count(again))
    return records


def add_noise(model, x, labels, **arguments):
    return noise(x, **arguments)


def still_correct(batches, classify, attack, source=None):
    """Return the samples of `batches`, (x, labels, lengths) each, that the attack leaves correct.

    They are returned unattacked. The attack works on `source`, by default `classify` itself: a
    function of (x, lengths) to logits.
    """
    left = []
    for x, y, lengths in batches:
        valid_steps = (torch.arange(x.shape[1]) < lengths[:, None])[:, :, None]
        perturbed = attack(lambda x: (source or classify)(x, lengths), x, y, mask=valid_steps)
        with torch.no_grad():
            correct = classify(perturbed, lengths).argmax(1) == y
        if correct.any():
            left.append((x[correct], y[correct], lengths[correct]))
    return left


def count(batches):
    return sum(len(y) for _, y, _ in batches)


# ------------------------------------------------------------------------------------ reporting

def accuracies(records, model, attacked, attack, epsilon):
    """Return the accuracies of a model under one attack, an array over seeds."""
    wanted = {'model': model, 'input': attacked, 'attack': attack, 'epsilon': epsilon}
    return np.array([r['accuracy'] for r in sorted(records, key=lambda r: r['seed'])
                     if wanted.items() <= r.items()])


def table_columns(records):
    """Return {(attack, epsilon): title}."""
    epsilons = sorted({r['epsilon'] for r in records if r['attack'] == 'PGD'})
    return {('none', 0.0): 'unattacked', ('noise', epsilons[-1]): f'noise {epsilons[-1]:g}',
            **{('PGD', epsilon): f'PGD {epsilon:g}' for epsilon in epsilons}}


def sequences_table(records, attacked):
    """Return Markdown: the accuracy of every model unattacked, under noise and under PGD."""
    columns = table_columns(records)
    lines = [f'| {attacked} input | {" | ".join(columns.values())} |',
             '|---' * (len(columns) + 1) + '|']
    for name in STYLES:
        if len(accuracies(records, name, attacked, 'none', 0.0)):
            cells = [mean_std(accuracies(records, name, attacked, *column)) for column in columns]
            lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def differences_table(records):
    """Return Markdown: each method minus its control, paired over seeds.

    With p-values for the methods under PGD, corrected together (Holm), if there are several seeds.
    """
    columns = table_columns(records)
    pairs = {(name, attacked): {column: [accuracies(records, model, attacked, *column)
                                         for model in (name, control)] for column in columns}
             for name, control in CONTROLS.items() for attacked in INPUTS
             if len(accuracies(records, name, attacked, 'none', 0.0))}
    effects = correct([Effect((row, column), 100 * method, 100 * control)
                       for row, pair in pairs.items() for column, (method, control) in pair.items()
                       if row[0] != 'best recipe' and column[0] == 'PGD' and len(method) > 1])
    lines = [f'| | input | {" | ".join(columns.values())} |', '|---' * (len(columns) + 2) + '|']
    for row, pair in pairs.items():
        cells = [mean_std(method - control, sign='+') + (
            f', {format_p(effects[row, column].p_holm)}' if (row, column) in effects else '')
            for column, (method, control) in pair.items()]
        lines.append(f'| {row[0]} minus {CONTROLS[row[0]]} | {row[1]} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def masking_table(records):
    """Return Markdown: accuracy under stronger attacks, and under the control's gradients."""
    columns = 'PGD', 'PGD, restarts', 'PGD, more steps', 'PGD, transferred'
    lines = [f"| raw input, ε = {MASKING_EPSILON:g} | PGD | + random starts | + more steps | "
             "with its control's gradients |", '|---' * 5 + '|']
    for name in STYLES:
        cells = [mean_std(accuracies(records, name, 'raw', attack, MASKING_EPSILON))
                 for attack in columns]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def plot_sequences(path, records):
    """Draw accuracy against epsilon on both inputs: thick under PGD, thin under noise."""
    figure = Figure(figsize=(12, 5.5), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    epsilons = sorted({r['epsilon'] for r in records if r['attack'] == 'PGD'})
    for ax, attacked in zip(axes, INPUTS):
        for name, (color, line) in STYLES.items():
            for attack, width in (('PGD', 2), ('noise', 0.5)):
                columns = ('none', 0.0), *((attack, epsilon) for epsilon in epsilons)
                y = [100 * accuracies(records, name, attacked, *column) for column in columns]
                if len(y[0]):
                    bars = [v.std(ddof=min(1, len(v) - 1)) for v in y]
                    ax.errorbar([0, *epsilons], [v.mean() for v in y],
                                bars if attack == 'PGD' else None, color=color, linestyle=line,
                                linewidth=width, elinewidth=1, capsize=2,
                                label=name if attack == 'PGD' else None)
        ax.set(title=f'attack on the {attacked} input', ylim=(0, 101),
               xlabel='ε, L2 norm of the perturbation of a sequence')
        ax.grid(alpha=0.3)
    axes[0].set_ylabel('accuracy (%), mean ± standard deviation over seeds')
    figure.suptitle('Accuracy under PGD (thick) and under noise of the same size (thin)')
    figure.legend(*axes[1].get_legend_handles_labels(), loc='outside lower center', ncols=8)
    save_figure(path, figure)


# ------------------------------------------------------------------------------ the command line

def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Gradient attacks on the sequence classifiers.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser)
    args = parser.parse_args(argv)
    if args.dry_run:
        args.seeds = 1
    return args


def main(args):
    finish_args(args, 'attacks_sequences')
    epochs = {'epochs': 2} if args.dry_run else {}
    models = assignment_models(args, **epochs)
    models |= amp_models(args, models, **epochs) | best_recipe_models(args)
    effort = DRY_RUN_EFFORT if args.dry_run else EFFORT
    tasks = [{'name': name, 'seed': seed, 'checkpoint': checkpoint,
              'control': models.get((CONTROLS.get(name), seed)), **effort}
             for (name, seed), checkpoint in models.items()]
    tasks.sort(key=lambda task: task['name'] != 'Prox')  # the longest first
    records = sum(parallel_map(attack_sequences, tasks, args.jobs, 'sequences'), [])
    plots = args.output_dir / 'plots'
    write_json(plots / 'attacks_sequences.json', {'norm': 'L2', **effort}, records)
    plot_sequences(plots / 'attacks_sequences.png', records)
    tables = [*(sequences_table(records, attacked) for attacked in INPUTS),
              differences_table(records), masking_table(records)]
    print('', *tables, f'Written to {plots}', sep='\n\n')


if __name__ == '__main__':
    run_program(main, get_args)
