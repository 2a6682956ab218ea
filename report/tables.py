"""The tables of page.md, in Markdown."""

import numpy as np

from report.analysis import (UNCHANGED, Setting, accuracy, cure_effects, epsilons, inside, load,
                             spikes, variants)
from support.figures import mean_std
from support.options import ASSIGNMENT_EPOCHS, CHOSEN_EPSILON
from support.tuning import paired_difference

TEST_SETS = {'all': "the assignment's 351", 'unseen': 'the 291 not in training', 'uci': "UCI's 370"}


def markdown(header, rows):
    return '\n'.join(f'| {" | ".join(map(str, row))} |'
                     for row in (header, ['---'] * len(header), *rows))


def plus_minus(values, decimals=1):
    return f'{values.mean():.{decimals}f} ± {values.std(ddof=1):.{decimals}f}'


def accuracy_table(settings):
    """Tabulate the accuracies of {label: Setting} on the three test sets."""
    def cell(setting, test):
        values = accuracy(setting, test)
        return mean_std(values[np.isfinite(values)] / 100, of=len(values))

    return markdown(['', 'epochs', *(f'{name} (%)' for name in TEST_SETS.values())],
                    [[label, setting.epochs, *(cell(setting, test) for test in TEST_SETS)]
                     for label, setting in settings.items()])


def sweep_table(mode):
    chosen, epochs = CHOSEN_EPSILON[mode], ASSIGNMENT_EPOCHS[mode]
    labels = {epsilon: f'ε = {epsilon:g}' for epsilon in epsilons(mode)}
    labels |= {0.0: 'ε = 0, the control', chosen: f'ε = {chosen:g}, chosen'}
    settings = {label: Setting(mode, epsilon, epochs=epochs) for epsilon, label in labels.items()}
    if epochs < 100:
        settings |= {f'{labels[epsilon]}, 100 epochs': Setting(mode, epsilon)
                     for epsilon in (0.0, chosen)}
    return accuracy_table(settings)


def placement_table():
    chosen = CHOSEN_EPSILON['ProxLSTM']
    return accuracy_table({
        f'{variant or "neither"}, {f"Prox, ε = {epsilon:g}" if epsilon else "no Prox"}':
        Setting('ProxLSTM', epsilon, variant)
        for variant in ('', *variants()) for epsilon in (0.0, chosen)})


def effects_table(effects):
    header = ['', 'difference (points)', '95 % interval', 'p', 'p, corrected',
              'last ten epochs, the 291 (points)']
    return markdown(header, [
        [e.label, f'{e.mean:+.2f} ± {e.deviation:.2f}', f'{e.low:+.2f} to {e.high:+.2f}',
         f'{e.p:.2g}', f'{e.p_holm:.2g}', f'{e.last_ten.mean:+.2f} ± {e.last_ten.deviation:.2f}']
        for e in effects.values()])


def effect_range(effects, beginning, word=''):
    """Return the extreme means of effects, but for the placement at which a seed failed."""
    means = [e.mean for label, e in effects.items() if label.startswith(beginning)
             and word in label and 'batch norm output' not in label]
    return f'{min(means):+.1f} to {max(means):+.1f}'


def settings_table():
    config = load('results')['config']
    keys = ('batch_size', 'hidden_size', 'out_channels', 'kernel_size', 'stride', 'epochs', 'lr',
            'weight_decay', 'clip_value', 'epsilon')
    return markdown(['', 'base', 'AdvLSTM', 'ProxLSTM'], [
        [f'`{key}`', *(config.get(f'{prefix}_{key}', config.get(key, ''))
                       for prefix in ('base', 'adv', 'prox'))] for key in keys])


def search_table():
    folds = {}
    for record in load('search')['runs']:
        folds.setdefault(record['change'], []).append(record['accuracy'])
    return markdown(
        ['change', 'accuracy on held-out folds (%)', 'minus no change (mean ± standard error)'],
        [[change, mean_std(values), paired_difference(values, folds[UNCHANGED])]
         for change, values in folds.items()])


def inside_table():
    return markdown(['ε', '‖c − s‖ / ‖s‖', 'λ_max(G Gᵀ)', 'iterations'], [
        [f'{epsilon:g}', plus_minus(x['moved'], 3) if epsilon else 0,
         plus_minus(x['lambda_max'], 2), f'{x["iterations"].mean():.1f}' if epsilon else '']
        for epsilon, x in inside().items()])


def spike_table():
    def row(cure, effect=None):
        x = spikes(cure)
        return [cure, f'{x.seeds} of {len(x.found)}',
                f'{np.mean([len(found) for found in x.found]):.1f}', f'{x.largest:.3f}',
                plus_minus(x.lowest), plus_minus(x.last),
                f'{effect.mean:+.2f} ± {effect.deviation:.2f}' if effect else '',
                f'{effect.p_holm:.2g}' if effect else '']

    return markdown(['base model, 300 epochs', 'seeds with a spike', 'spikes per seed',
                     'largest loss after epoch 100, median', 'lowest accuracy after epoch 100 (%)',
                     'last epoch (%)', 'difference (points)', 'p, corrected'],
                    [row(UNCHANGED), *(row(*item) for item in cure_effects().items())])
