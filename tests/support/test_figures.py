"""The results table and the plots.

    python -m pytest tests/support/test_figures.py
"""

import numpy as np
from matplotlib.axes import Axes

from support.figures import plot_accuracy, plot_runs, results_table


def make_run(epsilon, seed, accuracies, diverged=None, mode='AdvLSTM', variant='', averaged=None):
    return {'mode': mode, 'epsilon': epsilon, 'seed': seed, 'variant': variant, 'diverged': diverged,
            'hyperparameters': {'epochs': 2 if epsilon else 3},
            'history': {'test_accuracy': accuracies, 'unseen_accuracy': accuracies,
                        'averaged_test_accuracy': averaged or accuracies}}


def test_plots_are_drawn_even_if_runs_diverged(tmp_path):
    runs = [make_run(0.0, seed, [0.9] * 3, mode='plain') for seed in (0, 1)]
    runs += [make_run(epsilon, 0, [], diverged=1, mode=mode) for mode in ('AdvLSTM', 'ProxLSTM')
             for epsilon in (0.0, 5.0)]
    plot_runs(tmp_path, runs, {'AdvLSTM': 5.0, 'ProxLSTM': 5.0})
    assert {path.name for path in tmp_path.glob('*.png')} == {
        'base.png', 'AdvLSTM.png', 'ProxLSTM.png', 'dropout_batch_norm.png'}


def test_results_table_compares_averaged_weights_with_the_control_at_the_same_epoch_and_seed():
    control = [make_run(0.0, seed, [0.3] * 3, averaged=[0.5, 0.6 + seed / 10, 0.1])
               for seed in (0, 1)]
    first, second = (make_run(1.0, seed, [0.5, 0.2], averaged=[0.5, 0.9 - seed / 10])
                     for seed in (0, 1))
    gone = {seed: make_run(1.0, seed, [0.9] * seed, diverged=1 + seed) for seed in (0, 1)}
    row = '| AdvLSTM | 1 | 2 | '
    for runs, expected in (
            ([*control, second, first], '20.0 ± 0.0 | 20.0 ± 0.0 | 85.0 ± 7.1 | +20.0 ± 14.1 |'),
            ([*control, first, gone[1]], '20.0, 1 of 2 diverged | 20.0 | 90.0 | +30.0 |'),
            ([*control, *gone.values()], '2 of 2 diverged |  |  |  |'),
            # A control that diverged is compared with none.
            ([make_run(0.0, 0, [], diverged=1), control[1], first, second],
             '20.0 ± 0.0 | 20.0 ± 0.0 | 85.0 ± 7.1 | +10.0 |')):
        assert row + expected in results_table(runs)


def test_the_bold_line_is_the_mean_of_the_averaged_weights_and_every_run_is_a_thin_line(
        tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Axes, 'plot', lambda self, x, y, **style: drawn.append(
        (np.array(y), style['linewidth'])) or [])
    runs = [make_run(0.0, seed, [0.5, 0.6 + seed / 10], mode='plain', averaged=[0.8, 0.9 - seed / 10])
            for seed in range(2)]
    plot_accuracy(tmp_path / 'base.png', 'Base', {'': {'': runs}})
    (thin, width), (bold, bold_width) = drawn
    assert width < bold_width
    np.testing.assert_allclose(thin, [[50, 50], [60, 70]])
    np.testing.assert_allclose(bold, [80, 85])


def test_a_thin_line_below_the_axis_is_said_to_be_cut_off(tmp_path, monkeypatch):
    labels = []
    monkeypatch.setattr(Axes, 'set_ylabel', lambda self, label: labels.append(label))
    for lowest, cut in ((0.9, False), (0.3, True)):
        run = make_run(0.0, 0, [0.9, lowest], mode='plain', averaged=[0.9, 0.9])
        plot_accuracy(tmp_path / 'base.png', 'Base', {'': {'': [run]}})
        assert ('cut off below 85' in labels.pop()) is cut
