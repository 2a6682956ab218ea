"""Kill and corrupt, many times over, and see that nothing is lost and nobody gets a wrong number without a word.

    python tests/torture.py                          # both parts, in full: about six minutes on two cores
    python tests/torture.py --kills 3 --files 50

Part one runs a short sweep N times, kills with SIGKILL the program, one of its workers or all of them at a random moment,
perhaps once more while it is resumed, lets it end, and compares every number, weight and figure bit for bit with the
undisturbed sweep. Part two damages a file N times: a checkpoint or a compressed .mat file must give the same values
or be refused in a sentence, any other file be valid by its schema or refused; none may raise something else, hang or
crash, for which reason a process of its own reads them.
"""

import argparse
import concurrent.futures
import hashlib
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from scipy.io import loadmat, savemat
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

from load_data import load_data  # noqa: E402
from runs import read_checkpoint, read_results  # noqa: E402
from test_runs import outcome, run_program, small_data, start_program, sweep_arguments  # noqa: E402


# ---------------------------------------------------------------------------------------------- killing

def killed_and_resumed(arguments, folder, duration, generator):
    """Start the sweep, kill, resume until it ends. Returns what was killed, as words."""
    words, more = [], []
    for _ in range(2):
        process = start_program(arguments, folder, '--jobs', 2, *more)
        target = generator.choice(['program', 'worker', 'all'])
        time.sleep(generator.uniform(0, duration))
        workers = []
        if process.poll() is None:
            parent = psutil.Process(process.pid)
            workers = [child for child in parent.children(recursive=True) if 'popen_loky' in ' '.join(child.cmdline())]
            victims = {'program': [parent], 'worker': workers[:1], 'all': [*workers, parent]}[target]
            for victim in victims:
                victim.kill()
            words.append(target if victims else 'nothing')
        else:
            words.append('nothing')
        _, stderr = process.communicate(timeout=120)
        assert 'Traceback' not in stderr, stderr
        more = ['--resume']
        if process.returncode == 0 or generator.random() < 0.5:
            break
    done = run_program(arguments, folder, '--jobs', 2, *more)
    assert done.returncode == 0, done.stderr
    return ', '.join(words)


def kill_many(count, generator):
    counts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        arguments = sweep_arguments(small_data(folder / 'waves.mat'))
        start = time.monotonic()
        done = run_program(arguments, folder / 'undisturbed', '--jobs', 2)
        duration = time.monotonic() - start
        assert done.returncode == 0, done.stderr
        for n in tqdm(range(count), desc='kills'):
            counts[killed_and_resumed(arguments, folder / str(n), duration, generator)] += 1
            assert outcome(folder / str(n)) == outcome(folder / 'undisturbed')
            for figure in (folder / 'undisturbed' / 'plots').glob('*.png'):
                assert (folder / str(n) / 'plots' / figure.name).read_bytes() == figure.read_bytes()
            shutil.rmtree(folder / str(n))
    return counts


# ---------------------------------------------------------------------------------------------- damaging

def damage(content, generator):
    """(how, other bytes)."""
    how = generator.choice(['bit flips', 'truncation', 'random bytes', 'a piece removed', 'two pieces swapped'])
    data, n = bytearray(content), len(content)
    if how == 'bit flips':
        for _ in range(generator.choice([1, 1, 3, 30])):
            data[generator.randrange(n)] ^= 1 << generator.randrange(8)
    elif how == 'truncation':
        del data[generator.randrange(n):]
    elif how == 'random bytes':
        start = generator.randrange(n)
        data[start:start + generator.choice([1, 8, 300])] = generator.randbytes(generator.choice([1, 8, 300]))
    else:
        a, b, c = sorted(generator.randrange(n) for _ in range(3))
        data = data[:a] + data[b:] if how == 'a piece removed' else data[:a] + data[b:c] + data[a:b] + data[c:]
    return how, bytes(data)


def variables_of(path):
    return {name: value for name, value in loadmat(path).items() if not name.startswith('__')}


def rearranged(path, generator):
    """(how, the bytes of a compressed .mat file with a variable dropped, or two swapped)."""
    variables = variables_of(path)
    a, b = generator.sample(sorted(variables), 2)
    how = generator.choice(['variable dropped', 'variables swapped'])
    if how == 'variable dropped':
        del variables[a]
    else:
        variables[a], variables[b] = variables[b], variables[a]
    copy = path.with_name('rearranged.mat')
    savemat(copy, variables, do_compression=True)
    return how, copy.read_bytes()


def fingerprint(value):
    """A checksum of a nest of dictionaries, sequences, arrays, tensors and plain values."""
    if isinstance(value, dict):
        value = [fingerprint(item) for pair in value.items() for item in pair]
    elif isinstance(value, (list, tuple)):
        value = [fingerprint(item) for item in value]
    elif hasattr(value, 'numpy'):
        value = value.dtype, value.shape, hashlib.sha256(value.numpy().tobytes()).hexdigest()
    return hashlib.sha256(repr(value).encode()).hexdigest()


READERS = {'checkpoint': read_checkpoint, 'results.json': read_results, 'compressed .mat': load_data, '.mat': load_data}


def read(kind, path):
    """('read', fingerprint) or ('refused', the sentence)."""
    try:
        return 'read', fingerprint(READERS[kind](path))
    except (ValueError, FileNotFoundError) as error:
        return 'refused', str(error)


def damage_many(count, generator):
    counts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        whole = {'compressed .mat': small_data(folder / 'compressed.mat'), '.mat': folder / 'plain.mat'}
        savemat(whole['.mat'], variables_of(whole['compressed .mat']))
        arguments = sweep_arguments(whole['compressed .mat'])
        process = start_program(arguments, folder, '--jobs', 1)
        process.communicate()
        whole['checkpoint'] = folder / 'checkpoints' / 'base_seed0.pt'
        whole['results.json'] = folder / 'plots' / 'results.json'
        right = {kind: read(kind, path) for kind, path in whole.items()}
        assert all(what == 'read' for what, _ in right.values()), right
        pool = concurrent.futures.ProcessPoolExecutor(1)
        for n in tqdm(range(count), desc='files'):
            kind = generator.choice(['checkpoint', 'compressed .mat', 'results.json', '.mat'])
            if 'mat' in kind and generator.random() < 0.1:
                how, content = rearranged(whole[kind], generator)
            else:
                how, content = damage(whole[kind].read_bytes(), generator)
            path = folder / ('damaged.' + kind.rpartition('.')[2])
            path.write_bytes(content)
            try:
                what, detail = pool.submit(read, kind, path).result(timeout=60)
                if what == 'refused':
                    assert detail.startswith(f'{path}: ') and '\n' not in detail, detail
                elif kind in ('checkpoint', 'compressed .mat') and 'variable' not in how:
                    assert detail == right[kind][1], 'other values were read, without a word'
                counts[f'{kind}, {how}: {what}'] += 1
            except BaseException:
                kept = Path(tempfile.mkdtemp()) / path.name
                kept.write_bytes(content)
                print(f'\nFailed on {kind}, {how}; the file is kept as {kept}', file=sys.stderr)
                raise
        pool.shutdown()
    return counts


def main():
    parser = argparse.ArgumentParser(description='Kill runs and damage files, many times over.')
    parser.add_argument('--kills', type=int, default=20)
    parser.add_argument('--files', type=int, default=500)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    for name, part, count in (('files', damage_many, args.files), ('kills', kill_many, args.kills)):
        counts = part(count, random.Random(args.seed))
        print(f'{name}: {sum(counts.values())}, all as promised')
        for what, n in sorted(counts.items()):
            print(f'  {n:4d}  {what}')


if __name__ == '__main__':
    main()
