"""Runs that survive: saved every few epochs, resumed bit for bit, spread over processes or a cluster.

    python training.py --resume                                              # go on after an interruption
    python training.py --backend dask --scheduler tcp://host:8786            # the same runs on a Dask cluster

`training.py` hands its runs to `Runs.carry_out`. A worker takes a run's arguments and saved state by value, advances it
by `SAVE_EVERY` epochs and hands the new state back: a function of what it was given. So it needs no disk, and a worker
that dies costs those epochs only. The caller alone writes: a file for each run, to a temporary name and moved into
place, with what a later --resume must know.
"""

import contextlib
import hashlib
import io
import itertools
import json
import math
import os
import pickle
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

import filelock
import joblib
import psutil
import torch
from joblib.externals.loky.backend import resource_tracker
from joblib.externals.loky.process_executor import BrokenProcessPool
from tqdm import tqdm

SAVE_EVERY = 10  # epochs
MARK = b'\nsha256 '  # between a checkpoint and its checksum; torch.load reads over what follows the archive
HISTORY = 'train_loss', 'train_accuracy', 'test_accuracy', 'unseen_accuracy'
UPLOADED = 'ProxLSTM', 'load_data', 'Classifier', 'runs'  # modules that workers import, each after those it needs

one_at_a_time = threading.Lock()  # a Dask worker may have several threads, but a process has one random generator


class Stop(Exception):
    """Ends the program; the message is the sentence that its user reads."""


class Runs:
    """The runs of one invocation, a checkpoint each in `folder`.

    `config` is everything that their numbers depend on, as json.dumps takes it. With `resume` the runs go on from what is
    in `folder`. `jobs` of them advance at a time, on the backend that joblib is configured with.
    """

    def __init__(self, folder, config, resume=False, jobs=1):
        self.folder, self.config, self.resume, self.jobs = Path(folder), json.loads(json.dumps(config)), resume, jobs
        self.entries = {}     # of each run that is saved: its entry for results.json, by name
        self.refused = set()  # files that could not be read
        for unfinished in self.folder.glob('*.tmp'):
            unfinished.unlink()

    def path(self, name):
        return self.folder / f'{name}.pt'

    def begin(self, names):
        """Find out what there is of the runs of these names; without `resume`, remove it.

        Raises Stop if it is of another configuration.
        """
        found = {}
        for name in names:
            if not self.resume:
                self.path(name).unlink(missing_ok=True)
            elif (saved := self.check_readable(self.path(name), read_checkpoint)) is not None:
                if differences := differing(saved['config'], self.config):
                    raise Stop(f'{self.path(name)}: cannot be resumed, it was written with {differences}; give the same '
                               f'arguments, or start over without --resume')
                found[name] = saved['run']
        self.entries |= found

    def carry_out(self, advance, tasks, description):
        """Bring every run of `tasks`, a dictionary of keyword arguments by name, to its end.

        `advance(**task, saved, epochs)` returns the state to save; its 'run' is the entry for results.json. Returns the
        entries, in order. Raises Stop if the workers keep dying, and OSError if a checkpoint cannot be written.
        """
        parallel = joblib.Parallel(n_jobs=self.jobs, return_as='generator_unordered')
        with tqdm(desc=description, unit='epoch', total=sum(task['hyperparameters']['epochs'] for task in tasks.values()),
                  initial=sum(position(self.entries.get(name)) for name in tasks)) as bar:
            # A round advances every unfinished run once, the longest first, so that no worker idles long at its end.
            fruitless = 0
            while unfinished := [name for name in tasks if not finished(self.entries.get(name))]:
                unfinished.sort(key=lambda name: -cost(tasks[name]))
                calls = (joblib.delayed(advance_one)(name, advance, tasks[name], self.saved(name))
                         for name in unfinished)
                try:
                    with interrupts_held_back():
                        results = parallel(calls)
                    for name, saved in results:
                        self.save(name, saved)
                        run, before = saved['run'], position(self.entries.get(name))
                        self.entries[name] = run
                        bar.update(position(run) - before)
                        fruitless = 0
                        if run['diverged'] is not None:
                            bar.write(f'{described(run)}: the loss was no longer finite in epoch {run["diverged"]}, '
                                      f'where this run ends.', file=sys.stderr)
                except worker_deaths() as error:
                    fruitless += 1
                    if fruitless == 3:
                        raise Stop('The worker processes are killed time and again, for want of memory '
                                   'perhaps.') from error
                    bar.write('A worker process was killed. What it was at is done again.', file=sys.stderr)
        return [self.entries[name] for name in tasks]

    def finished_model(self, name):
        """The checkpoint of the finished run `name`. Raises Stop if its file has been taken away or damaged."""
        try:
            return read_checkpoint(self.path(name))
        except (OSError, ValueError) as error:
            raise Stop(f'{self.path(name)}: taken away or damaged since it was written') from error

    def check_readable(self, path, read):
        """`read(path)`; None, and a word to the user, if that is a ValueError, and None if there is no such file."""
        try:
            return read(path)
        except FileNotFoundError:
            return None
        except ValueError as error:
            self.refused.add(path)
            print(f'{error}; it is made anew, and this one kept as {path.name}.refused', file=sys.stderr)
            return None

    def saved(self, name):
        """What there is of the run `name`, None if nothing: its file may have been taken away meanwhile."""
        with contextlib.suppress(OSError, ValueError):
            return read_checkpoint(self.path(name)) if name in self.entries else None
        del self.entries[name]

    def save(self, name, saved):
        buffer = io.BytesIO()
        torch.save({**saved, 'config': self.config}, buffer)
        content = buffer.getvalue()
        self.write(self.path(name), content + MARK + hashlib.sha256(content).hexdigest().encode())

    def write(self, path, content):
        """`write`, but a file that could not be read is kept beside."""
        if path in self.refused:
            kept = (path.with_name(f'{path.name}.refused{n or ""}') for n in itertools.count())
            path.replace(next(name for name in kept if not name.exists()))
            self.refused.remove(path)
        write(path, content)

    def __str__(self):
        done = sum(finished(entry) for entry in self.entries.values())
        return f'{done} finished and {len(self.entries) - done} begun runs are saved in {self.folder}'


# ---------------------------------------------------------------------------------------------- a run

def advance_one(name, advance, task, saved):
    """What a worker does: (name, the new state)."""
    with one_at_a_time:
        return name, advance(**task, saved=saved, epochs=SAVE_EVERY)


def position(run):
    """How many of its epochs a run, or None, has behind it; a diverged one has all."""
    if run is None:
        return 0
    return len(run['history']['train_loss']) if run['diverged'] is None else run['hyperparameters']['epochs']


def finished(run):
    return run is not None and position(run) == run['hyperparameters']['epochs']


def described(run):
    return ', '.join([run['mode'], f'epsilon {run["epsilon"]:g}', *filter(None, [run['variant']]), f'seed {run["seed"]}'])


def cost(task):
    """How long an epoch takes, roughly and relative to others."""
    return 10 if task['mode'] == 'ProxLSTM' and task['epsilon'] else 2 if task['mode'] == 'AdvLSTM' else 1


# ---------------------------------------------------------------------------------------------- files

def write(path, content):
    """Write bytes to a temporary name and move them into place, so that no reader ever sees half a file."""
    temporary = path.with_name(path.name + '.tmp')
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OSError(f'{path}: could not be written ({error.strerror})') from error


def read_checkpoint(path):
    """What `Runs.save` wrote to `path`: a dictionary.

    Raises FileNotFoundError, and ValueError with one sentence for every other file: nothing is unpickled of a file
    whose checksum is not right.
    """
    content, mark, checksum = Path(path).read_bytes().rpartition(MARK)
    saved = None
    if mark and checksum == hashlib.sha256(content).hexdigest().encode():
        with contextlib.suppress(pickle.UnpicklingError, RuntimeError):
            saved = torch.load(io.BytesIO(content), weights_only=True)
    if not isinstance(saved, dict) or not {'state_dict', 'run', 'config'} <= saved.keys():
        raise ValueError(f'{path}: damaged, cut short or not a checkpoint of this program')
    return saved


def read_results(path):
    """(config, runs) of a results.json, as `training.py` writes it.

    Raises FileNotFoundError, and ValueError with one sentence that says what is wrong with the file.
    """
    def require(condition, what):
        if not condition:
            raise ValueError(f'{path}: damaged or not a results.json of this program ({what})')

    def number(x, low=-math.inf, high=math.inf):
        return type(x) in (int, float) and math.isfinite(x) and low <= x <= high

    try:
        results = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError):
        require(False, 'not JSON')
    require(isinstance(results, dict) and set(results) == {'config', 'runs'}, 'expected config and runs')
    require(isinstance(results['config'], dict) and isinstance(results['runs'], list), 'expected an object and a list')
    for n, run in enumerate(results['runs'], start=1):
        require(isinstance(run, dict) and set(run) == {'mode', 'epsilon', 'seed', 'variant', 'hyperparameters', 'history',
                                                       'diverged', 'seconds'}, f'the fields of run {n}')
        require(run['mode'] in ('plain', 'AdvLSTM', 'ProxLSTM') and isinstance(run['variant'], str)
                and number(run['epsilon'], 0) and number(run['seconds'], 0) and type(run['seed']) is int,
                f'mode, variant, epsilon, seconds or seed of run {n}')
        settings, history = run['hyperparameters'], run['history']
        require(isinstance(settings, dict) and type(settings.get('epochs')) is int
                and all(number(x, 0) for x in settings.values()), f'hyperparameters of run {n}')
        require(isinstance(history, dict) and set(history) == set(HISTORY)
                and all(isinstance(values, list) for values in history.values()), f'history of run {n}')
        diverged, lengths = run['diverged'], {len(values) for values in history.values()}
        require(diverged is None or type(diverged) is int and 0 <= diverged <= settings['epochs'],
                f'diverged of run {n}')
        require(lengths == {settings['epochs'] if diverged is None else max(0, diverged - 1)}, f'epochs of run {n}')
        require(all(number(x, 0, 1) or (x is None and key == 'unseen_accuracy') if 'accuracy' in key else number(x)
                    for key, values in history.items() for x in values), f'numbers of run {n}')
    return results['config'], results['runs']


def differing(old, new):
    """Words for how two configurations differ; empty where they do not."""
    words = []
    for key in sorted({*old, *new} - {'data'}):  # a data file is known by its content
        if old.get(key) != new.get(key):
            words.append('another data file' if key == 'data_sha256' else
                         f'{key.replace("_", "-")} {json.dumps(old.get(key))} instead of {json.dumps(new.get(key))}')
    return ', '.join(words)


def claimed(folder):
    """A context in which this process alone writes to `folder`. Raises Stop if another one does already."""
    lock = filelock.FileLock(Path(folder) / '.lock')
    try:
        return lock.acquire(timeout=0)
    except filelock.Timeout:
        raise Stop(f'{folder}: another process is writing there; wait for its end or name another '
                   f'--output-dir') from None


# ---------------------------------------------------------------------------------------------- interruptions, cluster

def leave(message, status):
    """End this process and its workers at once, whatever they are doing, with `message` on stderr."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if 'resource_tracker' not in ' '.join(process.cmdline()):  # which stays to clear the shared memory away
                process.kill()
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
    os._exit(status)


def end_with(parent):
    """Let this process, a worker, end when the process of that number does: kill -9 leaves it no time to see to it."""
    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def worker_deaths():
    """The exceptions by which joblib's backends say that a worker died."""
    distributed = sys.modules.get('distributed')
    return (BrokenProcessPool, distributed.KilledWorker) if distributed else BrokenProcessPool


@contextlib.contextmanager
def interrupts_held_back():
    """Ctrl-C waits while worker processes are started. They inherit that, and leave it to the caller to end them."""
    if not hasattr(signal, 'pthread_sigmask'):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def backend(name, scheduler):
    """joblib on `name`: 'loky', processes here, or 'dask', the workers of the Dask scheduler at an address.

    Raises Stop if Dask is not installed, if no scheduler answers, if it has no workers or such with another torch, and
    when it is gone.
    """
    if name != 'dask':
        warnings_before = os.environ.get('PYTHONWARNINGS', '')
        os.environ['PYTHONWARNINGS'] = 'ignore'  # after an interruption it would warn of what it clears away
        with interrupts_held_back():
            resource_tracker.ensure_running()
        os.environ['PYTHONWARNINGS'] = warnings_before
        with joblib.parallel_config(backend=name, initializer=end_with, initargs=(os.getpid(),)):
            yield
        return
    try:
        from distributed import Client
        from distributed.comm import CommClosedError
    except ImportError:
        raise Stop('--backend dask needs the package distributed: '
                   'python -m pip install -r requirements-cluster.txt') from None
    try:
        client = Client(scheduler, timeout=5)
    except (OSError, ValueError) as error:
        raise Stop(f'--scheduler {scheduler}: no Dask scheduler answers there ({error})') from error
    with client:
        try:
            client.wait_for_workers(1, timeout=5)
        except TimeoutError:
            raise Stop(f'--scheduler {scheduler}: it has no workers; start some with: dask worker {scheduler}') from None
        for module in UPLOADED:
            client.upload_file(str(Path(__file__).with_name(f'{module}.py')))
        if strangers := {version for version in client.run(torch_version).values() if version != torch.__version__}:
            raise Stop(f'--scheduler {scheduler}: a worker has torch {", ".join(strangers)} instead of '
                       f'{torch.__version__}, so that its numbers would differ')
        with joblib.parallel_config(backend='dask'):
            try:
                yield
            except CommClosedError as error:
                raise Stop(f'--scheduler {scheduler}: the connection is lost') from error


def torch_version():
    return torch.__version__


def command_to_resume(output_dir):
    """The command line that goes on where this one was interrupted."""
    arguments = [argument for argument in sys.argv if argument != '--resume']
    if '--dry-run' in arguments and not any(argument.startswith('--output-dir') for argument in arguments):
        arguments += ['--output-dir', str(output_dir)]
    return shlex.join(['python', *arguments, '--resume'])
