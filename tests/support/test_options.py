"""The command line refuses what cannot work, by the option's name.

    python -m pytest tests/support/test_options.py
"""

import pytest

from support.options import epochs_by_epsilon, get_args, model_arguments
from support.sweep import Run


@pytest.mark.parametrize('arguments', [
    ('--epochs', '0'), ('--seeds', 'two'), ('--adv-epsilon', '-1'), ('--prox-epsilon', 'nan'),
    ('--prox-epsilon', '1e300'), ('--stride', '9' * 20), ('--adv-lr', '1e300'), ('--device', 'abacus'), ('--device', 'hpu'),
    ('--batch-norm', 'everywhere'), ('--dropout', 'lstm_input=1.5'), ('--tune', 'plain'),
    ('--grid', '1'), ('--tune', 'adv', '--folds', '1'), ('--scheduler', 'tcp://127.0.0.1:1'),
    ('--backend', 'dask'), ('--dry-run', '--resume')])
def test_bad_options_are_refused_by_name(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        get_args(arguments)
    option = {'--backend': '--scheduler', '--dry-run': '--resume'}.get(arguments[-2], arguments[-2])
    assert end.value.code == 2 and f'argument {option}' in capsys.readouterr().err


def test_a_grid_always_has_its_control():
    assert get_args(['--tune', 'prox', '--grid', '2', '1']).grid == [0, 1, 2]


def test_the_chosen_epsilon_and_the_control_are_trained_for_all_epochs():
    assert epochs_by_epsilon(get_args([]), 'AdvLSTM') == {0.0: 100, 0.01: 50, 0.1: 50, 1.0: 50, 2.0: 100}
    args = get_args(['--epochs', '30', '--adv-epsilons', '3', '2'])
    assert epochs_by_epsilon(args, 'AdvLSTM') == {0.0: 30, 2.0: 30, 3.0: 30}


@pytest.mark.parametrize('run, expected', [
    (Run('plain'), {'epsilon': 0.0}), (Run('AdvLSTM', 2.0), {'epsilon': 0.0}),
    (Run('ProxLSTM', 2.0), {'epsilon': 2.0}),
    (Run('ProxLSTM', 2.0, variant='dropout lstm_input 0.25'),
     {'epsilon': 2.0, 'dropout': {'lstm_input': 0.25}}),
    (Run('plain', variant='batch norm conv'), {'epsilon': 0.0, 'batch_norm': ['conv']})])
def test_model_arguments_are_those_of_data_options_and_variant(data, run, expected):
    common = {'input_size': 12, 'output_size': 9, 'hidden_size': 50, 'out_channels': 64,
              'kernel_size': 3, 'stride': 1}
    assert model_arguments(get_args([]), run, data[0]) == {**common, **expected}
