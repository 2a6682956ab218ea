import json

import numpy as np
import pytest
import torch

from Classifier import LSTMClassifier
from load_data import Batch, load_data
from ProxLSTM import ProxLSTMCell
from report import measure
from support.checkpoints import save_checkpoint
from support.sweep import Run


def test_the_look_inside_sees_what_the_cell_does(tmp_path):
    """Against the cell that forms G, sequence by sequence."""
    torch.manual_seed(0)
    model, epsilon = LSTMClassifier(epsilon=3.0), 3.0
    torch.nn.init.normal_(model.lstm.weight_ih_l0, std=0.3)
    save_checkpoint(tmp_path / 'model.pt', {
        'arguments': {'epsilon': epsilon}, 'state_dict': model.state_dict(),
        'run': {'epsilon': epsilon, 'seed': 4}})
    train_set, _ = load_data()
    batch = Batch(*(x[:6] for x in train_set[0]))
    seen = measure.look_inside(tmp_path / 'model.pt', [batch])

    cell = ProxLSTMCell(64, 50, epsilon=epsilon)
    cell.load_state_dict({key.removesuffix('_l0'): value
                          for key, value in model.lstm.state_dict().items()})
    moved, largest = [], []
    for x, n in zip(batch.inputs, batch.lengths):
        x = torch.nn.functional.normalize(x[:n], dim=1)
        v = torch.relu(model.conv(x.T[None]))[0].T.detach()
        h, c = torch.zeros(2, 1, 50)
        for step in v[:-1]:
            def s(v):
                return torch.lstm_cell(v[None], (h, c), *cell.parameters())[1][0]

            G = torch.autograd.functional.jacobian(s, step)
            largest.append(torch.linalg.matrix_norm(G, 2).item() ** 2)
            proposed, (h_next, c_next) = s(step), cell(step[None], (h, c))
            moved.append(((c_next[0] - proposed).norm() / proposed.norm()).item())
            h, c = h_next.detach(), c_next.detach()
    assert seen['moved'] == pytest.approx(np.mean(moved), rel=1e-3)
    assert seen['lambda_max'] == pytest.approx(np.mean(largest), rel=1e-3)
    assert seen['seed'] == 4 and 2 <= seen['iterations'] <= 20


def test_a_cure_changes_what_it_names_and_nothing_else():
    record = {cure: measure.train_long(cure, 0, epochs=2) for cure in measure.CURES}
    plain = record.pop('as in training.py')
    averaged, schedule = record['weights averaged'], record['cosine schedule to 0']
    assert averaged['moved'] == plain['moved'] and averaged['loss'] != plain['loss']
    first = {cure: x['loss'][0] for cure, x in record.items()}
    assert first['cosine schedule to 0'] == plain['loss'][0] and schedule['loss'] != plain['loss']
    assert plain['loss'][0] not in (first['gradient clipped by norm, to 1'],
                                    first['no weight decay'])


def test_a_run_is_evaluated_as_saved_or_trained_from_its_base(tmp_path):
    torch.manual_seed(0)
    model = LSTMClassifier()
    save_checkpoint(tmp_path / 'base.pt', {'arguments': {}, 'state_dict': model.state_dict()})
    run = Run('AdvLSTM', 1.0, seed=3, epochs=3)
    saved = measure.evaluate(run, tmp_path / 'base.pt')
    trained = measure.evaluate(run, tmp_path / 'base.pt', train=True)
    assert saved | {'accuracy': 0} == trained | {'accuracy': 0} == {
        'mode': 'AdvLSTM', 'variant': '', 'epsilon': 1.0, 'seed': 3, 'epochs': 3, 'accuracy': 0}
    assert saved['accuracy'] < trained['accuracy']


def test_the_parts_write_results_of_what_the_sweep_saved(tmp_path, monkeypatch):
    """In one epoch, in this process, which is quicker."""
    monkeypatch.setattr(measure, 'OUTPUT', tmp_path)
    monkeypatch.setattr(measure, 'RESULTS', tmp_path)
    monkeypatch.setattr(measure, 'PARTS', {'sweep': measure.sweep, 'inside': measure.inside})
    monkeypatch.setattr(measure, 'SWEEP', ['--seeds', '1', '--epochs', '1', '--adv-epsilons', '1',
                                           '--prox-epsilons', '1', '--dropout', '--batch-norm',
                                           '--jobs', '1'])
    monkeypatch.setattr(measure.joblib, 'cpu_count', lambda: 1)
    with pytest.raises(ValueError, match='python -m report.measure sweep writes it'):
        measure.inside()
    measure.main(measure.get_args([]))
    inside = json.loads((tmp_path / 'inside.json').read_text())
    assert inside['part'] == 'inside' and [r['epsilon'] for r in inside['runs']] == [0, 1, 5]
    assert len(json.loads((tmp_path / 'results.json').read_text())['runs']) == 7
