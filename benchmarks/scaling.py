"""What carrying out runs costs beside the training itself, and how far that scales.

    python benchmarks/scaling.py                            # with the default sweep on 1 and 2 jobs: a quarter of an hour
    python benchmarks/scaling.py --epochs 10 --jobs 2       # a short sweep

A run advances `SAVE_EVERY` epochs at a time. For each such hand-over the caller reads the run's checkpoint, pickles it
with arguments and data, unpickles what comes back and saves it; it does so for one run after the other, while workers
train. Measured here are start-up, the caller's time and the bytes of a hand-over, and the wall time of the sweep. What
follows for other numbers of runs and workers is arithmetic: workers are busy for (runs / workers) × a run's seconds, the
caller for (runs × hand-overs) × the caller's seconds, and the larger of both is the wall time, start-up added. A network
is counted at 1 Gbit/s on the caller's side.
"""

import argparse
import json
import math
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import joblib

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from load_data import load_data, make_batches, seen_in_training, sequences_of, targets_of  # noqa: E402
from runs import SAVE_EVERY, Runs, advance_one  # noqa: E402
from training import EVALUATION_BATCH, OPTIMISER, positive_int, train_run  # noqa: E402

BYTES_A_SECOND = 125e6


def seconds(function, repetitions=7):
    """(median seconds, last result)"""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return median(times), result


def start_up():
    """Seconds until the program, and then a worker of its, has imported what it needs."""
    program, _ = seconds(lambda: subprocess.run([sys.executable, '-c', 'import training'], cwd=ROOT, check=True), 3)
    start = time.perf_counter()
    joblib.Parallel(n_jobs=2)(joblib.delayed(seconds_of_import)() for _ in range(2))
    return program, time.perf_counter() - start


def seconds_of_import():
    start = time.perf_counter()
    import training  # noqa: F401
    return time.perf_counter() - start


def hand_over(folder):
    """For one hand-over of a ProxLSTM run: the caller's seconds, bytes sent and received, the worker's seconds."""
    train, test = load_data()
    unseen = ~seen_in_training(train, test)
    test = make_batches(sequences_of(test), targets_of(test), EVALUATION_BATCH)
    settings = {'epochs': 3 * SAVE_EVERY, 'batch_size': 27, 'clip_value': 0.1, **OPTIMISER['ProxLSTM']}
    task = {'mode': 'ProxLSTM', 'epsilon': 5.0, 'seed': 0, 'variant': '', 'model_arguments': {},
            'hyperparameters': settings, 'state': None, 'train': train, 'test': test, 'unseen': unseen, 'device': 'cpu'}
    runs = Runs(folder, {})
    start = time.perf_counter()
    name, saved = advance_one('run', train_run, task, None)
    worker = time.perf_counter() - start
    runs.save(name, saved)
    runs.entries[name] = saved['run']

    reading, saved = seconds(lambda: runs.saved(name))
    sending, sent = seconds(lambda: pickle.dumps((advance_one, (name, train_run, task, saved))))
    received = pickle.dumps((name, saved))
    receiving, _ = seconds(lambda: pickle.loads(received))
    saving, _ = seconds(lambda: runs.save(name, saved))
    parts = {'reading the checkpoint': reading, 'pickling': sending, 'unpickling': receiving, 'saving': saving}
    return parts, len(sent), len(received), worker


def sweep(jobs, epochs):
    """(wall seconds, seconds of training, number of runs) of the default sweep."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, ROOT / 'training.py', '--jobs', str(jobs), '--epochs', str(epochs),
                        '--output-dir', folder], check=True, stdout=subprocess.DEVNULL)
        wall = time.perf_counter() - start
        entries = json.loads((Path(folder) / 'plots' / 'results.json').read_text())['runs']
    return wall, sum(run['seconds'] for run in entries), len(entries)


def main():
    parser = argparse.ArgumentParser(description='The overhead of runs.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--epochs', type=positive_int, default=100, help='of the sweep')
    parser.add_argument('--jobs', type=positive_int, nargs='+', default=[1, 2])
    args = parser.parse_args()

    program, worker_start = start_up()
    print(f'start-up: the program {program:.1f} s, two workers {worker_start:.1f} s')
    with tempfile.TemporaryDirectory() as folder:
        parts, sent, received, worker = hand_over(folder)
    caller = sum(parts.values())
    print(f'a hand-over: {1e3 * caller:.1f} ms of the caller ('
          + ', '.join(f'{what} {1e3 * t:.1f}' for what, t in parts.items()) + f'), {sent / 1e6:.2f} MB sent, {received / 1e6:.2f} MB received, after {worker:.1f} s of a worker '
          f'({SAVE_EVERY} epochs of ProxLSTM, epsilon 5)\n')

    print('| jobs | runs | wall (s) | training (s) | jobs × wall − training |\n|---|---|---|---|---|')
    for jobs in args.jobs:
        wall, training, count = sweep(jobs, args.epochs)
        print(f'| {jobs} | {count} | {wall:.0f} | {training:.0f} | {100 * (jobs * wall / training - 1):.1f} % |', flush=True)
    per_run, hand_overs = training / count, math.ceil(args.epochs / SAVE_EVERY)

    network = max(sent, received) / BYTES_A_SECOND
    print(f'\nWith {per_run:.1f} s and {hand_overs} hand-overs a run, by arithmetic:\n')
    print('| runs | workers | workers busy (s) | caller busy (s) | network busy (s) | wall (s) | by |')
    print('|---|---|---|---|---|---|---|')
    for runs in (100, 10_000):
        for workers in (10, 1_000):
            busy = {'workers': math.ceil(runs / workers) * per_run, 'caller': runs * hand_overs * caller,
                    'network': runs * hand_overs * network}
            bound = max(busy, key=busy.get)
            print(f'| {runs} | {workers} | {busy["workers"]:.0f} | {busy["caller"]:.0f} | {busy["network"]:.0f} | '
                  f'{program + worker_start + busy[bound]:.0f} | {bound} |')
    print(f'\nThe caller is the bottleneck from {per_run / hand_overs / caller:.0f} workers on, a network of 1 Gbit/s '
          f'from {per_run / hand_overs / network:.0f}.')


if __name__ == '__main__':
    main()
