"""The sweep on a real Dask scheduler with two worker processes, against the local one.

    pip install -r requirements-extra.txt && python -m pytest tests/support/test_cluster.py
"""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import (needs_native_solver, outcome, run_program, start_program, wait_for,
                           worker_processes)

pytest.importorskip('distributed')


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    """A scheduler's address and its two workers, which cannot import the project from their folder.

    The first test kills one of them.
    """
    home, processes = tmp_path_factory.mktemp('cluster'), []

    def start(module, *arguments):
        command = [sys.executable, '-m', f'distributed.cli.{module}', *arguments]
        with open(home / f'{len(processes)}.log', 'w') as log:
            processes.append(subprocess.Popen(command, cwd=home, stdout=log, stderr=log))
        return processes[-1]

    scheduler = start('dask_scheduler', '--host', '127.0.0.1', '--port', '0', '--no-dashboard',
                      '--scheduler-file', 'scheduler.json')
    description = home / 'scheduler.json'
    wait_for(lambda: description.exists() and description.read_text().strip().endswith('}'),
             scheduler)
    address = json.loads(description.read_text())['address']
    workers = [start('dask_worker', address, '--nthreads', '1', '--no-nanny', '--no-dashboard',
                     '--local-directory', home) for _ in range(2)]
    for n, worker in enumerate(workers, start=1):
        wait_for(lambda: 'Registered to' in (home / f'{n}.log').read_text(), worker)
    yield address, workers
    for process in processes:
        process.kill()
        process.wait()


def test_a_cluster_gives_the_local_numbers_also_when_a_worker_dies(sweep, cluster, tmp_path):
    arguments, undisturbed = sweep
    address, (first, second) = cluster
    folder, remote = tmp_path / 'out', ('--backend', 'dask', '--scheduler', address)
    program = start_program(arguments, folder, *remote)
    wait_for(lambda: any((folder / 'checkpoints').glob('adv*')), program)
    assert not worker_processes(program.pid)  # the caller has no local workers
    first.kill()
    _, stderr = program.communicate()
    assert program.returncode == 0, stderr
    assert outcome(folder) == undisturbed

    (folder / 'checkpoints' / 'prox_epsilon2.0_seed0.pt').unlink()
    done = run_program(arguments, folder, *remote, '--resume')  # on the worker that is left
    assert done.returncode == 0 and 'ProxLSTM | 2 |' in done.stdout, done.stderr
    assert outcome(folder) == undisturbed


@needs_native_solver
def test_a_cluster_with_another_solver_is_refused(cluster, tmp_path):
    address, _ = cluster
    arguments = '--backend', 'dask', '--scheduler', address
    done = run_program(('--dry-run',), tmp_path / 'out', *arguments,
                       env={**os.environ, 'PROXLSTM_NATIVE': '0'})
    message, = done.stderr.splitlines()
    assert done.returncode == 2
    assert 'instead of "PyTorch", so its numbers would differ' in message
