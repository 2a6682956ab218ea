"""What the companions share: how they begin and end, and the assignment's models that they go on from."""

import argparse
import contextlib
import hashlib
import json
import sys
import tempfile
from pathlib import Path

import joblib
import torch
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from load_data import DEFAULT_PATH, load_data  # noqa: E402
from runs import Runs, Stop, backend, leave, read_checkpoint  # noqa: E402
from training import (BEST_EPSILON, get_args, hyperparameters, model_arguments, positive_int,  # noqa: E402
                      run_name, train_run)

UCI_PATH = DEFAULT_PATH.with_name('JV_uci.mat')
EPOCHS = 100
MODELS = {'base': ('plain', 0.0),
          'Adv control': ('AdvLSTM', 0.0), 'Adv': ('AdvLSTM', BEST_EPSILON['AdvLSTM']),
          'Prox control': ('ProxLSTM', 0.0), 'Prox': ('ProxLSTM', BEST_EPSILON['ProxLSTM'])}


# ---------------------------------------------------------------------------------------------- the command line

def add_arguments(parser, seeds=3):
    parser.add_argument('--seeds', type=positive_int, default=seeds, help='how many seeds, from 0 up')
    parser.add_argument('--jobs', type=positive_int, default=joblib.cpu_count(), help='processes at a time')
    parser.add_argument('--output-dir', type=Path, default=argparse.SUPPRESS, help='folder for plots/ and checkpoints/ '
                        '(default: this repository; with --dry-run a temporary folder)')
    parser.add_argument('--dry-run', action='store_true', help='everything, in little')


def complete(args):
    """Set `output_dir` where it was not given."""
    if 'output_dir' not in args:
        temporary = args.dry_run and tempfile.mkdtemp(prefix=f'{Path(sys.argv[0]).stem}-')
        args.output_dir = Path(temporary or ROOT)


def make_folders(args):
    for folder in ('plots', 'checkpoints/companions'):
        (args.output_dir / folder).mkdir(parents=True, exist_ok=True)


def carry_out(parser, work, *arguments):
    """work(*arguments). What goes wrong in it ends the program with a sentence and status 2, Ctrl-C with 130."""
    try:
        with backend('loky', None):
            work(*arguments)
    except (ValueError, OSError, Stop) as error:
        parser.exit(2, f'{error}\n')
    except KeyboardInterrupt:
        leave('\nInterrupted.', 130)


def in_parallel(jobs, function, tasks, description):
    """function(**task) of each task, in order, `jobs` at a time."""
    return list(carried_out(jobs, [(function, task) for task in tasks], description))


def carried_out(jobs, calls, description):
    """The results of calls (function, its keyword arguments), one after the other, as they come to be known."""
    results = joblib.Parallel(n_jobs=jobs, return_as='generator')(joblib.delayed(on_one_thread)(*call) for call in calls)
    return tqdm(results, total=len(calls), desc=description)


def on_one_thread(function, arguments):
    """function(**arguments), so that the numbers do not depend on how many jobs there are."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(**arguments)
    finally:
        torch.set_num_threads(threads)


# ---------------------------------------------------------------------------------------------- models

def obtained(args, tasks, description):
    """A checkpoint for every task of {name: (config, function, arguments)}, by name.

    Read from checkpoints/companions/ where it was written with that config; else what function(**arguments) returns, a
    dictionary with 'arguments' and 'state_dict' of a model, made in `args.jobs` processes at a time, and saved there. So
    `config` is to hold everything that the result depends on.
    """
    folder = args.output_dir / 'checkpoints' / 'companions'
    found, lacking = {}, {}
    for name, (config, *call) in tasks.items():
        saved = readable(folder / f'{name}.pt')
        if saved and saved['config'] == json.loads(json.dumps(config)):
            found[name] = saved
        else:
            lacking[name] = config, *call
    if lacking:
        made = carried_out(args.jobs, [call for _, *call in lacking.values()], description)
        for checkpoint, (name, (config, *_)) in zip(made, lacking.items()):
            Runs(folder, config).save(name, {'run': name, **checkpoint})
            found[name] = checkpoint
    return {name: found[name] for name in tasks}


def readable(path):
    with contextlib.suppress(FileNotFoundError, ValueError):
        return read_checkpoint(path)


def data_digests():
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (DEFAULT_PATH, UCI_PATH)}


def state_digest(checkpoint):
    digest = hashlib.sha256()
    for key, value in checkpoint['state_dict'].items():
        digest.update(key.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def assignment_models(args, names=tuple(MODELS), epochs=EPOCHS):
    """Checkpoints of the models of MODELS named in `names`, by (name, seed): training.py's own, or trained as it does.

    training.py's are taken from checkpoints/ where they are of the same data, the same settings and their last epoch.
    """
    _, settings = get_args([])
    train, test = load_data(DEFAULT_PATH, settings.batch_size)
    arguments = model_arguments(settings, train)
    config = {'data_sha256': data_digests()[DEFAULT_PATH.name], 'torch': torch.__version__}
    small = test[:1]  # train_run evaluates after every epoch, for curves that nobody draws here
    nothing = torch.zeros(len(small[0].targets), dtype=torch.bool)

    def models(wanted):
        """Of each (name, seed), trained on from a state."""
        found, tasks, keys = {}, {}, {}
        for (name, seed), state in wanted.items():
            mode, epsilon = MODELS[name]
            run = {'mode': mode, 'epsilon': epsilon, 'seed': seed, 'variant': '',
                   'hyperparameters': hyperparameters(settings, mode, epochs)}
            saved = readable(args.output_dir / 'checkpoints' / f'{run_name(run)}.pt')
            if saved and run.items() <= saved['run'].items() and len(saved['run']['history']['train_loss']) == epochs and \
                    config.items() <= saved['config'].items() and arguments.items() <= saved['arguments'].items():
                found[name, seed] = saved
            else:
                keys[run_name(run)] = name, seed
                tasks[run_name(run)] = {**config, **run, 'arguments': arguments}, train_model_of_the_assignment, {
                    **run, 'model_arguments': arguments, 'state': state, 'train': train, 'test': small, 'unseen': nothing,
                    'device': 'cpu'}
        return found | {keys[name]: made for name, made in obtained(args, tasks, 'training').items()}

    seeds = range(args.seeds)
    bases = models({('base', seed): None for seed in seeds})
    return bases | models({(name, seed): bases['base', seed]['state_dict']
                           for name in names if name != 'base' for seed in seeds})


def train_model_of_the_assignment(**arguments):
    checkpoint = train_run(**arguments)
    if checkpoint['run']['diverged'] is not None:
        raise ValueError(f"{run_name(arguments)}: the loss was no longer finite in epoch {checkpoint['run']['diverged']}")
    return {key: checkpoint[key] for key in ('arguments', 'state_dict')}
