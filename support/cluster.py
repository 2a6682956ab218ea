"""Train on a Dask cluster instead of local processes.

    pip install -r requirements.txt -r requirements-extra.txt                  # on every machine
    dask scheduler --host 127.0.0.1                                      # on one machine
    dask worker tcp://127.0.0.1:8786 --nthreads 1 --nworkers 2           # on each, one per core
    python training.py --backend dask --scheduler tcp://127.0.0.1:8786   # results are written here

The workers need the same requirements and no shared disk: modules, data and weights are sent to
them. Epochs lost with a worker are retried elsewhere. `--resume`, the progress bar and the results
table are those of a local run, and so are the numbers on machines of the same kind. Anyone who can
reach a Dask scheduler can run code on its workers: keep it on a private network.
"""

import contextlib
import tempfile
import zipfile
from pathlib import Path

import joblib

from support.options import ROOT, environment
from support.program import import_optional
from support.sweep import describe_differences


@contextlib.contextmanager
def cluster_workers(scheduler):
    """Configure joblib for the workers of the Dask scheduler at an address.

    Raises ValueError if Dask is not installed, if no scheduler answers, if it has no workers or,
    at the start, workers with another torch or solver, and OSError when the connection is lost.
    """
    distributed = import_optional('distributed', '--backend dask')
    try:
        client = distributed.Client(scheduler, timeout=5)
    except (OSError, ValueError) as error:
        raise ValueError(f'--scheduler {scheduler}: no Dask scheduler answers there '
                         f'({error})') from error
    with client:
        try:
            client.wait_for_workers(1, timeout=5)
        except TimeoutError:
            raise ValueError(f'--scheduler {scheduler}: it has no workers; start some with: '
                             f'dask worker {scheduler}') from None
        upload_modules(client)
        for theirs in client.run(environment).values():
            if differences := describe_differences(theirs, environment()):
                raise ValueError(f'--scheduler {scheduler}: a worker has {differences}, so its '
                                 f'numbers would differ')
        with joblib.parallel_config(backend='dask'):
            try:
                yield
            except distributed.comm.CommClosedError as error:
                raise OSError(f'--scheduler {scheduler}: the connection is lost') from error


def upload_modules(client):
    """Send the modules that training imports to every worker."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / 'modules.zip'
        with zipfile.ZipFile(archive, 'w') as file:
            for path in (*ROOT.glob('*.py'), *ROOT.glob('support/*.py')):
                file.write(path, path.relative_to(ROOT))
        client.upload_file(str(archive))
