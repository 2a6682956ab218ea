import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import training
from Classifier import LSTMClassifier
from load_data import Batch, load_data
from ProxLSTM import ProxLSTMCell
from report import measure
from report.alternatives import ALTERNATIVES, fine_tune
from support.checkpoints import load_checkpoint, save_checkpoint
from support.options import CHOSEN_EPSILON
from support.sweep import Run


def test_proximal_steps_are_measured_as_the_cell_takes_them(tmp_path):
    """Against the cell that forms G, sequence by sequence."""
    torch.manual_seed(0)
    model, epsilon = LSTMClassifier(epsilon=3.0), 3.0
    torch.nn.init.normal_(model.lstm.weight_ih_l0, std=0.3)
    save_checkpoint(tmp_path / 'model.pt', {
        'arguments': {'epsilon': epsilon}, 'state_dict': model.state_dict(),
        'run': {'epsilon': epsilon, 'seed': 4}})
    train_set, _ = load_data()
    batch = Batch(*(x[:6] for x in train_set[0]))
    seen = measure.measure_proximal_steps(tmp_path / 'model.pt', [batch])

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


def test_a_mitigation_changes_what_it_names_and_nothing_else():
    record = {name: measure.train_long(name, 0, epochs=2) for name in measure.MITIGATIONS}
    plain = record.pop('as in training.py')
    averaged, schedule = record['weights averaged'], record['cosine schedule to 0']
    assert averaged['moved'] == plain['moved'] and averaged['loss'] != plain['loss']
    first = {name: x['loss'][0] for name, x in record.items()}
    assert first['cosine schedule to 0'] == plain['loss'][0] and schedule['loss'] != plain['loss']
    assert plain['loss'][0] not in (first['gradient clipped by norm (1), not value'],
                                    first['no weight decay'])


def checkpoint_of_a_base_model(path):
    torch.manual_seed(0)
    state = LSTMClassifier().state_dict()
    save_checkpoint(path, {'arguments': {}, 'state_dict': state, 'averaged': {
        key: 0 * value for key, value in state.items()}})
    return path


def test_a_run_is_evaluated_as_saved_or_trained_from_its_base(tmp_path):
    path = checkpoint_of_a_base_model(tmp_path / 'base.pt')
    run = Run('AdvLSTM', 1.0, seed=3, epochs=3)
    saved, trained = (measure.evaluate(run, path, train) for train in (False, True))
    for record in saved, trained:
        assert record | {'accuracy': 0, 'averaged_accuracy': 0} == {
            'mode': 'AdvLSTM', 'variant': '', 'epsilon': 1.0, 'seed': 3, 'epochs': 3,
            'accuracy': 0, 'averaged_accuracy': 0}
    assert saved['averaged_accuracy'] == 31 / 370  # with weights 0, every answer is class 0
    assert saved['accuracy'] < trained['accuracy'] != trained['averaged_accuracy']


def test_an_alternative_trains_as_training_does_but_for_its_loss(tmp_path, monkeypatch):
    """With AdvLSTM's loss it is AdvLSTM, bit for bit."""
    def adversarial_loss(model, batch, state):
        inputs, targets, lengths = batch
        loss = F.cross_entropy(model(inputs, lengths), targets)
        r = training.compute_perturbation(loss, model)
        return loss + F.cross_entropy(model(inputs, lengths, state.epsilon * r, 'AdvLSTM'), targets)

    base = load_checkpoint(checkpoint_of_a_base_model(tmp_path / 'base.pt'))
    monkeypatch.setitem(ALTERNATIVES, 'adversarial', ('AdvLSTM', adversarial_loss))
    models = fine_tune('adversarial', base, 3, 2)
    batches, _ = load_data()
    data = batches, batches[:1], torch.zeros(27, dtype=bool)
    run = Run('AdvLSTM', CHOSEN_EPSILON['AdvLSTM'], 3, epochs=2)
    expected = training.train(run, training.get_args([]), data, base)
    for model, key in zip(models, ('state_dict', 'averaged'), strict=True):
        assert all(torch.equal(value, expected[key][name])
                   for name, value in model.state_dict().items())


def alternative(name, monkeypatch, seed=0, **state):
    """Return what one evaluation of an alternative's loss passes to the model, and the loss."""
    torch.manual_seed(1)
    model, (batch, *_) = LSTMClassifier().train(), load_data()[0]
    torch.manual_seed(seed)
    calls, forward = [], model.forward

    def record(inputs, lengths, r=0, mode='plain', epsilon=None):
        logits = forward(inputs, lengths, r, mode, epsilon)
        calls.append(SimpleNamespace(inputs=inputs, lengths=lengths, r=r, mode=mode,
                                     epsilon=epsilon, logits=logits))
        return logits

    monkeypatch.setattr(model, 'forward', record)
    _, loss = ALTERNATIVES[name]
    return batch, calls, loss(model, batch, SimpleNamespace(**state))


def test_noise_has_the_norm_and_the_steps_of_r_and_a_random_direction(monkeypatch):
    batch, (_, perturbed), loss = alternative('noise', monkeypatch, epsilon=2.0)
    norms = perturbed.r.flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.full_like(norms, 2.0))
    steps = torch.arange(perturbed.r.shape[1])
    assert torch.equal(perturbed.r.ne(0).any(2), steps < (batch.lengths - 2)[:, None])
    same, other = (alternative('noise', monkeypatch, seed, epsilon=2.0)[1][1] for seed in (0, 1))
    assert torch.equal(perturbed.r, same.r)
    assert F.cosine_similarity(perturbed.r.flatten(1), other.r.flatten(1)).abs().max() < 0.2
    assert loss > F.cross_entropy(perturbed.logits, batch.targets)


def test_augmentation_counts_two_different_copies_of_every_sequence(monkeypatch):
    batch, copies, loss = alternative('augmentation', monkeypatch, deviation=np.ones(12),
                                      generator=np.random.default_rng(0))
    assert [len(copy.inputs) for copy in copies] == [27, 27]
    assert not torch.equal(copies[0].inputs, copies[1].inputs)
    assert all(copy.lengths.max() <= batch.lengths.max() for copy in copies)
    assert 3 < loss < 6  # twice log(9) for random weights


@pytest.mark.parametrize('left, epsilon', [(0.99, 6.0), (0.34, 6.0), (1 / 6, 3.0), (0, 0)])
def test_epsilon_is_annealed_over_the_last_third(monkeypatch, left, epsilon):
    _, (call,), _ = alternative('annealed', monkeypatch, epsilon=6.0, left=left)
    assert (call.mode, call.epsilon) == ('ProxLSTM', pytest.approx(epsilon))


def test_the_parts_write_results_of_what_the_sweeps_saved(tmp_path, monkeypatch):
    """In one epoch, in this process, which is quicker."""
    tiny = ['--first-seed', '7', '--epochs', '1', '--adv-epsilons', '1', '--jobs', '1', '--dropout',
            '--hidden-size', '8', '--out-channels', '8']
    monkeypatch.setattr(measure, 'OUTPUT', tmp_path)
    monkeypatch.setattr(measure, 'RESULTS', tmp_path)
    monkeypatch.setattr(measure, 'PARTS', {'sweep': measure.sweep, 'inside': measure.inside})
    monkeypatch.setattr(measure, 'SWEEP', [*tiny, '--seeds', '2', '--prox-epsilons', '1',
                                           '--batch-norm'])
    monkeypatch.setattr(measure, 'WIDE_SWEEP', [*tiny, '--seeds', '1', '--prox-epsilons', '1', '3',
                                                '--batch-norm', 'conv'])
    monkeypatch.setattr(measure.joblib, 'cpu_count', lambda: 1)
    measure.main(measure.get_args([]))
    inside = json.loads((tmp_path / 'inside.json').read_text())
    chosen = CHOSEN_EPSILON['ProxLSTM']
    assert inside['part'] == 'inside' and [r['epsilon'] for r in inside['runs']] == [
        0, 0, 1, 1, chosen, chosen, 3]
    runs = json.loads((tmp_path / 'results.json').read_text())['runs']
    assert len(runs) == len(set(map(measure.key_of, runs))) == 2 + 2 * 3 + 2 * 3 + 1 + 3
    (tmp_path / 'checkpoints' / 'base_seed8.pt').unlink()
    with pytest.raises(ValueError, match='base_seed8.pt: missing, python -m report.measure sweep'):
        measure.uci()
