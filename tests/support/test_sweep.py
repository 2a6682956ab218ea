"""What a sweep survives: interruption, kill, a full disk, damaged and foreign files, divergence.

    python -m pytest tests/support/test_sweep.py
"""

import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import torch

import training
from support.checkpoints import load_checkpoint, save_checkpoint
from support.options import get_args
from support.sweep import HISTORY, Run, Sweep, describe_differences, load_or_train
from tests.helpers import (ROOT, files, is_running, lines, outcome, start_program,
                           wait_for, worker_processes)

RUNS = [Run('plain', seed=seed, epochs=25) for seed in range(3)]


def count_epochs(run, args, data, start, saved, epochs, breaks_at=None):
    """Train nothing: the weights count the epochs, in which the loss falls to 1 / epoch."""
    history = {key: list(saved['run']['history'][key]) if saved else [] for key in HISTORY}
    diverged = None
    for epoch in range(len(history['train_loss']) + 1, run.epochs + 1)[:epochs]:
        if epoch == breaks_at:
            diverged = epoch
            break
        for values in history.values():
            values.append(1 / epoch)
    return {'arguments': {}, 'state_dict': {'epochs': torch.tensor([len(history['train_loss']),
                                                                   run.seed])},
            'run': {'mode': run.mode, 'epsilon': run.epsilon, 'seed': run.seed, 'history': history,
                    'variant': run.variant, 'hyperparameters': {'epochs': run.epochs},
                    'seconds': 0.5, 'diverged': diverged}}


@pytest.fixture
def make_sweep(tmp_path, data):
    """A function: a Sweep in `tmp_path` whose runs are trained by a function."""
    def make(train=count_epochs, *options):
        args = get_args(['--output-dir', str(tmp_path), '--jobs', '1', *map(str, options)])
        return Sweep(train, lambda run: data, args)

    return make


def train_all(sweep, runs=RUNS):
    with sweep:
        return sweep.train(runs)


def test_finished_runs_are_skipped_and_unfinished_ones_continue(make_sweep, tmp_path):
    entries = train_all(make_sweep())
    assert [len(entry['history']['train_loss']) for entry in entries] == [25, 25, 25]
    whole = files(tmp_path / 'checkpoints')
    shutil.rmtree(tmp_path / 'checkpoints')
    calls = []

    def interrupted(run, args, data, start, saved, epochs):
        calls.append((run.seed, len(saved['run']['history']['train_loss']) if saved else 0))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return count_epochs(run, args, data, start, saved, epochs)

    with pytest.raises(KeyboardInterrupt) as error:
        train_all(make_sweep(interrupted))
    assert calls == [(0, 0), (1, 0), (2, 0), (0, 10), (1, 10)]
    note, = error.value.__notes__
    assert '3 runs are saved in' in note and note.endswith(' Resume with the same command and --resume.')
    assert train_all(make_sweep(interrupted, '--resume')) == entries
    assert calls[5:] == [(0, 20), (1, 10), (2, 10), (1, 20), (2, 20)]
    assert train_all(make_sweep(interrupted, '--resume')) == entries and len(calls) == 10
    assert files(tmp_path / 'checkpoints') == whole


def test_a_dry_run_says_in_which_folder_it_resumes(make_sweep, tmp_path):
    sweep = make_sweep(count_epochs, '--dry-run')
    train_all(sweep)
    assert sweep.describe_saved().endswith(f'the same command and --output-dir {tmp_path} --resume.')


def test_without_resume_checkpoints_are_moved_and_not_lost(make_sweep, tmp_path, capsys):
    train_all(make_sweep())
    folder = tmp_path / 'checkpoints'
    first = files(folder)
    train_all(make_sweep(count_epochs, '--clip-value', 0.5), RUNS[:1])
    assert f'3 checkpoints of an earlier run are moved to {folder}' in capsys.readouterr().err
    second = files(folder)
    assert files(folder / 'previous') == first and set(second) == {'base_seed0.pt'}
    train_all(make_sweep(), RUNS[:1])
    assert files(folder / 'previous') == second


@pytest.mark.parametrize('options, run, words', [
    ((), {'epochs': 30}, 'epochs 25 instead of 30'),
    (('--clip-value', '0.2'), {}, 'clip_value 0.1 instead of 0.2'),
    (('--base-lr', '0.01'), {}, 'lr 0.001 instead of 0.01'),
    (('--hidden-size', '7'), {}, 'hidden_size 50 instead of 7'),
    (('--data', str(ROOT / 'data' / 'JV_uci.mat')), {}, 'another data file')])
def test_other_settings_are_not_resumed_and_nothing_is_changed(make_sweep, tmp_path, options, run, words):
    train_all(make_sweep())
    before = files(tmp_path / 'checkpoints')
    with pytest.raises(ValueError) as error:
        train_all(make_sweep(count_epochs, '--resume', *options), [replace(x, **run) for x in RUNS])
    path = tmp_path / 'checkpoints' / 'base_seed0.pt'
    assert str(error.value).startswith(f'{path}: cannot be resumed') and words in str(error.value)
    assert files(tmp_path / 'checkpoints') == before


def test_a_checkpoint_of_another_solver_is_not_resumed(make_sweep, monkeypatch):
    monkeypatch.setattr('support.options.describe_solver', lambda: 'native, 4 lanes')
    train_all(make_sweep())
    monkeypatch.setattr('support.options.describe_solver', lambda: 'PyTorch')
    with pytest.raises(ValueError, match='solver "native, 4 lanes" instead of "PyTorch"'):
        train_all(make_sweep(count_epochs, '--resume'))


def test_a_checkpoint_of_another_torch_or_base_model_is_named():
    old = {'torch': '2.13.0', 'start': {'lr': 1}}
    assert describe_differences(old, {'torch': '2.14.0', 'start': {'lr': 2}}) == (
        'another base model, torch "2.13.0" instead of "2.14.0"')
    assert describe_differences(old, dict(old)) == ''
    assert describe_differences({}, {'solver': 'PyTorch'}) == 'no solver instead of "PyTorch"'


def test_a_checkpoint_copied_over_another_runs_name_is_refused(make_sweep, tmp_path):
    train_all(make_sweep())
    folder = tmp_path / 'checkpoints'
    shutil.copyfile(folder / 'base_seed0.pt', folder / 'base_seed1.pt')
    with pytest.raises(ValueError, match='base_seed1.pt: cannot be resumed.* seed 0 instead of 1'):
        train_all(make_sweep(count_epochs, '--resume'))


def test_more_seeds_can_be_added_to_a_finished_sweep(make_sweep):
    entries = train_all(make_sweep(count_epochs, '--seeds', 1), RUNS[:1])
    assert train_all(make_sweep(count_epochs, '--seeds', 3, '--resume'))[:1] == entries


@pytest.mark.parametrize('how', ['damaged', 'foreign'])
def test_a_damaged_or_foreign_checkpoint_is_set_aside_and_its_run_retrained(make_sweep, tmp_path,
                                                                            how, capsys):
    entries = train_all(make_sweep())
    good, path = files(tmp_path / 'checkpoints'), tmp_path / 'checkpoints' / 'base_seed1.pt'
    if how == 'foreign':
        torch.save({'state_dict': {}}, path)
    else:
        path.write_bytes(path.read_bytes()[:-100])
    bad = path.read_bytes()
    assert train_all(make_sweep(count_epochs, '--resume')) == entries
    assert str(path) in capsys.readouterr().err
    assert files(tmp_path / 'checkpoints') == {**good, 'base_seed1.pt.damaged': bad}


def test_a_file_that_disappears_costs_its_run_only(make_sweep, tmp_path):
    def train_and_remove(run, args, data, start, saved, epochs):
        if saved is None and run.seed == 2:
            (tmp_path / 'checkpoints' / 'base_seed0.pt').unlink(missing_ok=True)
        return count_epochs(run, args, data, start, saved, epochs)

    entries = train_all(make_sweep(train_and_remove))
    assert [len(entry['history']['train_loss']) for entry in entries] == [25, 25, 25]


def test_a_base_model_that_is_gone_when_it_is_needed_ends_with_a_sentence(make_sweep):
    with make_sweep() as sweep, pytest.raises(OSError, match='base_seed0.pt: missing or damaged'):
        sweep.train(RUNS[:1])
        sweep.path(RUNS[0]).unlink()
        sweep.train([Run('AdvLSTM', 1.0, 0, epochs=25, start=RUNS[0])])


def test_a_diverged_run_is_marked_and_the_others_continue(make_sweep, capsys):
    def break_one(run, *arguments):
        return count_epochs(run, *arguments, breaks_at=13 if run.seed == 1 else None)

    entries = train_all(make_sweep(break_one))
    assert [len(entry['history']['train_loss']) for entry in entries] == [25, 12, 25]
    assert [entry['diverged'] for entry in entries] == [None, 13, None]
    assert 'plain, epsilon 0, seed 1: the loss was not finite in epoch 13' in capsys.readouterr().err
    assert train_all(make_sweep(None, '--resume')) == entries


def test_a_run_starts_from_its_saved_base_model_which_is_trained_first(make_sweep):
    """None is trained from a diverged base model; it is entered as diverged in epoch 0."""
    started = {}

    def train(run, args, data, start, saved, epochs):
        started[run.name] = start and start['state_dict']['epochs'].tolist()
        return count_epochs(run, args, data, start, saved, epochs,
                            breaks_at=3 if run.mode == 'plain' and run.seed == 1 else None)

    entries = train_all(make_sweep(train), [Run('AdvLSTM', 1.0, run.seed, epochs=5, start=run)
                                            for run in RUNS])
    assert started == {'base_seed0': None, 'base_seed1': None, 'base_seed2': None,
                       'adv_epsilon1.0_seed0': [25, 0], 'adv_epsilon1.0_seed2': [25, 2]}
    assert [entry['diverged'] for entry in entries] == [None, 0, None]


@pytest.mark.parametrize('run, name', [
    (Run('plain', seed=3), 'base_seed3'),
    (Run('ProxLSTM', 5.0, 0, 'batch norm conv'), 'prox_epsilon5.0_batch-norm-conv_seed0'),
    (Run('AdvLSTM', 0.01, 4, fold=4), 'adv_epsilon0.01_fold4')])
def test_checkpoints_have_the_names_of_their_runs(run, name):
    assert run.name == name


def test_no_more_processes_are_started_than_there_are_runs(make_sweep, monkeypatch):
    asked = []

    def Parallel(n_jobs, return_as):
        asked.append(n_jobs)
        return lambda calls: (function(*arguments, **named) for function, arguments, named in calls)

    monkeypatch.setattr('support.parallel.joblib.Parallel', Parallel)
    train_all(make_sweep(count_epochs, '--jobs', 50), RUNS[:2])
    assert set(asked) == {2}


def test_load_or_train_trains_again_only_for_another_config(tmp_path):
    calls = []

    def train():
        calls.append(1)
        return {'arguments': {'n': 1}, 'state_dict': {'x': torch.ones(2)}}

    path = tmp_path / 'models' / 'a.pt'
    made = load_or_train(path, {'sizes': (1, 2)}, train)
    assert load_or_train(path, {'sizes': [1, 2]}, train).keys() == made.keys() and len(calls) == 1
    load_or_train(path, {'sizes': [1, 3]}, train)
    path.write_bytes(path.read_bytes()[:-9])
    load_or_train(path, {'sizes': [1, 3]}, train)
    assert len(calls) == 3


# ------------------------------------------------------------------------------------- the program

def wait_for_new_checkpoint(program, folder):
    since = time.time()
    wait_for(lambda: any(path.stat().st_mtime > since for path in folder.glob('*.pt')), program)


@pytest.mark.skipif(not Path('/proc').exists(), reason='finds worker processes in /proc')
def test_a_sweep_that_is_killed_and_interrupted_resumes_to_the_same_bits(sweep, tmp_path):
    arguments, undisturbed = sweep
    checkpoints = tmp_path / 'checkpoints'
    program = start_program(arguments, tmp_path, '--jobs', 2)
    wait_for(lambda: any(checkpoints.glob('adv*')), program)
    program.kill()
    program.communicate(timeout=20)  # returns when its workers have ended, too, and closed the pipe

    program = start_program(arguments, tmp_path, '--jobs', 2, '--resume')
    wait_for(lambda: len(worker_processes(program.pid)) == 2, program)  # each has work to do
    os.kill(worker_processes(program.pid)[0], signal.SIGKILL)
    wait_for_new_checkpoint(program, checkpoints)
    workers = worker_processes(program.pid)
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does, to the workers too
    _, stderr = program.communicate(timeout=20)
    *_, line = lines(stderr)
    assert program.returncode == 130 and line.startswith('Interrupted. ')
    assert f'saved in {checkpoints}, up to their last checkpoint. Resume with the same command.' in line
    assert 'A worker process was killed' in stderr
    assert workers and not any(map(is_running, workers))

    training.main(get_args([*arguments, '--output-dir', str(tmp_path), '--jobs', '1', '--resume']))
    assert outcome(tmp_path) == undisturbed


def test_a_second_process_on_the_same_folder_is_refused(make_sweep, tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    with filelock.FileLock(tmp_path / 'checkpoints' / '.lock'):
        with pytest.raises(ValueError, match='another process is writing there; wait for its end'):
            train_all(make_sweep())
    assert not files(tmp_path / 'checkpoints')


def test_a_full_disk_ends_with_one_sentence_and_keeps_what_was_complete(make_sweep, tmp_path,
                                                                        monkeypatch):
    train_all(make_sweep(), RUNS[:2])
    before, write_bytes = files(tmp_path / 'checkpoints'), Path.write_bytes

    def fill_the_disk(path, content):
        write_bytes(path, content[:100])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', fill_the_disk)
    with pytest.raises(OSError) as error:
        train_all(make_sweep(count_epochs, '--resume'))
    missing = tmp_path / 'checkpoints' / 'base_seed2.pt'
    assert str(error.value) == f'{missing}: could not be written (No space left on device)'
    note, = error.value.__notes__
    assert note.startswith(f'2 runs are saved in {missing.parent}, up to')
    assert note.endswith('Resume with the same command.')
    assert files(tmp_path / 'checkpoints') == before


def test_dask_that_is_missing_or_does_not_answer_ends_with_a_sentence(make_sweep):
    with pytest.raises(ValueError, match='requirements-extra.txt|no Dask scheduler answers there'):
        train_all(make_sweep(count_epochs, '--backend', 'dask', '--scheduler', 'tcp://127.0.0.1:9'))


def test_out_of_memory_ends_with_a_sentence(tmp_path, data):
    args = get_args(['--output-dir', str(tmp_path), '--jobs', '1', '--hidden-size', '100000000'])
    everything = *data, torch.ones(351, dtype=torch.bool)
    with pytest.raises(OSError, match='^Training failed: .*a smaller --hidden-size'):
        train_all(Sweep(training.train, lambda run: everything, args))


def test_a_damaged_checkpoint_is_refused_or_gives_the_same_values(tmp_path):
    """A bit, a byte, a piece or the end changes, at a random place."""
    generator, path = random.Random(0), tmp_path / 'model.pt'
    model = training.LSTMClassifier(out_channels=8, hidden_size=8)
    save_checkpoint(path, {'state_dict': model.state_dict(), 'run': {'history': [0.5] * 50}})
    whole, content = load_checkpoint(path), path.read_bytes()
    refused = 0
    for trial in range(300):
        damaged, at = bytearray(content), generator.randrange(len(content))
        if trial % 4 == 0:
            damaged[at] ^= 1 << generator.randrange(8)
        elif trial % 4 == 1:
            damaged[at:at + 8] = generator.randbytes(8)
        elif trial % 4 == 2:
            del damaged[at:at + generator.randrange(1, 300)]
        else:
            del damaged[at:]
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path)
        except ValueError as error:
            assert str(error).startswith(f'{path}: damaged') and '\n' not in str(error)
            refused += 1
            continue
        assert loaded['run'] == whole['run']
        assert all(torch.equal(loaded['state_dict'][key], x) for key, x in whole['state_dict'].items())
    assert 200 < refused < 300


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'sprung',)

    save_checkpoint(tmp_path / 'trap.pt', {'run': Trap()})
    with pytest.raises(ValueError, match='damaged'):
        load_checkpoint(tmp_path / 'trap.pt')
    assert not (tmp_path / 'sprung').exists()
