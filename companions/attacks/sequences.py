"""Which of the sequence classifiers withstand attacks, compared with their controls.

    python -m companions.attacks.sequences --seeds 8

Takes the models from checkpoints/ under --output-dir, or trains them into checkpoints/companions/,
on the CPU; --device is that of the attacks, so that they are always attacks on the same models.
Writes attacks_sequences.json and attacks_sequences.png to plots/ there.
"""

import argparse
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure

from Classifier import LSTMClassifier
from companions.attacks.attacks import noise, pgd
from companions.best_recipe.recipe import BestClassifier
from companions.common.models import (EPOCHS, MODELS, amp_models, assignment_models,
                                      best_recipe_models)
from load_data import UCI_PATH, load_data
from support.checkpoints import write_json
from support.figures import markdown_table, mean_std, save_figure
from support.options import add_device_argument, add_run_arguments, finish_args
from support.parallel import parallel_map
from support.program import run_program
from support.statistics import Effect, correct, format_p
from training import EVALUATION_BATCH

STYLES = {'base': 'C7-', 'Adv control': 'C7--', 'Adv': 'C3-', 'Prox control': 'C7-.',
          'Prox': 'C0-', 'AMP': 'C1-', 'SAM': 'C2--', 'best recipe': 'k:'}
CONTROLS = {'Adv': 'Adv control', 'Prox': 'Prox control', 'AMP': 'Prox control',
            'SAM': 'Prox control', 'best recipe': 'base'}
INPUTS = 'normalized', 'raw'  # what is attacked: the convolution's input, or the data's values
MASKING_EPSILON = 0.5         # at which gradient masking is tested
MASKING = {('PGD', MASKING_EPSILON): f'PGD {MASKING_EPSILON:g}',
           ('PGD, restarts', MASKING_EPSILON): '+ random starts',
           ('PGD, more steps', MASKING_EPSILON): '+ more steps',
           ('PGD, transferred', MASKING_EPSILON): "with its control's gradients"}
EFFORT = {'epsilons': (0.1, 0.25, MASKING_EPSILON, 1.0), 'steps': 10, 'restarts': 3,
          'more_steps': 50, 'noise_draws': 10}
DRY_RUN_EFFORT = {'epsilons': (MASKING_EPSILON,), 'steps': 1, 'restarts': 1, 'more_steps': 1,
                  'noise_draws': 1}


def load_classifier(name, checkpoint, attacked, device='cpu'):
    """Return (classify, prepare), functions for attacks on the input `attacked`, one of INPUTS.

    prepare(raw sequences) is that input, x [B, T, F]; classify(x, lengths) its logits.
    """
    cls = BestClassifier if name == 'best recipe' else LSTMClassifier
    model = cls.from_checkpoint(checkpoint).to(device).requires_grad_(False)
    mode, epsilon = MODELS.get(name, ('plain', 0.0))
    classify = partial(model, mode=mode, epsilon=epsilon) if mode == 'ProxLSTM' else model
    if attacked == 'raw':
        return classify, lambda x: x
    prepare, model.features = model.features, lambda x: x
    return classify, prepare


def attack_sequences(name, seed, checkpoint, control, epsilons, steps, restarts, more_steps,
                     noise_draws, device='cpu'):
    """Attack one model on UCI's 370 test sequences and return records of its accuracy.

    'noise' is the mean over `noise_draws`; 'PGD' counts sequences classified correctly without an
    attack and at every epsilon up to this one. Three more attacks, on the raw input at
    MASKING_EPSILON, test for gradient masking: 'PGD, restarts' attacks what 'PGD' left, from random
    starts, 'PGD, more steps' what this left; 'PGD, transferred' follows the gradients of `control`,
    a checkpoint or None.
    """
    _, test = load_data(UCI_PATH, EVALUATION_BATCH)
    total = sum(len(batch.targets) for batch in test)
    records = []

    def add(attack, epsilon, *draws):
        correct = np.mean([sum(len(y) for _, y, _ in batches) for batches in draws]).item()
        records.append({'model': name, 'seed': seed, 'input': attacked, 'attack': attack,
                        'epsilon': epsilon, 'accuracy': correct / total})

    for attacked in INPUTS[1:] if name == 'best recipe' else INPUTS:  # it reads both at once
        classify, prepare = load_classifier(name, checkpoint, attacked, device)
        batches = [(prepare(x.to(device)), y.to(device), lengths.to(device))
                   for x, y, lengths in test]
        generator = torch.Generator().manual_seed(seed)
        left = unattacked = still_correct(batches, classify, lambda model, x, labels, mask: x)
        add('none', 0.0, left)
        for epsilon in epsilons:
            def add_noise(model, x, labels, mask):
                return noise(x, epsilon, norm=2, mask=mask, generator=generator)

            draws = [still_correct(batches, classify, add_noise) for _ in range(noise_draws)]
            add('noise', epsilon, *draws)
            attack = partial(pgd, epsilon=epsilon, steps=steps, norm=2)
            left = still_correct(left, classify, attack)
            add('PGD', epsilon, left)
            if attacked == 'raw' and epsilon == MASKING_EPSILON:
                again = left
                for _ in range(restarts):
                    again = still_correct(again, classify, partial(attack, generator=generator))
                add('PGD, restarts', epsilon, again)
                again = still_correct(again, classify, partial(attack, steps=more_steps))
                add('PGD, more steps', epsilon, again)
                if control is not None:
                    source, _ = load_classifier(CONTROLS[name], control, attacked, device)
                    # stop=False: a point that just fools the control hardly fools another model.
                    add('PGD, transferred', epsilon, still_correct(
                        unattacked, classify, partial(attack, stop=False), source))
    return records


def still_correct(batches, classify, attack, source=None):
    """Return the samples of `batches`, (x, labels, lengths) each, that the attack leaves correct.

    They are returned unattacked. The attack works on `source`, by default on `classify`; both map
    (x, lengths) to logits.
    """
    left = []
    for x, y, lengths in batches:
        valid_steps = (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[:, :, None]
        perturbed = attack(lambda x: (source or classify)(x, lengths), x, y, mask=valid_steps)
        with torch.no_grad():
            correct = classify(perturbed, lengths).argmax(1) == y
        if correct.any():
            left.append((x[correct], y[correct], lengths[correct]))
    return left


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


def accuracy_table(records, attacked, columns=None):
    """Return Markdown: the accuracy of every model; `columns` are table_columns or MASKING."""
    columns = columns or table_columns(records)
    rows = [[name, *(mean_std(accuracies(records, name, attacked, *column)) for column in columns)]
            for name in STYLES]
    return markdown_table((f'{attacked} input', *columns.values()),
                          [row for row in rows if any(row[1:])])


def differences_table(records):
    """Return Markdown: each method minus its control; p-values under PGD, Holm-corrected."""
    columns, rows, effects = table_columns(records), [], []
    for name, control in CONTROLS.items():
        for attacked in sorted({r['input'] for r in records if r['model'] == name}):
            row = [f'{name} minus {control}', attacked]
            for column in columns:
                method, without = (accuracies(records, model, attacked, *column)
                                   for model in (name, control))
                if column[0] == 'PGD' and name != 'best recipe' and len(method) > 1:
                    effects.append(Effect((len(rows), len(row)), 100 * method, 100 * without))
                row.append(mean_std(method - without, sign='+'))
            rows.append(row)
    for (i, j), effect in correct(effects).items():
        rows[i][j] += f', {format_p(effect.p_holm)}'
    return markdown_table(('', 'input', *columns.values()), rows)


def plot_sequences(path, records):
    """Draw accuracy against epsilon on both inputs: thick under PGD, thin under noise."""
    figure = Figure(figsize=(12, 5.5), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    epsilons = sorted({r['epsilon'] for r in records})
    for ax, attacked in zip(axes, INPUTS):
        for name, style in STYLES.items():
            for attack, look in (('PGD', {'label': name, 'lw': 2, 'elinewidth': 1, 'capsize': 2}),
                                 ('noise', {'lw': 0.5, 'elinewidth': 0})):
                y = 100 * np.array([accuracies(records, name, attacked, attack if e else 'none', e)
                                    for e in epsilons])
                if y.size:
                    ax.errorbar(epsilons, y.mean(1), y.std(1, ddof=min(1, y.shape[1] - 1)),
                                fmt=style, **look)
        ax.set(title=f'attack on the {attacked} input', ylim=(0, 101),
               xlabel='ε, L2 norm of the perturbation of a sequence')
        ax.grid(alpha=0.3)
    axes[0].set_ylabel('accuracy (%), mean ± standard deviation over seeds')
    figure.suptitle('Accuracy under PGD (thick) and under noise of the same size (thin)')
    figure.legend(*axes[1].get_legend_handles_labels(), loc='outside lower center', ncols=8)
    save_figure(path, figure)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Gradient attacks on the sequence classifiers.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser)
    add_device_argument(parser)
    args = parser.parse_args(argv)
    if args.dry_run:
        args.seeds = 1
    return args


def main(args):
    finish_args(args, 'attacks_sequences')
    epochs, effort = (2, DRY_RUN_EFFORT) if args.dry_run else (EPOCHS, EFFORT)
    models = assignment_models(args, epochs=epochs)
    models |= amp_models(args, models, epochs=epochs) | best_recipe_models(args)
    tasks = [{'name': name, 'seed': seed, 'checkpoint': checkpoint,
              'control': models.get((CONTROLS.get(name), seed)), 'device': args.device, **effort}
             for (name, seed), checkpoint in models.items()]
    tasks.sort(key=lambda task: task['name'] != 'Prox')  # the longest first
    records = sum(parallel_map(attack_sequences, tasks, args.jobs, 'sequences'), [])
    plots = args.output_dir / 'plots'
    write_json(plots / 'attacks_sequences.json', {'norm': 'L2', **effort}, records)
    plot_sequences(plots / 'attacks_sequences.png', records)
    tables = [*(accuracy_table(records, attacked) for attacked in INPUTS),
              differences_table(records), accuracy_table(records, 'raw', MASKING)]
    print('', *tables, f'Written to {plots}', sep='\n\n')


if __name__ == '__main__':
    run_program(main, get_args)
