"""What a sweep survives: interruption, kill, full disk, damaged and foreign files, divergence; and the cluster.

    python -m pytest tests/test_runs.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from scipy.io import savemat

import runs as runs_module
from runs import HISTORY, Runs, Stop, claimed, read_checkpoint, read_results

ROOT = Path(__file__).resolve().parents[1]


# ------------------------------------------------------------------------------------------------ in this process

def advance(mode, epsilon, seed, variant, hyperparameters, saved, epochs):
    """A run without a model: its weights count the epochs, in which the loss falls to 1 / epoch."""
    history = {key: list(saved['run']['history'][key]) if saved else [] for key in HISTORY}
    diverged = None
    for epoch in range(len(history['train_loss']) + 1, hyperparameters['epochs'] + 1)[:epochs]:
        if epoch == hyperparameters.get('breaks_at'):
            diverged = epoch
            break
        for values in history.values():
            values.append(1 / epoch)
    return {'state_dict': {'epochs': torch.tensor([len(history['train_loss']), seed])},
            'run': {'mode': mode, 'epsilon': epsilon, 'seed': seed, 'variant': variant, 'history': history,
                    'seconds': 0.5, 'hyperparameters': hyperparameters, 'diverged': diverged}}


def make_tasks(**settings):
    return {f'run{seed}': {'mode': 'plain', 'epsilon': 0.0, 'seed': seed, 'variant': '',
                           'hyperparameters': {'epochs': 25, **settings}} for seed in range(3)}


def carried_out(runs, advance, tasks):
    runs.begin(tasks)
    return runs.carry_out(advance, tasks, '')


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


CONFIG = {'epochs': 25, 'data': 'a.mat', 'data_sha256': '12', 'torch': '2.13.0', 'dropout': [('lstm_input', 0.5)]}


def test_finished_runs_are_skipped_and_begun_ones_gone_on_with(tmp_path):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    whole.mkdir(), parts.mkdir()
    entries = carried_out(Runs(whole, CONFIG), advance, make_tasks())
    assert [len(run['history']['train_loss']) for run in entries] == [25, 25, 25]

    calls = []

    def interrupted(saved, **arguments):
        calls.append((arguments['seed'], len(saved['run']['history']['train_loss']) if saved else 0))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return advance(saved=saved, **arguments)

    with pytest.raises(KeyboardInterrupt):
        carried_out(Runs(parts, CONFIG), interrupted, make_tasks())
    assert calls == [(0, 0), (1, 0), (2, 0), (0, 10), (1, 10)]
    runs = Runs(parts, {**CONFIG, 'data': 'moved.mat'}, resume=True)
    assert carried_out(runs, interrupted, make_tasks()) == entries
    assert calls[5:] == [(0, 20), (1, 10), (2, 10), (1, 20), (2, 20)]
    assert carried_out(Runs(parts, CONFIG, resume=True), interrupted, make_tasks()) == entries and len(calls) == 10
    for name in make_tasks():
        assert torch.equal(read_checkpoint(parts / f'{name}.pt')['state_dict']['epochs'],
                           read_checkpoint(whole / f'{name}.pt')['state_dict']['epochs'])

    carried_out(Runs(parts, CONFIG), interrupted, make_tasks())  # without resume, over again
    assert calls[10:13] == [(0, 0), (1, 0), (2, 0)]


@pytest.mark.parametrize('change, words', [
    ({'epochs': 30}, 'epochs 25 instead of 30'), ({'data_sha256': '13'}, 'another data file'),
    ({'torch': '2.14.0'}, 'torch "2.13.0" instead of "2.14.0"'), ({'clip_value': 0.2}, 'clip-value null instead of 0.2'),
    ({'dropout': []}, 'dropout [["lstm_input", 0.5]] instead of []')])
def test_another_configuration_is_not_resumed_and_nothing_is_touched(tmp_path, change, words):
    carried_out(Runs(tmp_path, CONFIG), advance, make_tasks())
    before = files(tmp_path)
    with pytest.raises(Stop) as stop:
        carried_out(Runs(tmp_path, {**CONFIG, **change}, resume=True), advance, make_tasks())
    assert str(stop.value).startswith(f'{tmp_path / "run0.pt"}: cannot be resumed') and words in str(stop.value)
    assert files(tmp_path) == before


def spoil(how, content):
    middle = len(content) // 2
    return {'bit': content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1:], 'cut': content[:middle],
            'longer': content + b'0', 'empty': b'', 'text': b'a shopping list'}[how]


@pytest.mark.parametrize('how', ['bit', 'cut', 'longer', 'empty', 'text', 'torch'])
def test_a_damaged_or_foreign_checkpoint_is_reported_kept_and_its_run_done_again(tmp_path, how, capsys):
    entries = carried_out(Runs(tmp_path, CONFIG), advance, make_tasks())
    good, path = files(tmp_path), tmp_path / 'run1.pt'
    if how == 'torch':
        torch.save(torch.nn.Linear(2, 2), path)  # a whole module: unpickling it would import and call things
    else:
        path.write_bytes(spoil(how, good['run1.pt']))
    bad = path.read_bytes()
    with pytest.raises(ValueError, match='damaged, cut short or not a checkpoint'):
        read_checkpoint(path)
    runs = Runs(tmp_path, CONFIG, resume=True)
    assert carried_out(runs, advance, make_tasks()) == entries
    assert str(path) in capsys.readouterr().err
    assert files(tmp_path) == {**good, 'run1.pt.refused': bad}


def test_what_a_checkpoint_holds_is_never_executed(tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'sprung',)

    Runs(tmp_path, CONFIG).save('trap', {'run': Trap()})  # with a right checksum
    with pytest.raises(Exception, match='Weights only load failed'):
        torch.load(tmp_path / 'trap.pt', weights_only=True)
    with pytest.raises(ValueError, match='damaged'):
        read_checkpoint(tmp_path / 'trap.pt')
    assert not (tmp_path / 'sprung').exists()


def test_a_fresh_start_removes_what_it_will_write_anew_before_it_begins(tmp_path):
    carried_out(Runs(tmp_path, CONFIG), advance, make_tasks())
    (tmp_path / 'mine.pt').write_bytes(b'')
    Runs(tmp_path, {**CONFIG, 'epochs': 200}).begin(make_tasks())
    assert set(files(tmp_path)) == {'mine.pt'}


def test_what_is_kept_is_not_overwritten_by_the_next(tmp_path):
    for content in (b'first', b'second'):
        (tmp_path / 'run0.pt').write_bytes(content)
        carried_out(Runs(tmp_path, CONFIG, resume=True), advance, make_tasks())
    assert [(tmp_path / f'run0.pt.refused{n}').read_bytes() for n in ('', 1)] == [b'first', b'second']


def test_a_base_that_is_gone_when_it_is_needed_ends_with_a_sentence(tmp_path):
    with pytest.raises(Stop, match='base_seed0.pt: taken away or damaged'):
        Runs(tmp_path, CONFIG).finished_model('base_seed0')


def test_a_file_taken_away_meanwhile_costs_its_run_only(tmp_path):
    def advance_and_remove(saved, **arguments):
        if saved is None and arguments['seed'] == 2:
            (tmp_path / 'run0.pt').unlink(missing_ok=True)
        return advance(saved=saved, **arguments)

    entries = carried_out(Runs(tmp_path, CONFIG), advance_and_remove, make_tasks())
    assert [len(run['history']['train_loss']) for run in entries] == [25, 25, 25]


def test_a_diverged_run_is_marked_and_the_others_go_on(tmp_path, capsys):
    tasks = make_tasks()
    tasks['run1']['hyperparameters']['breaks_at'] = 13
    entries = carried_out(Runs(tmp_path, CONFIG), advance, tasks)
    lengths = [len(run['history']['train_loss']) for run in entries]
    assert lengths == [25, 12, 25] and [run['diverged'] for run in entries] == [None, 13, None]
    assert 'plain, epsilon 0, seed 1: the loss was no longer finite in epoch 13' in capsys.readouterr().err
    assert carried_out(Runs(tmp_path, CONFIG, resume=True), None, tasks) == entries


def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / 'run0.pt'
    path.write_bytes(b'old')

    def full(self, content):
        with open(self, 'wb') as file:
            file.write(content[:2])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match=r'run0.pt: could not be written \(No space left on device\)'):
        runs_module.write(path, b'newer')
    assert files(tmp_path) == {'run0.pt': b'old'}


RUN = {'mode': 'AdvLSTM', 'epsilon': 1.0, 'seed': 0, 'variant': '', 'hyperparameters': {'epochs': 2, 'lr': 0.1},
       'history': {key: [0.5, 0.25] for key in HISTORY}, 'diverged': None, 'seconds': 1.5}


@pytest.mark.parametrize('change', [
    {}, {'mode': 'Adv'}, {'epsilon': -1.0}, {'epsilon': float('inf')}, {'seed': '0'}, {'seconds': None},
    {'diverged': 3}, {'hyperparameters': {'lr': 0.1}}, {'hyperparameters': {'epochs': 3}}, {'history': {}}, {'extra': 1},
    {'history': {**RUN['history'], 'test_accuracy': [0.5, 1.5]}}, {'diverged': 1}, {'variant': True},
    {'history': {**RUN['history'], 'train_loss': [0.5, None]}}, {'history': {**RUN['history'], 'test_accuracy': [0.5]}}])
def test_results_are_read_back_or_refused(tmp_path, change):
    path = tmp_path / 'results.json'
    path.write_text(json.dumps({'config': {}, 'runs': [RUN, {**RUN, **change}]}))
    if change:
        with pytest.raises(ValueError, match=f'{path}: damaged or not a results.json'):
            read_results(path)
    else:
        assert read_results(path) == ({}, [RUN, RUN])


@pytest.mark.parametrize('content', [b'', b'{"config": {}, "runs": [', b'[]', b'{"config": {}}', b'\xff\xfe',
                                     b'[' * 100000])
def test_what_is_no_results_file_is_refused(tmp_path, content):
    (tmp_path / 'results.json').write_bytes(content)
    with pytest.raises(ValueError, match='damaged or not a results.json'):
        read_results(tmp_path / 'results.json')


def test_the_reference_results_are_valid():
    _, entries = read_results(ROOT / 'report' / 'results.json')
    assert entries


# ------------------------------------------------------------------------------------------------ the program

def small_data(path):
    """Thirty short waves in three classes."""
    generator = np.random.default_rng(0)

    def sequences(labels):
        cells = np.empty((1, len(labels)), dtype=object)
        cells[0, :] = [np.sin(np.arange(n)[:, None] * (k + 1) * [1, 2]) + generator.normal(size=(n, 2))
                       for k, n in zip(labels, generator.integers(8, 12, len(labels)))]
        return cells

    labels = np.arange(30) % 3
    savemat(path, {'train_data': sequences(labels), 'train_label': labels, 'test_data': sequences(labels),
                   'test_label': labels}, do_compression=True)
    return path


def sweep_arguments(data):
    return ['--data', str(data), '--seeds', '1', '--epochs', '22', '--hidden-size', '8', '--out-channels', '8',
            '--batch-norm', '--dropout', 'output']


@pytest.fixture(scope='session')
def sweep(tmp_path_factory):
    """The arguments of a short sweep, and what it writes when nothing disturbs it."""
    folder = tmp_path_factory.mktemp('sweep')
    arguments = sweep_arguments(small_data(folder / 'waves.mat'))
    done = run_program(arguments, folder, '--jobs', 1)
    assert done.returncode == 0, done.stderr
    return arguments, outcome(folder)


def start_program(arguments, folder, *more):
    return subprocess.Popen([sys.executable, ROOT / 'training.py', *arguments, '--output-dir', folder, *map(str, more)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def run_program(arguments, folder, *more):
    process = start_program(arguments, folder, *more)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def outcome(folder):
    """All that a sweep leaves, seconds excepted."""
    def timeless(run):
        return {key: value for key, value in run.items() if key != 'seconds'}

    config, entries = read_results(folder / 'plots' / 'results.json')
    checkpoints = {}
    for path in sorted((folder / 'checkpoints').glob('*.pt')):
        saved = read_checkpoint(path)
        weights = {key: x.numpy().tobytes() for key, x in saved['state_dict'].items()}
        checkpoints[path.name] = saved.keys(), weights, timeless(saved['run']), saved['config']
    return config, [timeless(run) for run in entries], checkpoints


def wait_for(condition, process, seconds=60):
    """Wait until `condition()` is true of the running program."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.01)


def lines(stderr):
    """What stderr says beside progress bars."""
    return [line for line in stderr.replace('\r', '\n').split('\n') if line.strip() and 'epoch/s' not in line
            and '?epoch' not in line]


def test_killed_then_interrupted_then_resumed_is_as_if_undisturbed(sweep, tmp_path):
    arguments, undisturbed = sweep
    checkpoints = tmp_path / 'checkpoints'
    program = start_program(arguments, tmp_path, '--jobs', 1)
    time.sleep(0.3)  # in the midst of imports
    program.send_signal(signal.SIGINT)
    assert program.communicate() == ('', '') and not checkpoints.exists()
    program = start_program(arguments, tmp_path, '--jobs', 2)
    wait_for(lambda: any(checkpoints.glob('adv*')), program)
    program.kill()
    program.communicate(timeout=20)  # which comes back once its workers, too, have ended and let go of the pipe

    killed_at = time.time()
    program = start_program(arguments, tmp_path, '--jobs', 2, '--resume')
    wait_for(lambda: any(path.stat().st_mtime > killed_at for path in checkpoints.glob('*.pt')), program)
    workers = psutil.Process(program.pid).children(recursive=True)
    start = time.monotonic()
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does, to the workers too
    _, stderr = program.communicate()
    assert time.monotonic() - start < 2 and program.returncode == 130
    line, = lines(stderr)
    assert line.startswith('Interrupted: ') and f'are saved in {checkpoints}. Go on with: python ' in line
    psutil.wait_procs(workers, timeout=2)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)

    changed = run_program(arguments, tmp_path, '--resume', '--clip-value', '0.2')
    assert changed.returncode == 2 and 'clip-value 0.1 instead of 0.2' in changed.stderr

    killed_at = time.time()
    program = start_program(arguments, tmp_path, '--jobs', 2, '--resume')
    wait_for(lambda: any(path.stat().st_mtime > killed_at for path in checkpoints.glob('*.pt')), program)
    worker = next(child for child in psutil.Process(program.pid).children(recursive=True)
                  if 'popen_loky' in ' '.join(child.cmdline()))
    worker.kill()
    _, stderr = program.communicate()
    assert program.returncode == 0 and 'A worker process was killed' in stderr, stderr
    assert outcome(tmp_path) == undisturbed


def test_a_second_process_on_the_same_folder_refuses(sweep, tmp_path):
    arguments, _ = sweep
    (tmp_path / 'checkpoints').mkdir()
    with claimed(tmp_path / 'checkpoints'):
        second = run_program(arguments, tmp_path)
    assert second.returncode == 2 and lines(second.stderr) == [
        f'{tmp_path / "checkpoints"}: another process is writing there; wait for its end or name another --output-dir']
    assert not list((tmp_path / 'checkpoints').glob('*.pt'))


@pytest.mark.skipif(sys.platform == 'win32', reason='the limit on file sizes is POSIX')
def test_a_full_disk_ends_with_one_sentence_and_leaves_what_was_complete(sweep, tmp_path):
    import resource
    arguments, undisturbed = sweep
    shutil.copytree(Path(arguments[1]).parent, tmp_path, dirs_exist_ok=True)
    missing = tmp_path / 'checkpoints' / 'prox_epsilon5.0_seed0.pt'
    missing.unlink()
    before = files(tmp_path / 'checkpoints')
    done = subprocess.run(
        [sys.executable, ROOT / 'training.py', *arguments, '--output-dir', tmp_path, '--jobs', '1', '--resume'],
        capture_output=True, text=True, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9999, 9999)))
    assert done.returncode == 2 and lines(done.stderr)[-2:] == [
        f'{missing}: could not be written (File too large)',
        f'11 finished and 0 begun runs are saved in {missing.parent}. Go on with: python {ROOT / "training.py"} '
        f'{" ".join(arguments)} --output-dir {tmp_path} --jobs 1 --resume']
    assert files(tmp_path / 'checkpoints') == before


def test_divergence_is_said_marked_and_shown(sweep, tmp_path, finished):
    arguments, _ = sweep
    out, err = finished(*arguments, '--output-dir', tmp_path, '--jobs', 1, '--prox-lr', '1e30')
    _, entries = read_results(tmp_path / 'plots' / 'results.json')
    assert {run['diverged'] is None for run in entries if run['mode'] == 'AdvLSTM'} == {True}
    broken = [run for run in entries if run['mode'] == 'ProxLSTM']
    assert broken and all(run['diverged'] for run in broken)
    assert f'ProxLSTM, epsilon 5, seed 0: the loss was no longer finite in epoch {broken[-3]["diverged"]}' in err
    assert '| ProxLSTM | 5 | 22 | 1 of 1 diverged |' in out
    assert 'Traceback' not in err


def test_a_damaged_results_file_is_reported_and_kept(sweep, tmp_path):
    arguments, undisturbed = sweep
    shutil.copytree(Path(arguments[1]).parent, tmp_path, dirs_exist_ok=True)
    results = tmp_path / 'plots' / 'results.json'
    results.write_bytes(results.read_bytes()[:-20])
    bad = results.read_bytes()
    done = run_program(arguments, tmp_path, '--resume')
    assert done.returncode == 0 and str(results) in done.stderr and 'not JSON' in done.stderr
    assert results.with_name('results.json.refused').read_bytes() == bad and outcome(tmp_path) == undisturbed


def test_dask_that_is_missing_or_does_not_answer_is_said_in_a_sentence(sweep, tmp_path):
    arguments, _ = sweep
    done = run_program(arguments, tmp_path, '--backend', 'dask', '--scheduler', 'tcp://127.0.0.1:9')
    assert done.returncode == 2 and 'Traceback' not in done.stderr
    assert 'requirements-cluster.txt' in done.stderr or 'no Dask scheduler answers there' in done.stderr
