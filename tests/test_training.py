"""The adversarial losses, the epoch functions, one run, and `python training.py` as a user runs it.

    python -m pytest tests/test_training.py
"""

import copy
import io
import json
import os

import pytest
import torch
from torch.nn import functional as F

import training
from Classifier import LSTMClassifier
from support.figures import results_table
from support.options import ASSIGNMENT_EPSILONS, CHOSEN_EPSILON, get_args
from support.sweep import HISTORY, Run
from tests.helpers import ROOT, run_program, write_waves
from training import compute_perturbation, eval_model, train, train_model


def make(**arguments):
    torch.manual_seed(0)
    return LSTMClassifier(**arguments)


# ---------------------------------------------------------------------------------- the losses

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


# -------------------------------------------------------------------------------------- one run

def train_small(data, *options, start=None, saved=None, epochs_now=None,
                unseen=torch.arange(54) >= 40, **changes):
    """Train a run on two minibatches."""
    run = Run(**{'mode': 'ProxLSTM', 'epsilon': 1.0, 'seed': 3, 'variant': 'dropout lstm_input 0.5',
                 'epochs': 2, **changes})
    return train(run, get_args(list(options)), (data[0][:2], data[1][:2], unseen), start, saved,
                 epochs_now)


def same_weights(a, b, key='state_dict'):
    return all(torch.equal(x, y) for x, y in zip(a[key].values(), b[key].values(), strict=True))


def test_averaged_weights_are_the_moving_average_over_minibatches(data):
    """Recomputed from a run whose every minibatch is an epoch; batch norm's statistics likewise."""
    settings = {'mode': 'plain', 'epsilon': 0.0, 'variant': 'batch norm conv', 'epochs': 4}
    run, args = Run(seed=3, **settings), get_args(['--average-decay', '0.7', '--base-lr', '0.01'])
    batches = data[0][:1], data[1][:2], torch.arange(54) >= 40
    expected, saved = None, None
    for _ in range(4):
        saved = train(run, args, batches, saved=saved, epochs=1)
        weights = saved['state_dict']
        expected = weights if expected is None else {
            key: 0.7 * expected[key] + 0.3 * x if x.is_floating_point() else x
            for key, x in weights.items()}
    for key, x in saved['averaged'].items():
        if x.is_floating_point():
            torch.testing.assert_close(x, expected[key])
    assert not torch.allclose(saved['averaged']['conv.weight'], saved['state_dict']['conv.weight'])
    model = LSTMClassifier.from_checkpoint(saved, averaged=True)
    del saved['averaged']
    with pytest.raises(ValueError, match='has no averaged weights'):
        LSTMClassifier.from_checkpoint(saved, averaged=True)
    _, accuracy, correct = eval_model(model, data[1][:2])
    history = saved['run']['history']
    assert history['averaged_test_accuracy'][-1] == accuracy
    assert history['averaged_unseen_accuracy'][-1] == correct[40:].double().mean().item()


def test_averaging_changes_no_number_of_the_last_weights(data):
    a, b = (train_small(data, '--average-decay', decay) for decay in ('0.5', '0.99'))
    keys = 'train_loss', 'train_accuracy', 'test_accuracy', 'unseen_accuracy'
    assert same_weights(a, b) and not same_weights(a, b, 'averaged')
    assert all(a['run']['history'][key] == b['run']['history'][key] for key in keys)


def test_a_run_is_a_function_of_its_arguments(data):
    a, b = train_small(data), train_small(data)
    assert a['run']['history'] == b['run']['history'] and same_weights(a, b)
    assert train_small(data, seed=4)['run']['history'] != a['run']['history']


@pytest.mark.parametrize('mode, variant', [('ProxLSTM', 'dropout lstm_input 0.5'), ('AdvLSTM', ''),
                                           ('plain', 'batch norm conv')])
def test_a_run_in_parts_is_the_run_in_one_go(data, mode, variant):
    """Weights, optimizer, generator and history go through the file between the parts."""
    settings = {'mode': mode, 'variant': variant, 'epochs': 5, 'epsilon': float(mode != 'plain')}
    options = '--base-lr', '0.01', '--adv-lr', '0.01', '--prox-lr', '0.01'
    whole, part, parts = train_small(data, *options, **settings), None, []
    for _ in range(3):
        part = train_small(data, *options, **settings, saved=part, epochs_now=2)
        buffer = io.BytesIO()
        torch.save(part, buffer)
        part = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
        parts.append(len(part['run']['history']['train_loss']))
    assert parts == [2, 4, 5] and part['run']['history'] == whole['run']['history']
    assert part.keys() == whole.keys() == {'arguments', 'state_dict', 'averaged', 'run'}
    assert same_weights(part, whole) and same_weights(part, whole, 'averaged')


def test_a_run_ends_where_its_loss_is_not_finite(data):
    broken = make(output_size=9).state_dict()
    broken['linear.bias'][3] = float('nan')
    run = train_small(data, start={'state_dict': broken})['run']
    assert run['diverged'] == 1 and run['history'] == dict.fromkeys(run['history'], [])


def test_a_run_leaves_the_callers_random_numbers_alone(data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_small(data)
    assert torch.equal(torch.rand(3), expected)


def test_a_run_starts_from_the_given_weights_and_refuses_another_shape(data):
    base = {'state_dict': make(output_size=9).state_dict()}
    checkpoint = train_small(data, '--prox-lr', '1e-12', '--prox-weight-decay', '0', start=base, epochs=1)
    for name, start in base['state_dict'].items():
        torch.testing.assert_close(checkpoint['state_dict'][name], start, rtol=0, atol=1e-9)
    with pytest.raises(RuntimeError, match='Missing key'):
        train_small(data, start=base, variant='batch norm conv')


def test_unseen_accuracy_is_that_of_the_marked_sequences(data):
    checkpoint = train_small(data)
    history = checkpoint['run']['history']
    model = LSTMClassifier.from_checkpoint(checkpoint)
    _, accuracy, correct = eval_model(model, data[1][:2], 'ProxLSTM')
    assert history['test_accuracy'][-1] == accuracy
    assert history['unseen_accuracy'][-1] == correct[40:].double().mean().item()


def test_a_run_whose_test_set_is_all_training_has_no_unseen_accuracy(data):
    run = train_small(data, unseen=torch.zeros(54, dtype=torch.bool))['run']
    assert run['history']['unseen_accuracy'] == [None, None]
    run['history']['test_accuracy'] = [1.0, 1.0]
    assert '| 100.0 |  | ' in results_table([{**run, 'epsilon': 0.0}])


def test_train_model_refuses_an_epsilon_that_it_would_ignore_or_lacks(data):
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="epsilon is for mode 'ProxLSTM'"):
        train_model(model, data[0][:1], optimizer, 'plain', 0.5)
    with pytest.raises(ValueError, match="'AdvLSTM' needs an epsilon"):
        train_model(model, data[0][:1], optimizer, 'AdvLSTM')


# ---------------------------------------------------------------------------------- the sections

@pytest.fixture
def record_runs(monkeypatch, tmp_path):
    """A function: main() on these options, without training. Returns the runs, and what train() got.

    A run's weights are its number. `diverged` names runs whose loss is not finite.
    """
    def run_main(*options, diverged=()):
        runs, starts = [], {}

        def mark(run, args, data, start, saved, epochs):
            runs.append(run)
            starts[run] = start and start['state_dict']['mark'].item()
            length = 0 if run.name in diverged else run.epochs
            return {'arguments': {}, 'state_dict': {'mark': torch.tensor(len(runs))}, 'run': {
                'mode': run.mode, 'epsilon': run.epsilon, 'seed': run.seed, 'variant': run.variant,
                'hyperparameters': {'epochs': run.epochs}, 'seconds': 0.0,
                'diverged': None if length else 1,
                'history': {key: [0.5] * length for key in HISTORY}}}

        monkeypatch.setattr(training, 'train', mark)
        monkeypatch.setattr(training, 'plot_runs', lambda *_: None)
        training.main(get_args(['--output-dir', str(tmp_path), '--jobs', '1', *options]))
        return runs, starts

    return run_main


def test_adv_and_prox_start_from_the_saved_base_model_of_their_seed_and_variant(record_runs):
    """Dropout variants from the plain base model, batch normalization from one of its own."""
    runs, starts = record_runs('--seeds', '2')
    dropout, norm = 'dropout lstm_input 0.5', 'batch norm conv'
    bases = {run: runs.index(run) + 1 for run in runs if run.mode == 'plain'}
    assert {(run.variant, run.seed) for run in bases} == {(v, s) for v in ('', norm) for s in (0, 1)}
    assert all(starts[run] is None for run in bases)
    for run in runs:
        if run.mode != 'plain':
            base, = (x for x in bases if x.seed == run.seed
                     and x.variant == (norm if run.variant == norm else ''))
            assert starts[run] == bases[base]
    started = {(run.mode, run.variant, run.seed) for run in runs}
    assert ('AdvLSTM', '', 1) in started and ('ProxLSTM', dropout, 0) in started


def test_the_seeds_begin_with_the_first_one(record_runs):
    runs, _ = record_runs('--seeds', '2', '--first-seed', '100')
    assert {run.seed for run in runs} == {100, 101}


def test_other_epsilons_are_swept_with_their_control_and_the_chosen_one(record_runs):
    runs, _ = record_runs('--seeds', '1', '--adv-epsilons', '3', '0.2', '--prox-epsilons', '7',
                          '--dropout', '--batch-norm')
    assert {(run.mode, run.epsilon, run.epochs) for run in runs} == {
        ('plain', 0.0, 100), ('AdvLSTM', 0.0, 100), ('AdvLSTM', 0.2, 50), ('AdvLSTM', 3.0, 50),
        ('AdvLSTM', 2.0, 100), ('ProxLSTM', 0.0, 100), ('ProxLSTM', 2.0, 100), ('ProxLSTM', 7.0, 100)}


def test_runs_of_a_diverged_base_model_are_marked_and_the_others_finish(record_runs, tmp_path, capsys):
    runs, _ = record_runs('--seeds', '2', '--dropout', '--batch-norm', diverged=['base_seed1'])
    assert {run.seed for run in runs if run.mode != 'plain'} == {0}
    entries = json.loads((tmp_path / 'plots' / 'results.json').read_text())['runs']
    assert {run['diverged'] for run in entries if run['seed'] == 0} == {None}
    assert {run['diverged'] for run in entries if run['seed'] == 1 and run['mode'] != 'plain'} == {0}
    out, err = capsys.readouterr()
    assert 'AdvLSTM, epsilon 1, seed 1: not trained, because its base model diverged' in err
    assert out.count('| 50.0, 1 of 2 diverged | 50.0 | 50.0 |') == 11 and out.count('+0.0 |') == 8


# ----------------------------------------------------------------------------------- the program

@pytest.fixture(scope='module')
def dry_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('dry')
    done = run_program(['--dry-run', '--seeds', 1, '--jobs', 1, '--hidden-size', 8], folder,
                       cwd=folder, encoding='cp1252',
                       env={**os.environ, 'PYTHONIOENCODING': 'cp1252'})
    assert done.returncode == 0, done.stderr
    return folder, done


def test_dry_run_writes_every_output(dry_run):
    folder, done = dry_run
    assert {path.name for path in (folder / 'plots').iterdir()} == {
        'base.png', 'AdvLSTM.png', 'ProxLSTM.png', 'dropout_batch_norm.png', 'results.json'}
    assert all(path.read_bytes().startswith(b'\x89PNG') for path in (folder / 'plots').glob('*.png'))
    results = json.loads((folder / 'plots' / 'results.json').read_text())
    assert results['config']['epochs'] == 2 and results['config']['data'] == 'JV_data.mat'
    groups = {(run['mode'], run['epsilon'], run['variant']) for run in results['runs']}
    chosen, dropout, norm = CHOSEN_EPSILON, 'dropout lstm_input 0.5', 'batch norm conv'
    assert groups == {('plain', 0.0, ''), ('plain', 0.0, norm),
                      *((mode, epsilon, '') for mode in chosen
                        for epsilon in (0.0, *ASSIGNMENT_EPSILONS[mode], chosen[mode])),
                      *(('ProxLSTM', epsilon, variant) for epsilon in (0.0, chosen['ProxLSTM'])
                        for variant in (dropout, norm))}
    assert len(results['runs']) == len(groups) == len(list((folder / 'checkpoints').glob('*.pt')))
    for run in results['runs']:
        assert set(run) == {'mode', 'epsilon', 'seed', 'variant', 'hyperparameters', 'history',
                            'diverged', 'seconds'}
        assert {key: len(values) for key, values in run['history'].items()} == dict.fromkeys(
            ('train_loss', 'train_accuracy', 'test_accuracy', 'unseen_accuracy',
             'averaged_test_accuracy', 'averaged_unseen_accuracy'), 2)


def test_a_console_that_is_not_utf_8_gets_the_table_with_a_question_mark(dry_run):
    folder, done = dry_run
    runs = json.loads((folder / 'plots' / 'results.json').read_text())['runs']
    table = results_table(runs).encode('cp1252', 'replace').decode('cp1252')
    assert '| ? |' in table and table in done.stdout


def test_progress_in_a_log_file_is_a_few_lines(dry_run):
    _, done = dry_run
    assert 5 <= len(done.stderr.splitlines()) <= 15 and '\r' not in done.stderr
    assert 'Adv_model: 10/10 epochs' in done.stderr


def test_checkpoints_rebuild_the_models_and_their_accuracy(dry_run, data):
    folder, _ = dry_run
    runs = json.loads((folder / 'plots' / 'results.json').read_text())['runs']
    for run in (Run('plain'), Run('ProxLSTM', 2.0), Run('ProxLSTM', 2.0, 0, 'batch norm conv')):
        model = LSTMClassifier.from_checkpoint(folder / 'checkpoints' / f'{run.name}.pt')
        entry, = (x for x in runs if (x['mode'], x['epsilon'], x['variant'], x['seed'])
                  == (run.mode, run.epsilon, run.variant, run.seed))
        accuracy = eval_model(model, data[1], run.mode)[1]
        assert accuracy == pytest.approx(entry['history']['test_accuracy'][-1], abs=1 / 300)


FEW_RUNS = ('--dry-run', '--seeds', '1', '--jobs', '1', '--adv-epsilons', '2',
            '--prox-epsilons', '5', '--dropout', '--batch-norm')


def test_data_of_one_feature_and_labels_counted_from_1(tmp_path, capsys):
    path = write_waves(tmp_path / 'waves.mat', features=1, first_label=1)
    training.main(get_args([*FEW_RUNS, '--data', str(path), '--output-dir', str(tmp_path)]))
    assert 'single feature' in capsys.readouterr().out
    checkpoint = torch.load(tmp_path / 'checkpoints' / 'base_seed0.pt', weights_only=True)
    assert checkpoint['arguments']['output_size'] == 3


def test_divergence_is_reported_in_the_log_the_results_and_the_table(tmp_path, capsys):
    path = write_waves(tmp_path / 'waves.mat')
    training.main(get_args([*FEW_RUNS, '--data', str(path), '--output-dir', str(tmp_path),
                            '--prox-lr', '1e30']))
    entries = json.loads((tmp_path / 'plots' / 'results.json').read_text())['runs']
    assert {run['diverged'] is None for run in entries if run['mode'] == 'AdvLSTM'} == {True}
    assert all(run['diverged'] for run in entries if run['mode'] == 'ProxLSTM')
    out, err = capsys.readouterr()
    assert 'ProxLSTM, epsilon 5, seed 0: the loss was not finite in epoch' in err
    assert '| ProxLSTM | 5 | 2 | 1 of 1 diverged |' in out


@pytest.mark.filterwarnings('ignore:ProxLSTM')
def test_a_huge_epsilon_raises_nothing(data):
    """The run trains or is marked as diverged."""
    run = train_small(data, epsilon=1e30)['run']
    assert run['diverged'] or len(run['history']['train_loss']) == 2


@pytest.mark.parametrize('options, message', [
    (('--tune', 'adv', '--folds', '31'), '--folds is 31, but the smallest class has 30'),
    (('--batch-norm', 'output', '--batch-size', '269'), '--batch-norm output needs two values per channel'),
    (('--data', 'no.mat'), 'no.mat: no such file'),
    (('--data', str(ROOT / 'README.md')), 'README.md: .*not a MATLAB')])
def test_bad_input_is_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises((ValueError, OSError), match=message):
        training.main(get_args(['--dry-run', '--output-dir', str(tmp_path / 'out'), *options]))
    assert not list(tmp_path.glob('out/*/*.*'))


@pytest.mark.skipif(os.name != 'posix', reason="a file in a folder's place, as POSIX reports it")
def test_an_unusable_output_folder_is_named(tmp_path):
    (tmp_path / 'plots').write_text('a file, not a folder')
    with pytest.raises(OSError, match='--output-dir: the folder .*plots cannot be created'):
        training.main(get_args(['--dry-run', '--output-dir', str(tmp_path)]))
