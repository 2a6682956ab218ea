"""What several test files share: a small data set, and programs in processes of their own."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from support.checkpoints import load_checkpoint

ROOT = Path(__file__).resolve().parents[1]
NO_NATIVE_SOLVER = not shutil.which('cc') or os.environ.get('PROXLSTM_NATIVE') == '0'
needs_native_solver = pytest.mark.skipif(NO_NATIVE_SOLVER, reason='no C compiler, or switched off')


def write_waves(path, features=2, first_label=0):
    """Write thirty short sequences in three classes."""
    generator = np.random.default_rng(0)

    def sequences(labels):
        cells = np.empty((1, len(labels)), dtype=object)
        cells[0, :] = [np.sin(np.arange(n)[:, None] * (k + 1) * np.arange(1, features + 1))
                       + generator.normal(size=(n, features))
                       for k, n in zip(labels, generator.integers(8, 12, len(labels)))]
        return cells

    labels = np.arange(30) % 3
    savemat(path, {'train_data': sequences(labels), 'train_label': labels + first_label,
                   'test_data': sequences(labels), 'test_label': labels + first_label},
            do_compression=True)
    return path


def sweep_arguments(data):
    """Return options of a sweep that takes seconds: 9 runs of 12 epochs."""
    return ['--data', str(data), '--seeds', '1', '--epochs', '12', '--hidden-size', '8',
            '--out-channels', '8', '--adv-epsilons', '1',
            '--prox-epsilons', '1', '--batch-norm', '--dropout', 'output']


def start_program(arguments, folder, *more, **options):
    """Start training.py in a process group of its own."""
    command = [sys.executable, ROOT / 'training.py', *arguments, '--output-dir', folder, *more]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, start_new_session=True, **options)


def run_program(arguments, folder, *more, **options):
    process = start_program(arguments, folder, *more, **options)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def outcome(folder):
    """Return all that a sweep writes, seconds excepted."""
    def timeless(run):
        return {key: value for key, value in run.items() if key != 'seconds'}

    results = json.loads((folder / 'plots' / 'results.json').read_text())
    checkpoints = {}
    for path in sorted((folder / 'checkpoints').glob('*.pt')):
        saved = load_checkpoint(path)
        weights = {key: x.numpy().tobytes() for key, x in saved['state_dict'].items()}
        checkpoints[path.name] = saved.keys(), weights, timeless(saved['run']), saved['config']
    return results['config'], [timeless(run) for run in results['runs']], checkpoints


def wait_for(condition, process, seconds=60):
    """Wait until `condition()` is true of the running program."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[1]
        time.sleep(0.01)


def lines(stderr):
    """Return what stderr says beside progress."""
    return [line for line in stderr.splitlines() if line.strip() and ' elapsed, ' not in line]


def worker_processes(pid):
    """Return the process ids of the worker processes of a program (Linux)."""
    workers = []
    for path in Path('/proc').glob('[0-9]*'):
        try:
            parent = int((path / 'stat').read_text().rpartition(')')[2].split()[1])
            if parent == pid and b'popen_loky' in (path / 'cmdline').read_bytes():
                workers.append(int(path.name))
        except OSError:  # ended meanwhile
            pass
    return workers


def is_running(pid):
    try:
        os.kill(pid, 0)
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except OSError:
        return False


def files(folder):
    """Return {name: content} of the files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()
            and path.name != '.lock'}
