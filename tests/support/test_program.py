"""How programs end.

    python -m pytest tests/support/test_program.py
"""

import os
import subprocess
import sys

import pytest

from support.parallel import one_thread, parallel_map, seeded
from tests.helpers import ROOT

PROGRAM = '''
import os, signal, sys, time
from support.program import run_program

def main(what):
    print('ε = 1')
    if what == 'refuse':
        error = ValueError('x.mat: bad')
        error.add_note('More.')
        raise error
    if what == 'interrupt':
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(9)
    if what == 'interrupt a callback':
        class Callback:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
        Callback()
        time.sleep(9)
    if what == 'terminate':
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(9)

run_program(main, lambda: sys.argv[1])
'''


def run(what, **options):
    return subprocess.run([sys.executable, '-c', PROGRAM, what], cwd=ROOT, text=True, timeout=60,
                          **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options})


@pytest.mark.parametrize('what, status, message', [
    ('refuse', 2, 'x.mat: bad More.\n'), ('interrupt', 130, '\nInterrupted.\n'),
    ('interrupt a callback', 130, '\nInterrupted.\n'), ('terminate', 143, '\nInterrupted.\n')])
def test_a_program_ends_with_one_sentence_and_a_status(what, status, message):
    done = run(what)
    assert (done.returncode, done.stderr) == (status, message) and done.stdout == 'ε = 1\n'


def test_output_that_cannot_be_encoded_or_written_is_no_error():
    done = run('finish', env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
    assert (done.returncode, done.stdout, done.stderr) == (0, '? = 1\n', '')
    closed = subprocess.run([sys.executable, '-c', PROGRAM, 'refuse'], cwd=ROOT, timeout=60,
                            preexec_fn=lambda: (os.close(1), os.close(2)))
    assert closed.returncode == 2


def test_parallel_map_keeps_the_order_and_ends_with_the_first_error():
    assert parallel_map(pow, [{'base': k, 'exp': 2} for k in range(4)], 2, 'squares') == [0, 1, 4, 9]
    with pytest.raises(ZeroDivisionError):
        parallel_map(pow, [{'base': 0, 'exp': -1}], 1, 'fails')


def test_seeded_gives_the_same_numbers_and_restores_generator_and_threads(two_threads):
    import torch
    before, numbers = torch.get_rng_state(), []
    for _ in range(2):
        with seeded(3):
            numbers.append(torch.rand(4))
            assert torch.get_num_threads() == 1
    assert torch.equal(*numbers) and torch.equal(torch.get_rng_state(), before)
    with one_thread():
        pass
    assert torch.get_num_threads() == 2
