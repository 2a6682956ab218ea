"""Parallel processes on one thread each, and seeding: what makes runs fast and reproducible."""

import contextlib
import os
import signal
import threading
import time
import warnings
from multiprocessing import resource_tracker as multiprocessing_tracker

import joblib
import torch
from joblib.externals.loky.backend import resource_tracker as loky_tracker

from support.program import progress_bar

# joblib replaces a worker whose memory has grown much; no task is lost.
warnings.filterwarnings('ignore', 'A worker stopped while some jobs', UserWarning)


def parallel_map(function, tasks, jobs, description):
    """Return [function(**task) for task in tasks], from `jobs` processes of one thread each."""
    tasks = list(tasks)
    with local_workers():
        calls = [joblib.delayed(call_on_one_thread)(function, task) for task in tasks]
        with progress_bar(total=len(tasks), desc=description) as bar:
            results = []
            for result in start_parallel(calls, jobs, 'generator'):
                results.append(result)
                bar.update()
    return results


def start_parallel(calls, jobs, return_as):
    """Start a list of joblib.delayed calls in `jobs` processes; return a generator of the results.

    SIGINT is blocked while the processes start. They inherit this, so that Ctrl-C interrupts only
    the calling process, which ends them.
    """
    on_posix = hasattr(signal, 'pthread_sigmask')
    if on_posix:
        for tracker in (loky_tracker, multiprocessing_tracker):
            tracker.ensure_running()  # starting it would unblock SIGINT
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return joblib.Parallel(min(jobs, len(calls)) or 1, return_as=return_as)(calls)
    finally:
        if on_posix:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def call_on_one_thread(function, arguments):
    with one_thread():
        return function(**arguments)


@contextlib.contextmanager
def one_thread():
    """Run torch on one thread: sums are then added in one order, whatever the machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def seeded(seed, device='cpu'):
    """Run on one thread with torch's random generators seeded; restore both afterwards."""
    devices = None if torch.device(device).type == 'cuda' else []  # None: all CUDA devices
    with one_thread(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def local_workers():
    """Configure joblib for processes that have one thread each and end with this one."""
    return joblib.parallel_config('loky', inner_max_num_threads=1,
                                  initializer=prepare_worker, initargs=(os.getpid(),))


def prepare_worker(parent):
    """Ignore Ctrl-C where SIGINT could not be blocked; exit when the parent process has ended."""
    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
