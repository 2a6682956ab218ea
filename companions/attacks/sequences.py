"""Which of the sequence classifiers withstand attacks, compared with their controls.

    python -m companions.attacks.sequences --seeds 8

Takes the models from checkpoints/ under --output-dir, or trains them into checkpoints/companions/,
on the CPU; --device is that of the attacks, so that they are always attacks on the same models.
Writes attacks_sequences.json and attacks_sequences.png to plots/ there.
"""

import argparse
import math
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure

from Classifier import LSTMClassifier
from companions.attacks.attacks import expand, noise, norms, pgd
from companions.attacks.stronger import ddn, dlr_loss, square
from companions.best_recipe.recipe import BestClassifier
from companions.common.models import (EPOCHS, MODELS, NOISY, WITH_NOISE, amp_models,
                                      assignment_models, best_recipe_models, noise_models,
                                      valid_steps)
from load_data import EVALUATION_BATCH, UCI_PATH, load_data
from support.checkpoints import write_json
from support.figures import markdown_table, mean_std, save_figure
from support.options import add_device_argument, add_run_arguments, prepare_output_dir
from support.parallel import parallel_map
from support.program import run_program
from support.statistics import Effect, correct, format_p

STYLES = {'base': 'C7-', 'Adv control': 'C7--', 'Adv': 'C3-', 'Prox control': 'C7-.',
          'Prox': 'C0-', 'AMP': 'C1-', 'SAM': 'C2--', 'best recipe': 'k:'}
CONTROLS = {'Adv': 'Adv control', 'Prox': 'Prox control', 'AMP': 'Prox control',
            'SAM': 'Prox control', 'best recipe': 'base'}
INPUTS = 'normalized', 'raw'  # what is attacked: the convolution's input, or the data's values
STRENGTH_EPSILON = 0.5        # at which the attacks are compared
EFFORT = {'epsilons': (0.1, 0.25, STRENGTH_EPSILON, 1.0), 'steps': 10, 'queries': 200,
          'noise_draws': 10}
DRY_RUN_EFFORT = {'epsilons': (STRENGTH_EPSILON,), 'steps': 1, 'queries': 2, 'noise_draws': 1}
TARGETS = 3  # of the attacks on one class each: the likeliest wrong ones
ALL = 'all attacks'  # whose accuracy is the robust accuracy


def load_classifier(name, checkpoint, attacked, device='cpu'):
    """Return (classify, prepare), functions for attacks on the input `attacked`, one of INPUTS.

    prepare(raw sequences) is that input, x [B, T, F]; classify(x, lengths) its logits. `name` is
    one of STYLES, with or without WITH_NOISE at its end.
    """
    name = name.removesuffix(WITH_NOISE)
    cls = BestClassifier if name == 'best recipe' else LSTMClassifier
    model = cls.from_checkpoint(checkpoint).to(device).requires_grad_(False)
    mode, epsilon = MODELS.get(name, ('plain', 0.0))
    classify = partial(model, mode=mode, epsilon=epsilon) if mode == 'ProxLSTM' else model
    if attacked == 'raw':
        return classify, lambda x: x
    prepare, model.normalize = model.normalize, lambda x: x
    return classify, prepare


def stronger_attacks(epsilon, steps, queries, generator):
    """Return what follows PGD, by name: functions (model, x, labels, mask) -> perturbed x.

    Modeled on AutoAttack (Croce and Hein, arXiv:2003.01690), with DDN in place of FAB.
    """
    def target(model, x, labels, mask, rank):
        with torch.no_grad():
            logits = model(x).scatter(1, labels[:, None], -math.inf)
        targets = logits.topk(rank).indices[:, -1]
        return pgd(model, x, labels, epsilon, steps, norm=2, mask=mask,
                   loss=partial(dlr_loss, targets=targets))

    def search_smallest(model, x, labels, mask):
        found = ddn(model, x, labels, 3 * steps, mask=mask)
        within = norms(found - x, 2) <= epsilon
        return torch.where(expand(within, x), found, x)

    attack = partial(pgd, epsilon=epsilon, norm=2)
    return {'+ random starts': [partial(attack, steps=steps, generator=generator)] * 2,
            '+ DLR': [partial(attack, steps=2 * steps, loss=dlr_loss)],
            '+ DLR, targets': [partial(target, rank=k + 1) for k in range(TARGETS)],
            '+ DDN': [search_smallest],
            '+ Square': [partial(square, epsilon=epsilon, steps=queries, generator=generator)]}


def attack_sequences(name, seed, checkpoint, epsilons, steps, queries, noise_draws, device='cpu'):
    """Attack one model on UCI's 370 test sequences and return records of its accuracy.

    'noise' is the mean over `noise_draws`; 'PGD' counts sequences classified correctly without an
    attack and under PGD at every epsilon up to this one. Each of the stronger attacks works on what
    PGD and those before it left at this epsilon. ALL counts what all attacks left up to there.
    """
    _, test = load_data(UCI_PATH, EVALUATION_BATCH)
    total = sum(len(batch.targets) for batch in test)
    records = []

    def add(attack, epsilon, *draws):
        count = np.mean([sum(part.sum().item() for part in parts) for parts in draws]).item()
        records.append({'model': name, 'seed': seed, 'input': attacked, 'attack': attack,
                        'epsilon': epsilon, 'accuracy': count / total})

    # The best recipe reads both inputs at once.
    only_raw = name.endswith(WITH_NOISE) or name == 'best recipe'
    for attacked in INPUTS[1:] if only_raw else INPUTS:
        classify, prepare = load_classifier(name, checkpoint, attacked, device)
        batches = [(prepare(x.to(device)), y.to(device), lengths.to(device))
                   for x, y, lengths in test]
        generator = torch.Generator().manual_seed(seed)
        everything = [torch.ones_like(y, dtype=torch.bool) for _, y, _ in batches]
        unattacked = still_correct(batches, everything, classify, lambda model, x, labels, mask: x)
        add('none', 0.0, unattacked)
        left = robust = unattacked
        for epsilon in epsilons:
            def add_noise(model, x, labels, mask):
                return noise(x, epsilon, norm=2, mask=mask, generator=generator)

            add('noise', epsilon, *(still_correct(batches, everything, classify, add_noise)
                                    for _ in range(noise_draws)))
            left = chain = still_correct(batches, left, classify,
                                         partial(pgd, epsilon=epsilon, steps=steps, norm=2))
            add('PGD', epsilon, left)
            attacks = stronger_attacks(epsilon, steps, queries, generator)
            for title, functions in attacks.items():
                for attack in functions:
                    chain = still_correct(batches, chain, classify, attack)
                add(title, epsilon, chain)
            robust = [one & other for one, other in zip(robust, chain)]
            add(ALL, epsilon, robust)
    return records


def still_correct(batches, chosen, classify, attack):
    """Return which of the `chosen` samples the attack leaves correct.

    `batches` is a list of (x, labels, lengths), `chosen` and the result of a bool [B] for each;
    classify(x, lengths) returns logits.
    """
    left = []
    for (x, y, lengths), which in zip(batches, chosen):
        x, y, lengths, which = x[which], y[which], lengths[which], which.clone()
        if len(y):
            perturbed = attack(lambda x: classify(x, lengths), x, y, mask=valid_steps(x, lengths))
            with torch.no_grad():
                which[which.clone()] = classify(perturbed, lengths).argmax(1) == y
        left.append(which)
    return left


def accuracies(records, model, attacked, attack, epsilon):
    """Return the accuracies of a model under one attack, an array over seeds."""
    wanted = {'model': model, 'input': attacked, 'attack': attack, 'epsilon': epsilon}
    return np.array([r['accuracy'] for r in sorted(records, key=lambda r: r['seed'])
                     if wanted.items() <= r.items()])


def table_columns(records):
    """Return {(attack, epsilon): title}."""
    epsilons = sorted({r['epsilon'] for r in records if r['attack'] == ALL})
    return {('none', 0.0): 'unattacked', ('noise', epsilons[-1]): f'noise {epsilons[-1]:g}',
            **{(ALL, epsilon): f'robust, ε = {epsilon:g}' for epsilon in epsilons}}


def strength_columns(records):
    """Return {(attack, epsilon): title} of PGD and of the attacks after it, at STRENGTH_EPSILON."""
    others = 'none', 'noise', ALL
    attacks = dict.fromkeys(r['attack'] for r in records if r['attack'] not in others)
    return {(attack, STRENGTH_EPSILON): attack for attack in attacks}


def accuracy_table(records, attacked, columns=None):
    """Return Markdown: the accuracy of every model; `columns` are table_columns by default."""
    columns = columns or table_columns(records)
    rows = [[name, *(mean_std(accuracies(records, name, attacked, *column)) for column in columns)]
            for name in (*STYLES, *(name + WITH_NOISE for name in NOISY))]
    return markdown_table((f'{attacked} input', *columns.values()),
                          [row for row in rows if any(row[1:])])


def differences_table(records):
    """Return Markdown: each method minus its control; p-values under attack, Holm-corrected."""
    columns, rows, effects = table_columns(records), [], []
    for name, control in CONTROLS.items():
        for attacked in sorted({r['input'] for r in records if r['model'] == name}):
            row = [f'{name} minus {control}', attacked]
            for column in columns:
                method, without = (accuracies(records, model, attacked, *column)
                                   for model in (name, control))
                if column[0] == ALL and name != 'best recipe' and len(method) > 1:
                    effects.append(Effect((len(rows), len(row)), 100 * method, 100 * without))
                row.append(mean_std(method - without, sign='+'))
            rows.append(row)
    for (i, j), effect in correct(effects).items():
        rows[i][j] += f', {format_p(effect.p_holm)}'
    return markdown_table(('', 'input', *columns.values()), rows)


def plot_sequences(path, records):
    """Draw accuracy against epsilon on both inputs: thick under attack, thin under noise."""
    figure = Figure(figsize=(12, 5.5), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    epsilons = sorted({r['epsilon'] for r in records})
    for ax, attacked in zip(axes, INPUTS):
        for name, style in STYLES.items():
            for attack, look in ((ALL, {'label': name, 'lw': 2, 'elinewidth': 1, 'capsize': 2}),
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
    figure.suptitle('Accuracy under all attacks together (thick), under noise of that size (thin)')
    figure.legend(*axes[1].get_legend_handles_labels(), loc='outside lower center', ncols=8)
    save_figure(path, figure)


def get_args(argv=None, description='Attacks on the sequence classifiers.'):
    parser = argparse.ArgumentParser(description=description,
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_run_arguments(parser)
    add_device_argument(parser)
    args = parser.parse_args(argv)
    if args.dry_run:
        args.seeds = 1
    return args


def main(args):
    prepare_output_dir(args, 'attacks_sequences')
    epochs, effort = (2, DRY_RUN_EFFORT) if args.dry_run else (EPOCHS, EFFORT)
    models = assignment_models(args, epochs=epochs)
    models |= amp_models(args, models, epochs=epochs) | best_recipe_models(args)
    models |= noise_models(args, models, epochs)
    tasks = [{'name': name, 'seed': seed, 'checkpoint': checkpoint, 'device': args.device, **effort}
             for (name, seed), checkpoint in models.items()]
    tasks.sort(key=lambda task: 'Prox' not in task['name'])  # the longest first
    records = sum(parallel_map(attack_sequences, tasks, args.jobs, 'sequences'), [])
    plots = args.output_dir / 'plots'
    write_json(plots / 'attacks_sequences.json', {'norm': 'L2', **effort}, records)
    plot_sequences(plots / 'attacks_sequences.png', records)
    tables = [*(accuracy_table(records, attacked) for attacked in INPUTS),
              differences_table(records),
              accuracy_table(records, 'raw', strength_columns(records))]
    print('', *tables, f'Written to {plots}', sep='\n\n')


if __name__ == '__main__':
    run_program(main, get_args)
