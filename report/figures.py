"""The report's figures, from analysis.py."""

import math

import numpy as np
from matplotlib.figure import Figure

from report.analysis import (Setting, accuracy, column, group, load, placement_effects,
                             primary_effects, spikes, sweep_effects, sweep_settings, variants)
from support.figures import METHOD, plot_runs, save_figure
from support.options import ASSIGNMENT_EPOCHS, ASSIGNMENT_EPSILONS, CHOSEN_EPSILON, PREFIX
from support.statistics import Effect


def write_figures(folder):
    shown = {mode: (0, chosen, *ASSIGNMENT_EPSILONS[mode])
             for mode, chosen in CHOSEN_EPSILON.items()} | {'plain': [0]}
    plot_runs(folder, [run for run in load('results')['runs']
                       if run['epsilon'] in shown[run['mode']]], CHOSEN_EPSILON)
    plot_overview(folder / 'overview.png')
    plot_epsilon(folder / 'epsilon.png')
    plot_inside(folder / 'inside.png')
    plot_placements(folder / 'placements.png')
    plot_spikes(folder / 'spikes.png')


def plot_overview(path):
    """Draw the base model's and, by epsilon, each method's accuracy on UCI's 370."""
    figure = Figure(figsize=(10, 5), layout='constrained')
    panels = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    for ax, (mode, chosen) in zip(panels, CHOSEN_EPSILON.items()):
        epochs, labels = ASSIGNMENT_EPOCHS[mode], []
        for x, setting in enumerate([Setting('plain'), *sweep_settings(mode)]):
            seeds = np.array(list(accuracy(setting).values()))
            effect = Effect('', seeds, np.zeros(len(seeds)))
            color = METHOD['color'] if setting.epsilon else 'black'
            ax.plot(x + np.linspace(-0.25, 0.25, len(seeds)), seeds, '.', color='0.7', markersize=3)
            ax.errorbar(x, effect.mean, effect.mean - effect.low, fmt='o', color=color, capsize=3,
                        markerfacecolor=color if setting.epsilon == chosen else 'white')
            labels.append((f'{setting.epsilon:g}' if x else 'base') + f'\n{effect.mean:.1f}')
            if x and not setting.epsilon:  # the control of those to its right, after as many epochs
                compared = sum(s.epochs == setting.epochs for s in sweep_settings(mode))
                ax.plot((x, x + compared - 1), 2 * [effect.mean], '--', color='0.5', linewidth=1)
        ax.set(xlabel='ε (0: control; filled: chosen) and mean accuracy',
               title=f'{mode}, {epochs} epochs' + (' (last two: 100)' if epochs < 100 else ''))
        ax.set_xticks(range(len(labels)), labels)
    panels[0].set_ylabel("accuracy on UCI's 370, averaged weights (%)\n"
                         'seeds (dots), mean and 95 % interval')
    save_figure(path, figure)


def draw_by_epsilon(ax, points, **style):
    """Draw {epsilon: (mean, error)}, with epsilon on a logarithmic axis."""
    means, errors = zip(*points.values())
    ax.errorbar([*points], means, errors, capsize=3, **style)
    ax.set(xscale='log', xlabel='ε')
    ax.xaxis.set_major_formatter('{x:g}')
    ax.grid(alpha=0.3)


def plot_epsilon(path):
    figure = Figure(figsize=(11, 4.8), layout='constrained')
    panels = figure.subplots(1, 2, sharey=True)
    for ax, (mode, chosen) in zip(panels, CHOSEN_EPSILON.items()):
        epochs = ASSIGNMENT_EPOCHS[mode]
        effects = {e.setting.epsilon: (e.mean, e.mean - e.low)
                   for e in sweep_effects(mode) if e.setting.epochs == epochs}
        draw_by_epsilon(ax, effects, fmt='ko-',
                        label="test, UCI's 370, epochs of the title: mean and 95 % interval")
        if epochs < 100:
            e = primary_effects()[mode]
            draw_by_epsilon(ax, {chosen: (e.mean, e.mean - e.low)}, fmt='D', color='tab:red',
                            label='the same after 100 epochs')
        folds = group(f'tune_{PREFIX[mode]}', 'epsilon')
        gains = {epsilon: 100 * (column(runs, 'accuracy') - column(folds[0], 'accuracy'))
                 for epsilon, runs in folds.items() if epsilon}
        draw_by_epsilon(ax, {epsilon: (x.mean(), x.std(ddof=1) / math.sqrt(len(x)))
                             for epsilon, x in gains.items()},
                        fmt='s:', color='tab:blue', markerfacecolor='white',
                        label='cross-validation, 100 epochs: mean and standard error')
        ax.axhline(0, color='gray', linewidth=0.8)
        ax.axvline(chosen, color='tab:red', linestyle='--', linewidth=1,
                   label='chosen by cross-validation')
        ax.set_title(f'{mode}, {epochs} epochs')
    panels[0].set_ylabel('accuracy minus that at ε = 0 (points)')
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center', ncols=2)
    save_figure(path, figure)


def plot_inside(path):
    figure = Figure(figsize=(11, 3.6), layout='constrained')
    panels = figure.subplots(1, 3)
    titles = {'moved': 'movement of the state, ‖c − s‖ / ‖s‖',
              'lambda_max': 'largest eigenvalue of G Gᵀ', 'iterations': "solver's iterations"}
    for ax, (key, title) in zip(panels, titles.items()):
        values = {epsilon: column(runs, key)
                  for epsilon, runs in sorted(group('inside', 'epsilon').items()) if epsilon}
        draw_by_epsilon(ax, {epsilon: (x.mean(), x.std(ddof=1)) for epsilon, x in values.items()},
                        fmt='ko-')
        ax.set(title=title, ylim=(0, None))
    panels[2].set(yscale='log', ylim=(1, 100))
    save_figure(path, figure)


def plot_placements(path):
    effects = placement_effects()
    figure = Figure(figsize=(8, 1 + 0.28 * len(effects)), layout='constrained')
    ax = figure.subplots()
    ax.axvline(0, color='gray', linewidth=0.8)
    for y, e in enumerate(effects):
        ax.errorbar(e.mean, y, xerr=e.mean - e.low, fmt='o', color='black', capsize=3,
                    markerfacecolor='black' if e.p_holm < 0.05 else 'white')
        if y and y % len(variants()) == 0:
            ax.axhline(y - 0.5, color='gray', linewidth=0.8)
    ax.set_yticks(range(len(effects)), [e.label for e in effects])
    ax.set(ylim=(len(effects) - 0.5, -0.5),
           xlabel="difference on UCI's 370 (points), 95 % interval\n"
                  'filled: significant (corrected p < 0.05)')
    ax.grid(alpha=0.3, axis='x')
    save_figure(path, figure)


def plot_spikes(path):
    figure = Figure(figsize=(11, 6), layout='constrained')
    panels = figure.subplots(2, 3, sharex=True, sharey=True).flat
    for ax, (mitigation, x) in zip(panels, spikes().items()):
        for run in x.runs:
            ax.plot(range(1, 1 + len(run['loss'])), run['loss'], linewidth=0.8)
        ax.set(yscale='log', title=mitigation)
        ax.grid(alpha=0.3)
    figure.supxlabel('epoch')
    figure.supylabel('training loss, a line per seed')
    save_figure(path, figure)
