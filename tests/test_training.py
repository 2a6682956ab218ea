"""The adversarial losses, the epoch functions, cross-validation, and `python training.py` as a user runs it.

    python -m pytest tests/test_training.py
"""

import copy
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import runs as runs_module
import training
from Classifier import LSTMClassifier
from load_data import load_data
from runs import HISTORY, Runs
from training import compute_perturbation, eval_model, train_model, train_run

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def data():
    return load_data(ROOT / 'data' / 'JV_data.mat')


def make(**arguments):
    torch.manual_seed(0)
    return LSTMClassifier(**arguments)


def program(*arguments, **kwargs):
    return subprocess.run([sys.executable, ROOT / 'training.py', *map(str, arguments)], capture_output=True, text=True,
                          **kwargs)


@pytest.fixture
def refused(finished, capsys):
    """A function: the program on these arguments, in this process because it ends, with status 2, before any training."""
    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            finished(*arguments)
        assert end.value.code == 2
        return capsys.readouterr().err

    return run


# ------------------------------------------------------------------------------------------------ the losses

def test_perturbation_is_each_sequences_unit_gradient(data):
    model, (inputs, targets, lengths) = make(), data[0][3]
    loss = F.cross_entropy(model(inputs, lengths), targets)
    r = compute_perturbation(loss, model)
    assert r.shape == model.v.shape and not r.requires_grad
    torch.testing.assert_close(r.flatten(1).norm(dim=1), torch.ones(len(r)))
    for i in (0, 20):  # the same direction as the gradient of that sequence's own loss, computed alone
        n = lengths[i]
        alone = F.cross_entropy(model(inputs[i:i + 1, :n], lengths[i:i + 1]), targets[i:i + 1])
        g, = torch.autograd.grad(alone, model.v)
        torch.testing.assert_close(r[i, :n - 2], g[0] / g.norm(), rtol=1e-3, atol=1e-5)
        assert not r[i, n - 2:].any()


def test_perturbation_leads_uphill(data):
    model, (inputs, targets, lengths) = make(), data[0][3]

    def losses(r):
        return F.cross_entropy(model(inputs, lengths, r=r, mode='AdvLSTM'), targets, reduction='none')

    before = losses(0)
    r = compute_perturbation(before.mean(), model)
    assert (losses(0.1 * r) > before).all() and (losses(-0.1 * r) < before).all()


@pytest.mark.parametrize('size', [1e-30, 1e30])
def test_perturbation_of_a_tiny_or_huge_gradient_still_has_norm_one_and_of_none_is_zero(size):
    class Model:
        v = torch.ones(3, 4, 5, requires_grad=True)

    factors = torch.tensor([1.0, size, 0.0])
    loss = (Model.v.sum(dim=(1, 2)) * factors).sum()
    norms = compute_perturbation(loss, Model).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.tensor([1.0, 1.0, 0.0]))


@pytest.mark.parametrize('mode, epsilon', [('plain', None), ('AdvLSTM', 2.0), ('ProxLSTM', 2.0)])
def test_one_step_follows_the_gradient_of_the_modes_own_loss(data, mode, epsilon):
    """With SGD and no clipping the step is −lr times the gradient of F(v), or of F(v) + F(v + εr) with r constant."""
    batch = data[0][3]
    inputs, targets, lengths = batch
    model = make(epsilon=epsilon or 1.0)
    reference = copy.deepcopy(model)
    train_model(model, [batch], torch.optim.SGD(model.parameters(), lr=0.1), mode, epsilon, clip_value=1e9)

    if mode == 'AdvLSTM':
        clean = F.cross_entropy(reference(inputs, lengths), targets)
        g, = torch.autograd.grad(clean, reference.v, retain_graph=True)
        r = g / g.flatten(1).norm(dim=1)[:, None, None]
        loss = clean + F.cross_entropy(reference(inputs, lengths, r=epsilon * r, mode=mode), targets)
    else:
        loss = F.cross_entropy(reference(inputs, lengths, mode=mode), targets)
    loss.backward()
    for (name, trained), start in zip(model.named_parameters(), reference.parameters()):
        torch.testing.assert_close(trained, start - 0.1 * start.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_gradients_are_clipped_by_value(data):
    model = make()
    start = copy.deepcopy(model)
    train_model(model, data[0][:1], torch.optim.SGD(model.parameters(), lr=1.0), clip_value=1e-4)
    steps = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), start.parameters())]).abs()
    assert steps.max().item() == pytest.approx(1e-4, rel=0.01)


def test_loss_and_accuracy_count_sequences_not_batches(data):
    """A batch of 1 beside one of 27 must weigh one twenty-eighth."""
    full = data[0][5]
    single = type(full)(*(x[:1] for x in data[0][9]))
    model = make()
    frozen = torch.optim.SGD(model.parameters(), lr=0.0)
    train_loss, train_accuracy = train_model(model, [full, single], frozen)
    loss, accuracy, correct = eval_model(model, [full, single])
    losses = [F.cross_entropy(model(b.inputs, b.lengths), b.targets, reduction='sum') for b in (full, single)]
    expected = sum(losses).item() / 28
    assert loss == pytest.approx(expected, rel=1e-5) and train_loss == pytest.approx(expected, rel=1e-5)
    assert accuracy == train_accuracy == correct.sum().item() / 28 and correct.shape == (28,)


# ------------------------------------------------------------------------------------------------ a run

def run_arguments(data, **changes):
    train, test = data
    arguments = {'mode': 'ProxLSTM', 'epsilon': 1.0, 'seed': 3, 'variant': '',
                 'model_arguments': {'dropout': {'lstm_input': 0.5}},
                 'hyperparameters': {'epochs': 2, 'batch_size': 27, 'lr': 1e-3, 'weight_decay': 1e-3, 'clip_value': 0.1},
                 'state': None, 'train': train[:2], 'test': test[:2], 'unseen': torch.arange(54) >= 40, 'device': 'cpu'}
    return {**arguments, **changes}


def test_a_run_is_a_function_of_its_arguments(data):
    a, b = (train_run(**run_arguments(data)) for _ in range(2))
    assert a['run']['history'] == b['run']['history']
    assert all(torch.equal(x, y) for x, y in zip(a['state_dict'].values(), b['state_dict'].values()))
    assert train_run(**run_arguments(data, seed=4))['run']['history'] != a['run']['history']


@pytest.mark.parametrize('mode, variant', [('ProxLSTM', {'dropout': {'lstm_input': 0.5}}), ('AdvLSTM', {}),
                                           ('plain', {'batch_norm': ['conv'], 'dropout': {'input': 0.3}})])
def test_a_run_in_parts_is_the_run_in_one_go(data, mode, variant):
    """Weights, optimiser, generator and history go through the file between the parts."""
    arguments = run_arguments(data, mode=mode, epsilon=0.0 if mode == 'plain' else 1.0, model_arguments=variant,
                              hyperparameters={'epochs': 5, 'batch_size': 27, 'lr': 1e-2, 'weight_decay': 1e-3,
                                               'clip_value': 0.1})
    whole, part, parts = train_run(**arguments), None, []
    for _ in range(3):
        part = train_run(**arguments, saved=part, epochs=2)
        buffer = io.BytesIO()
        torch.save(part, buffer)
        part = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
        parts.append(len(part['run']['history']['train_loss']))
    assert parts == [2, 4, 5] and part['run']['history'] == whole['run']['history']
    assert part.keys() == whole.keys() == {'arguments', 'state_dict', 'run'}
    assert all(torch.equal(x, y) for x, y in zip(part['state_dict'].values(), whole['state_dict'].values(), strict=True))


def test_a_run_ends_where_its_loss_is_not_finite(data):
    broken = make(output_size=9).state_dict()
    broken['linear.bias'][3] = float('nan')
    run = train_run(**run_arguments(data, state=broken))['run']
    assert run['diverged'] == 1 and run['history'] == dict.fromkeys(run['history'], [])


def test_a_run_leaves_the_callers_random_numbers_alone(data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_run(**run_arguments(data))
    assert torch.equal(torch.rand(3), expected)


def test_a_run_starts_from_the_given_state_and_refuses_another_shape(data):
    base = make(output_size=9).state_dict()
    checkpoint = train_run(**run_arguments(data, state=base, hyperparameters={
        'epochs': 1, 'batch_size': 27, 'lr': 1e-12, 'weight_decay': 0.0, 'clip_value': 0.1}))
    for name, start in base.items():
        torch.testing.assert_close(checkpoint['state_dict'][name], start, rtol=0, atol=1e-9)
    with pytest.raises(RuntimeError, match='Missing key'):
        train_run(**run_arguments(data, state=base, model_arguments={'batch_norm': ['conv']}))


def test_unseen_accuracy_is_that_of_the_marked_sequences(data):
    checkpoint = train_run(**run_arguments(data))
    run = checkpoint['run']
    model = LSTMClassifier(**checkpoint['arguments'])
    model.load_state_dict(checkpoint['state_dict'])
    _, accuracy, correct = eval_model(model, data[1][:2], 'ProxLSTM')
    assert run['history']['test_accuracy'][-1] == accuracy
    assert run['history']['unseen_accuracy'][-1] == correct[40:].double().mean().item()


class Recorder(Runs):
    """Runs that are not carried out: each leaves a mark in place of its weights."""

    def __init__(self, folder, diverged=()):
        super().__init__(folder, {})
        self.tasks, self.diverged = [], diverged

    def carry_out(self, advance, tasks, description):
        self.tasks.append(list(tasks.values()))
        for n, (name, task) in enumerate(tasks.items()):
            length = 0 if name in self.diverged else task['hyperparameters']['epochs']
            run = {key: task[key] for key in ('mode', 'epsilon', 'seed', 'variant', 'hyperparameters')} | {
                'history': {key: [0.5] * length for key in HISTORY}, 'seconds': 0.0,
                'diverged': 1 if name in self.diverged else None}
            self.save(name, {'arguments': {}, 'state_dict': {'mark': torch.tensor([n, task['seed']])}, 'run': run})
            self.entries[name] = run
        return [self.entries[name] for name in tasks]


def test_adv_and_prox_start_from_the_saved_base_of_their_seed_and_variant(data, tmp_path):
    """Reloaded from the file, dropout variants from the plain base, batch normalisation from a base of its own."""
    runs = Recorder(tmp_path)
    _, args = training.get_args(['--seeds', '2'])
    training.assignment(args, *data, runs)
    bases, others = runs.tasks
    dropout, norm = 'dropout lstm_input 0.5', 'batch norm conv'
    assert {(task['mode'], task['variant'], task['seed']) for task in bases} == {
        ('plain', v, s) for v in ('', norm) for s in (0, 1)}
    assert all(task['state'] is None for task in bases)
    for task in others:
        seed = task['seed']
        base = torch.load(tmp_path / f'base{"_batch-norm-conv" if task["variant"] == norm else ""}_seed{seed}.pt',
                          weights_only=True)['state_dict']['mark']
        assert base[1] == seed and torch.equal(task['state']['mark'], base)
    started = {(task['mode'], task['variant'], task['seed']) for task in others}
    assert ('AdvLSTM', '', 1) in started and ('ProxLSTM', dropout, 0) in started


def test_other_epsilons_are_swept_with_their_control_and_the_best_for_its_epochs(data, tmp_path):
    runs = Recorder(tmp_path)
    _, args = training.get_args(['--seeds', '1', '--adv-epsilons', '3', '0.2', '--prox-epsilons', '7', '--dropout',
                                 '--batch-norm'])
    training.assignment(args, *data, runs)
    assert [(task['mode'], task['epsilon'], task['hyperparameters']['epochs']) for task in runs.tasks[1]] == [
        ('AdvLSTM', 0.0, 100), ('AdvLSTM', 0.2, 50), ('AdvLSTM', 3.0, 50), ('AdvLSTM', 5.0, 100),
        ('ProxLSTM', 0.0, 100), ('ProxLSTM', 5.0, 100), ('ProxLSTM', 7.0, 100)]


def test_what_would_start_from_a_diverged_base_is_marked_and_the_rest_goes_on(data, tmp_path, capsys):
    runs = Recorder(tmp_path, diverged=['base_seed1'])
    _, args = training.get_args(['--seeds', '2', '--dropout', '--batch-norm'])
    entries = training.assignment(args, *data, runs)
    assert {task['seed'] for task in runs.tasks[1]} == {0}
    assert {run['diverged'] for run in entries if run['seed'] == 0} == {None}
    assert {run['diverged'] for run in entries if run['seed'] == 1 and run['mode'] != 'plain'} == {0}
    assert 'AdvLSTM, epsilon 1, seed 1: not begun' in capsys.readouterr().err
    table = training.closing_table(entries)
    assert table.count('| 50.0, 1 of 2 diverged | 50.0 |') == 10 and table.count('+0.0 |') == 7
    training.plot_runs(tmp_path, args, entries, unseen_differs=True)
    (tmp_path / 'results.json').write_bytes(training.results_json({}, entries))
    assert runs_module.read_results(tmp_path / 'results.json')[1] == entries


def test_a_run_whose_test_set_is_all_training_has_no_unseen_accuracy(data):
    run = train_run(**run_arguments(data, unseen=torch.zeros(54, dtype=torch.bool)))['run']
    assert run['history']['unseen_accuracy'] == [None, None]
    assert '| 100.0 |  |  |' in training.closing_table([{**run, 'epsilon': 0.0, 'history': {
        **run['history'], 'test_accuracy': [1.0, 1.0]}}])


def test_train_model_refuses_an_epsilon_that_it_would_ignore_or_lacks(data):
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="epsilon is for mode 'ProxLSTM'"):
        train_model(model, data[0][:1], optimizer, 'plain', 0.5)
    with pytest.raises(ValueError, match="'AdvLSTM' needs an epsilon"):
        train_model(model, data[0][:1], optimizer, 'AdvLSTM')


# ------------------------------------------------------------------------------------------------ cross-validation

def test_folds_are_stratified_disjoint_and_cover_the_training_set(data, tmp_path):
    runs = Recorder(tmp_path)
    _, args = training.get_args(['--tune', 'adv', '--grid', '1', '0', '--repeats', '2'])
    records = training.tune(args, 'AdvLSTM', data[0], runs)
    bases, swept = runs.tasks
    assert len(bases) == 10 and len(swept) == len(records) == 20
    assert all(torch.equal(task['state']['mark'], torch.tensor([task['seed']] * 2)) for task in swept)
    whole = sorted(x.tobytes() for x in training.sequences_of(data[0]))
    for repeat in range(2):
        held_out = [training.sequences_of(task['test']) for task in bases[5 * repeat:5 * repeat + 5]]
        assert sorted(x.tobytes() for fold in held_out for x in fold) == whole
        for task, fold in zip(bases[5 * repeat:5 * repeat + 5], held_out):
            trained = {x.tobytes() for x in training.sequences_of(task['train'])}
            assert len(trained) == 216 and not trained & {x.tobytes() for x in fold}
            assert torch.cat([b.targets for b in task['test']]).bincount().tolist() == [6] * 9


def test_tuning_table_names_the_best_mean_and_pairs_by_fold():
    records = [{'epsilon': e, 'repeat': 0, 'fold': fold, 'accuracy': a}
               for e, values in {0: (0.8, 0.9), 1: (0.85, 0.97), 2: (0.99, None)}.items() for fold, a in enumerate(values)]
    table, best = training.tuning_table(records[:2] + records[:1:-1])
    assert best == 1 and '| 1 (best) | 91.0 ± 8.5 | +6.00 ± 1.00 |' in table
    assert '| 2 | 99.0, 1 of 2 diverged | +19.00 ± nan |' in table


def test_closing_table_compares_with_the_control_at_the_same_epoch_and_seed():
    def run(epsilon, seed, accuracies, diverged=None):
        return {'mode': 'AdvLSTM', 'epsilon': epsilon, 'seed': seed, 'variant': '', 'diverged': diverged,
                'hyperparameters': {'epochs': 2 if epsilon else 3},
                'history': {'test_accuracy': accuracies, 'unseen_accuracy': accuracies}}

    runs = [run(0.0, 0, [0.5, 0.6, 0.1]), run(0.0, 1, [0.5, 0.7, 0.1]), run(1.0, 1, [0.5, 0.8]), run(1.0, 0, [0.5, 0.9])]
    assert '| AdvLSTM | 1 | 2 | 85.0 ± 7.1 | 85.0 ± 7.1 | +20.0 ± 14.1 |' in training.closing_table(runs)
    runs[2] = run(1.0, 1, [], diverged=1)
    assert '| AdvLSTM | 1 | 2 | 90.0, 1 of 2 diverged | 90.0 | +30.0 |' in training.closing_table(runs)
    runs[3] = run(1.0, 0, [0.9], diverged=2)
    assert '| AdvLSTM | 1 | 2 | 2 of 2 diverged |  |  |' in training.closing_table(runs)
    runs[0], runs[2] = run(0.0, 0, [], diverged=1), run(1.0, 1, [0.5, 0.8])  # a control that diverged is compared with none
    assert '| AdvLSTM | 1 | 2 | 80.0, 1 of 2 diverged | 80.0 | +10.0 |' in training.closing_table(runs)
    runs[3] = run(1.0, 0, [0.5, 0.9])
    assert '| AdvLSTM | 1 | 2 | 85.0 ± 7.1 | 85.0 ± 7.1 | +10.0 |' in training.closing_table(runs)


# ------------------------------------------------------------------------------------------------ the program

@pytest.fixture(scope='module')
def dry_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('dry')
    done = program('--dry-run', '--seeds', 2, '--output-dir', folder, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


def test_dry_run_leaves_every_output(dry_run):
    folder, done = dry_run
    assert {path.name for path in (folder / 'plots').iterdir()} == {
        'base.png', 'AdvLSTM.png', 'ProxLSTM.png', 'dropout_batch_norm.png', 'results.json'}
    assert all(path.read_bytes().startswith(b'\x89PNG') for path in (folder / 'plots').glob('*.png'))
    results = json.loads((folder / 'plots' / 'results.json').read_text())
    assert results['config']['epochs'] == 2 and results['config']['data'] == 'JV_data.mat'
    groups = {(run['mode'], run['epsilon'], run['variant']) for run in results['runs']}
    best_adv, best_prox = training.BEST_EPSILON['AdvLSTM'], training.BEST_EPSILON['ProxLSTM']
    dropout, norm = 'dropout lstm_input 0.5', 'batch norm conv'
    assert groups == {('plain', 0.0, ''), ('plain', 0.0, norm),
                      *(('AdvLSTM', e, '') for e in (0.0, 0.01, 0.1, 1.0, best_adv)),
                      *(('ProxLSTM', e, '') for e in (0.0, 0.1, 1.0, 5.0, best_prox)),
                      *(('ProxLSTM', e, v) for e in (0.0, best_prox) for v in (dropout, norm))}
    assert len(results['runs']) == 2 * len(groups) == len(list((folder / 'checkpoints').glob('*.pt')))
    for run in results['runs']:
        assert set(run) == {'mode', 'epsilon', 'seed', 'variant', 'hyperparameters', 'history', 'diverged',
                            'seconds'}
        assert {key: len(values) for key, values in run['history'].items()} == dict.fromkeys(
            ('train_loss', 'train_accuracy', 'test_accuracy', 'unseen_accuracy'), 2)
    assert training.closing_table(results['runs']) in done.stdout


def test_checkpoints_rebuild_the_models_and_their_figures(dry_run, data):
    folder, _ = dry_run
    best = training.BEST_EPSILON['ProxLSTM']
    results = json.loads((folder / 'plots' / 'results.json').read_text())
    for name, mode, epsilon, variant in (('base', 'plain', 0.0, ''),
                                         ('prox_epsilon5.0', 'ProxLSTM', 5.0, ''),
                                         (f'prox_epsilon{best}_batch-norm-conv', 'ProxLSTM', best, 'batch norm conv')):
        checkpoint = torch.load(folder / 'checkpoints' / f'{name}_seed1.pt', weights_only=True)
        model = LSTMClassifier(**checkpoint['arguments'])
        model.load_state_dict(checkpoint['state_dict'], strict=True)
        run, = (run for run in results['runs']
                if (run['mode'], run['epsilon'], run['variant'], run['seed']) == (mode, epsilon, variant, 1))
        assert eval_model(model, data[1], mode)[1] == pytest.approx(run['history']['test_accuracy'][-1], abs=1 / 300)


def test_other_data_and_one_job_give_the_same_shape_of_results(tmp_path, finished):
    """One feature, three classes, no leak: everything is taken from the file."""
    from scipy.io import savemat
    generator = np.random.default_rng(0)

    def sequences(labels):
        cells = np.empty((1, len(labels)), dtype=object)
        cells[0, :] = [np.sin(np.arange(generator.integers(8, 12)) * (k + 1))[:, None] + 0.1 * generator.random()
                       for k in labels]
        return cells

    labels = np.arange(30) % 3
    savemat(tmp_path / 'waves.mat', {'train_data': sequences(labels), 'train_label': labels + 1,
                                     'test_data': sequences(labels), 'test_label': labels + 1})
    out, _ = finished('--data', tmp_path / 'waves.mat', '--dry-run', '--seeds', 1, '--jobs', 1, '--output-dir', tmp_path)
    assert 'single feature' in out
    assert torch.load(tmp_path / 'checkpoints' / 'base_seed0.pt', weights_only=True)['arguments']['output_size'] == 3


@pytest.mark.parametrize('arguments', [
    ('--epochs', '0'), ('--seeds', 'two'), ('--adv-epsilon', '-1'), ('--prox-epsilon', 'nan'), ('--device', 'abacus'),
    ('--batch-norm', 'everywhere'), ('--dropout', 'lstm_input=1.5'), ('--tune', 'plain'), ('--grid', '1'),
    ('--tune', 'adv', '--folds', '1'),
    ('--scheduler', 'tcp://127.0.0.1:1')])
def test_bad_options_are_refused_by_name(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        training.get_args(arguments)
    assert exit.value.code == 2 and f'argument {arguments[-2]}' in capsys.readouterr().err


def test_more_folds_than_the_smallest_class_has_sequences_are_refused(tmp_path, refused):
    stderr = refused('--tune', 'adv', '--folds', 31, '--output-dir', tmp_path)
    assert '--folds is 31, but the smallest class has 30' in stderr


def test_bad_data_ends_with_one_sentence_and_touches_nothing(tmp_path, refused):
    (tmp_path / 'plots').mkdir()
    (tmp_path / 'plots' / 'results.json').write_text('kept')
    for path, message in ((tmp_path / 'no.mat', 'no such file'), (ROOT / 'README.md', 'not a MATLAB')):
        stderr = refused('--data', path, '--output-dir', tmp_path)
        assert stderr.startswith(f'{path}: ') and message in stderr and stderr.count('\n') == 1
    assert (tmp_path / 'plots' / 'results.json').read_text() == 'kept'


def test_batch_norm_of_a_single_value_is_refused_before_any_training(tmp_path, refused):
    stderr = refused('--batch-norm', 'output', '--batch-size', 269, '--dry-run', '--output-dir', tmp_path)
    assert '--batch-norm output needs two values' in stderr


@pytest.mark.skipif(os.name != 'posix', reason='a file in a folder\'s place, as POSIX reports it')
def test_unusable_output_folder_ends_with_one_sentence(tmp_path):
    (tmp_path / 'plots').write_text('a file, not a folder')
    done = program('--dry-run', '--output-dir', tmp_path)
    assert done.returncode == 2 and 'plots' in done.stderr and 'Traceback' not in done.stderr
