"""The report's figures, from analysis.py."""

import math

import numpy as np
from matplotlib.figure import Figure

from report.analysis import (Setting, accuracy, epsilons, inside, load, number_of_seeds,
                             placement_effects, spikes, sweep_effects, tuning_gains, variants)
from support.figures import METHOD, plot_runs, save_figure
from support.options import ASSIGNMENT_EPOCHS, ASSIGNMENT_EPSILONS, CHOSEN_EPSILON
from support.statistics import Effect


def write_figures(folder):
    shown = {(mode, epsilon) for mode in CHOSEN_EPSILON
             for epsilon in (0, CHOSEN_EPSILON[mode], *ASSIGNMENT_EPSILONS[mode])} | {('plain', 0)}
    plot_runs(folder, [run for run in load('results')['runs']
                       if (run['mode'], run['epsilon']) in shown], CHOSEN_EPSILON)
    plot_overview(folder / 'overview.png')
    plot_epsilon(folder / 'epsilon.png')
    plot_inside(folder / 'inside.png')
    plot_effects(folder / 'placements.png', list(placement_effects().values()))
    plot_spikes(folder / 'spikes.png')


def plot_overview(path, floor=90):
    """Draw the base model's and, by epsilon, each method's accuracy on all 351 test sequences."""
    figure = Figure(figsize=(10, 4.4), layout='constrained')
    panels = figure.subplots(1, 2, sharey=True, width_ratios=(1.2, 1))
    for ax, (mode, chosen) in zip(panels, CHOSEN_EPSILON.items()):
        grid, control = epsilons(mode)[1:], Setting(mode)
        epochs = ASSIGNMENT_EPOCHS[mode]
        settings = {grid[0] / 25: Setting('plain'), grid[0] / 5: control}  # by place on the axis
        settings |= {epsilon: Setting(mode, epsilon, epochs=epochs) for epsilon in grid}
        settings[chosen] = Setting(mode, chosen)
        values = {x: accuracy(setting, 'all') for x, setting in settings.items()}
        effects = [Effect('', seeds, np.zeros(len(seeds))) for seeds in values.values()]
        means = [effect.mean for effect in effects]
        ax.axhspan(effects[1].low, effects[1].high, color='0.92', zorder=0)
        ax.axhline(means[1], color='0.5', linestyle='--', linewidth=1, zorder=0)
        ax.plot(grid, means[2:], **METHOD, alpha=0.4)
        for (x, seeds), mean, effect in zip(values.items(), means, effects):
            color = METHOD['color'] if x in grid else 'black'
            jitter = 1.12 ** np.linspace(-1, 1, len(seeds))
            ax.plot(x * jitter, seeds, '.', color='0.6', markersize=4)
            ax.errorbar(x, mean, mean - effect.low, fmt='o' if x in grid else 's', color=color,
                        capsize=3, markerfacecolor=color if x == chosen else 'white')
            if x not in grid:
                ax.annotate(f'{mean:.1f}', (x, mean), (8, 2), textcoords='offset points')
            elif x == chosen or mean == max(means):
                ax.annotate(f'{mean:.1f}', (x, max(effect.high, *seeds)), (0, 4), color=color,
                            textcoords='offset points', ha='center')
            for value in seeds[seeds < floor]:
                ax.text(x, floor + 0.2, f' ↓ one seed:\n    {value:.1f}', color='0.4', fontsize=9)
        ax.set(xscale='log', ylim=(floor, 100), title=f'{mode}, {epochs} epochs' + (
            ' (control and chosen ε: 100)' if epochs < 100 else ''))
        ax.set_xticks([*values], ['base\nmodel', 'control:\nε = 0', *(
            f'{x:g}' + ('\nchosen' if x == chosen else '') for x in grid)])
        ax.minorticks_off()
    panels[0].set_ylabel(f'test accuracy (%), cut off below {floor}')
    figure.supxlabel('ε (logarithmic)', fontsize=10)
    figure.suptitle('Accuracy on all test sequences, with each method and without it (ε = 0): mean '
                    f'and 95 % interval over {number_of_seeds()} seeds (dots)', fontsize=11)
    save_figure(path, figure)


def plot_epsilon(path):
    figure = Figure(figsize=(11, 4.8), layout='constrained')
    panels = figure.subplots(1, 2, sharey=True)
    for ax, mode in zip(panels, CHOSEN_EPSILON):
        grid = epsilons(mode)[1:]
        effects = [sweep_effects(mode)[f'ε = {epsilon:g}'] for epsilon in grid]
        ax.axhline(0, color='grey', linewidth=0.8)
        ax.errorbar(grid, [e.mean for e in effects], [e.mean - e.low for e in effects], fmt='ko-',
                    capsize=3, label="test, UCI's 370: mean and 95 % interval over seeds")
        gains = tuning_gains(mode)
        ax.errorbar([*gains], [x.mean() for x in gains.values()],
                    [x.std(ddof=1) / math.sqrt(len(x)) for x in gains.values()], fmt='s:',
                    color='tab:blue', markerfacecolor='white', capsize=3,
                    label='cross-validation in the training set: mean and standard error')
        ax.axvline(CHOSEN_EPSILON[mode], color='tab:red', linestyle='--', linewidth=1,
                   label='chosen by cross-validation')
        ax.set(xscale='log', title=f'{mode}, {ASSIGNMENT_EPOCHS[mode]} epochs', xlabel='ε')
        ax.xaxis.set_major_formatter('{x:g}')
        ax.grid(alpha=0.3)
    panels[0].set_ylabel('accuracy minus that at ε = 0 (points)')
    figure.legend(*panels[0].get_legend_handles_labels(), loc='outside lower center')
    save_figure(path, figure)


def plot_inside(path):
    figure = Figure(figsize=(11, 3.6), layout='constrained')
    records = {epsilon: x for epsilon, x in inside().items() if epsilon}
    titles = {'moved': 'movement of the state, ‖c − s‖ / ‖s‖',
              'lambda_max': 'largest eigenvalue of G Gᵀ', 'iterations': "solver's iterations"}
    for ax, (key, title) in zip(figure.subplots(1, 3), titles.items()):
        ax.errorbar([*records], [x[key].mean() for x in records.values()],
                    [x[key].std(ddof=1) for x in records.values()], fmt='ko-', capsize=3)
        ax.set(xscale='log', title=title, xlabel='ε')
        ax.set(**{'yscale': 'log'} if key == 'iterations' else {'ylim': (0, None)})
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter('{x:g}')
        ax.grid(alpha=0.3)
    save_figure(path, figure)


def plot_effects(path, effects):
    figure = Figure(figsize=(8, 1 + 0.28 * len(effects)), layout='constrained')
    ax = figure.subplots()
    ax.axvline(0, color='grey', linewidth=0.8)
    for y in range(len(variants()), len(effects), len(variants())):
        ax.axhline(y - 0.5, color='grey', linewidth=0.8)
    for y, e in enumerate(effects):
        ax.errorbar(e.mean, y, xerr=e.mean - e.low, fmt='o', color='black', capsize=3,
                    markerfacecolor='black' if e.p_holm < 0.05 else 'white')
    ax.set_yticks(range(len(effects)), [e.label for e in effects])
    ax.set(xlim=(-10, 10), ylim=(len(effects) - 0.5, -0.5),
           xlabel="difference on UCI's 370 (points), 95 % interval, cut off at ±10\n"
                  'filled: significant (corrected p < 0.05)')
    ax.grid(alpha=0.3, axis='x')
    save_figure(path, figure)


def plot_spikes(path):
    figure = Figure(figsize=(11, 6), layout='constrained')
    cures = dict.fromkeys(record['cure'] for record in load('spikes')['runs'])
    for ax, cure in zip(figure.subplots(2, 3, sharex=True, sharey=True).flat, cures):
        for record in spikes(cure).records:
            ax.plot(range(1, 1 + len(record['loss'])), record['loss'], linewidth=0.8)
        ax.set(yscale='log', title=cure)
        ax.grid(alpha=0.3)
    figure.supxlabel('epoch')
    figure.supylabel('training loss, a line per seed')
    save_figure(path, figure)
