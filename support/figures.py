"""Plots of accuracy against epoch, and the results table."""

import io
import math

import numpy as np
from matplotlib.figure import Figure

from support.checkpoints import write

CONTROL = {'color': '0.45', 'linestyle': '--'}
METHOD = {'color': 'tab:blue', 'linestyle': '-'}


def save_figure(path, figure):
    """Write a matplotlib figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format='png')
    write(path, buffer.getvalue())


def plot_runs(folder, runs, chosen):
    """Draw the assignment's plots from entries of results.json; `chosen` is {mode: epsilon}.

    A sweep over epsilon is drawn as a panel for each epsilon, on common axes with the control.
    """
    def select(mode, epsilon=0.0, variant=''):
        return [run for run in runs
                if (run['mode'], run['epsilon'], run['variant']) == (mode, epsilon, variant)]

    plot_accuracy(folder / 'base.png', 'Base model', {'': {'': select('plain')}})
    for mode, best in chosen.items():
        epsilons = sorted({run['epsilon'] for run in runs if run['mode'] == mode} - {0.0})
        panels = {f'ε = {epsilon:g}{" (chosen)" if epsilon == best else ""}':
                  {'control, ε = 0': select(mode), mode: select(mode, epsilon)}
                  for epsilon in epsilons}
        plot_accuracy(folder / f'{mode}.png', f'{mode}, trained from the saved base model', panels)
    best = chosen['ProxLSTM']
    variants = sorted({run['variant'] for run in runs if run['mode'] == 'ProxLSTM'})
    panels = {variant or 'neither': {'control, ε = 0': select('ProxLSTM', 0.0, variant),
                                     f'ProxLSTM, ε = {best:g}': select('ProxLSTM', best, variant)}
              for variant in variants}
    plot_accuracy(folder / 'dropout_batch_norm.png', 'Dropout and batch normalization', panels)


def plot_accuracy(path, title, panels):
    """Draw test accuracy against epoch, a panel for each of {panel title: {label: runs}}.

    A bold line is the mean over seeds of the averaged weights, labeled with its last value, before
    thin lines of every run's own weights. The last line of a panel is the method, those before it
    its controls. Diverged runs are left out, and counted in the panel's title.
    """
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(1 + 4.2 * columns, 1.2 + 2.8 * rows), layout='constrained')
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    own, averaged = ({name: {label: accuracy_curves(group, key) for label, group in groups.items()}
                      for name, groups in panels.items()}
                     for key in ('test_accuracy', 'averaged_test_accuracy'))
    means = [y.mean(0) for groups in averaged.values() for y in groups.values() if y.size]
    floor = min(np.percentile(mean, 25) for mean in means) - 3 if means else 0
    floor = max(0, 5 * math.floor(floor / 5))
    for ax, (name, groups) in zip(axes, averaged.items()):
        diverged = sum(map(len, panels[name].values())) - sum(map(len, groups.values()))
        ax.set_title(name + (f', {diverged} runs diverged' if diverged else ''), fontsize=10)
        ends = []
        for label, y in groups.items():
            style = METHOD if label == list(groups)[-1] else CONTROL
            if y.size:
                ax.plot(np.arange(1, y.shape[1] + 1), own[name][label].T, color=style['color'],
                        linewidth=0.5, alpha=min(0.4, 4 / len(y)))
                draw_mean(ax, y, label, style)
                ends.append((y.mean(0)[-1], y.shape[1], style['color']))
        label_ends(ax, ends, (100 - floor) / 14)
        ax.grid(alpha=0.3)
        ax.set(ylim=(floor, 100.5), xlim=(0, 1.1 * max(map(len, means), default=1)))
    for ax in axes[len(panels):]:
        ax.axis('off')
    for ax in axes[max(0, len(panels) - columns):len(panels)]:
        ax.set_xlabel('epoch')
        ax.tick_params(labelbottom=True)
    cut = any(y.size and y.min() < floor for groups in own.values() for y in groups.values())
    for ax in axes[::columns]:
        ax.set_ylabel('accuracy, all test sequences (%)'
                      + (f'\ncut off below {floor}' if cut else ''))
    seeds = sorted({len(y) for groups in averaged.values() for y in groups.values() if y.size})
    mean_of = f', mean over {" or ".join(map(str, seeds))} seeds' if seeds and seeds[-1] > 1 else ''
    figure.suptitle(f'{title}\nbold: averaged weights{mean_of}\nthin: the weights of each run',
                    fontsize=11)
    handles = {}
    for ax in axes:
        handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels())}
    if len(handles) > 1:
        figure.legend(handles.values(), handles, loc='outside lower center', ncols=len(handles))
    save_figure(path, figure)


def accuracy_curves(runs, key):
    """Return the history `key` in per cent, [seeds, epochs], of runs that did not diverge."""
    return 100 * np.array([run['history'][key] for run in runs if run['diverged'] is None])


def draw_mean(ax, y, label, style):
    """Draw the mean of y [seeds, epochs] against epoch."""
    ax.plot(np.arange(1, y.shape[1] + 1), y.mean(0), label=label, linewidth=1.5, **style)


def draw_band(ax, y, label, style):
    """Draw the mean of y [seeds, epochs] and one standard deviation around it."""
    draw_mean(ax, y, label, style)
    if len(y) > 1:
        mean, deviation = y.mean(0), y.std(0, ddof=1)
        ax.fill_between(np.arange(1, y.shape[1] + 1), mean - deviation, np.minimum(mean + deviation, 100),
                        color=style['color'], alpha=0.2, linewidth=0)


def label_ends(ax, ends, distance):
    """Write the last values, (value, epoch, color), beside their lines, `distance` apart."""
    height = -math.inf
    for value, epoch, color in sorted(ends):
        height = max(value, height + distance)
        ax.annotate(f'{value:.1f}', (epoch, height), (4, 0), textcoords='offset points', fontsize=9,
                    color=color, va='center')


def plot_tuning(path, mode, records):
    """Draw held-out accuracy against epsilon, mean ± standard error over folds."""
    epsilons = sorted({record['epsilon'] for record in records})
    values = [[100 * r['accuracy'] for r in records
               if r['epsilon'] == epsilon and r['accuracy'] is not None] or [math.nan]
              for epsilon in epsilons]
    figure = Figure(figsize=(6.5, 4), layout='constrained')
    ax = figure.subplots()
    ax.errorbar(range(len(epsilons)), [np.mean(v) for v in values],
                [np.std(v, ddof=1) / math.sqrt(len(v)) if len(v) > 1 else math.nan for v in values],
                fmt='ko-', capsize=3)
    ax.set(title=f'{mode}: cross-validation within the training set', xlabel='ε',
           ylabel='accuracy on held-out folds (%)\nmean ± standard error')
    ax.set_xticks(range(len(epsilons)), [f'{epsilon:g}' for epsilon in epsilons])
    ax.grid(alpha=0.3)
    save_figure(path, figure)


def results_table(runs):
    """Return a Markdown table of last-epoch accuracy, and its paired difference from the control.

    The control is the run at ε = 0 after as many epochs, seed by seed; its difference is that of
    the averaged weights, which a loss spike hardly affects. Diverged runs are counted, but take
    part in no mean and in no difference.
    """
    groups = {}
    for run in runs:
        groups.setdefault((run['mode'], run['variant'], run['epsilon']), {})[run['seed']] = run
    rows = []
    for (mode, variant, epsilon), group in groups.items():
        epochs = next(iter(group.values()))['hyperparameters']['epochs']
        histories = finished_histories(group)
        final, unseen, averaged = ([history[key][-1] for history in histories.values()] for key in
                                   ('test_accuracy', 'unseen_accuracy', 'averaged_test_accuracy'))
        difference = ''
        if epsilon:
            control = finished_histories(groups[mode, variant, 0.0])
            difference = mean_std(
                [average - control[seed]['averaged_test_accuracy'][epochs - 1]
                 for seed, average in zip(histories, averaged) if seed in control], sign='+')
        name = ('base' if mode == 'plain' else mode) + (f', {variant}' if variant else '')
        rows.append((name, '' if mode == 'plain' else f'{epsilon:g}', epochs,
                     mean_std(final, of=len(group)), '' if None in unseen else mean_std(unseen),
                     mean_std(averaged), difference))
    header = ('model', 'ε', 'epochs', 'all test (%)', 'not in training (%)',
              'averaged weights, all test (%)', 'averaged, minus ε = 0 (points)')
    return markdown_table(header, rows)


def finished_histories(group):
    return {seed: run['history'] for seed, run in group.items() if run['diverged'] is None}


def markdown_table(header, rows):
    """Return a table in Markdown; cells are converted with str."""
    lines = ['| ' + ' | '.join(map(str, cells)) + ' |' for cells in (header, *rows)]
    return '\n'.join([lines[0], '|' + '---|' * len(header), *lines[1:]])


def mean_std(values, sign='', of=None):
    """Format fractions as per cent, mean ± standard deviation.

    `of` is the number of runs of which these did not diverge; the others are counted.
    """
    words = [plus_minus(100 * np.array(values), sign=sign)] if len(values) else []
    if of and len(values) < of:
        words.append(f'{of - len(values)} of {of} diverged')
    return ', '.join(words)


def plus_minus(values, decimals=1, sign=''):
    """Format mean ± standard deviation, of a single value the mean alone."""
    deviation = f' ± {np.std(values, ddof=1):.{decimals}f}' if len(values) > 1 else ''
    return f'{np.mean(values):{sign}z.{decimals}f}{deviation}'
