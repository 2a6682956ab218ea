"""The results table and the plots.

    python -m pytest tests/support/test_figures.py
"""

from support.figures import plot_runs, results_table


def make_run(epsilon, seed, accuracies, diverged=None, mode='AdvLSTM', variant=''):
    return {'mode': mode, 'epsilon': epsilon, 'seed': seed, 'variant': variant, 'diverged': diverged,
            'hyperparameters': {'epochs': 2 if epsilon else 3},
            'history': {'test_accuracy': accuracies, 'unseen_accuracy': accuracies}}


def test_plots_are_drawn_even_if_runs_diverged(tmp_path):
    runs = [make_run(0.0, seed, [0.9] * 3, mode='plain') for seed in (0, 1)]
    runs += [make_run(epsilon, 0, [], diverged=1, mode=mode) for mode in ('AdvLSTM', 'ProxLSTM')
             for epsilon in (0.0, 5.0)]
    plot_runs(tmp_path, runs, {'AdvLSTM': 5.0, 'ProxLSTM': 5.0})
    assert {path.name for path in tmp_path.glob('*.png')} == {
        'base.png', 'AdvLSTM.png', 'ProxLSTM.png', 'dropout_batch_norm.png'}


def test_results_table_compares_with_the_control_at_the_same_epoch_and_seed():
    runs = [make_run(0.0, 0, [0.5, 0.6, 0.1]), make_run(0.0, 1, [0.5, 0.7, 0.1]), make_run(1.0, 1, [0.5, 0.8]), make_run(1.0, 0, [0.5, 0.9])]
    assert '| AdvLSTM | 1 | 2 | 85.0 ± 7.1 | 85.0 ± 7.1 | +20.0 ± 14.1 |' in results_table(runs)
    runs[2] = make_run(1.0, 1, [], diverged=1)
    assert '| AdvLSTM | 1 | 2 | 90.0, 1 of 2 diverged | 90.0 | +30.0 |' in results_table(runs)
    runs[3] = make_run(1.0, 0, [0.9], diverged=2)
    assert '| AdvLSTM | 1 | 2 | 2 of 2 diverged |  |  |' in results_table(runs)
    runs[0], runs[2] = make_run(0.0, 0, [], diverged=1), make_run(1.0, 1, [0.5, 0.8])  # a control that diverged is compared with none
    assert '| AdvLSTM | 1 | 2 | 80.0, 1 of 2 diverged | 80.0 | +10.0 |' in results_table(runs)
    runs[3] = make_run(1.0, 0, [0.5, 0.9])
    assert '| AdvLSTM | 1 | 2 | 85.0 ± 7.1 | 85.0 ± 7.1 | +10.0 |' in results_table(runs)
