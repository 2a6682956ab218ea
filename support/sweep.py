"""Train many models in parallel, save them every few epochs, and resume an interrupted sweep.

A worker takes a run's arguments and saved state by value, trains it for `SAVE_EVERY` epochs and
returns its new state: a function of what it was given. So it needs no disk, and a worker that dies
costs those epochs only. The caller alone writes files, one checkpoint for each run.
"""

import contextlib
import json
import sys
import threading
from dataclasses import asdict, dataclass

import filelock
import joblib
from joblib.externals.loky.process_executor import BrokenProcessPool

from support.checkpoints import hash_file, load_checkpoint, save_checkpoint
from support.options import PREFIX, environment, hyperparameters, model_arguments
from support.parallel import local_workers, parallel_map, start_parallel
from support.program import progress_bar

SAVE_EVERY = 10   # epochs
MAX_FAILURES = 3  # consecutive deaths of workers without any progress
HISTORY = ('train_loss', 'train_accuracy', 'test_accuracy', 'unseen_accuracy',
           'averaged_test_accuracy', 'averaged_unseen_accuracy')

one_at_a_time = threading.Lock()  # a Dask worker may have threads, but only one random generator


@dataclass(frozen=True)
class Run:
    """One model to train."""
    mode: str                     # 'plain', 'AdvLSTM' or 'ProxLSTM'
    epsilon: float = 0.0
    seed: int = 0
    variant: str = ''             # section 6: 'dropout PLACE P' or 'batch norm PLACE'
    fold: int | None = None       # of cross-validation
    epochs: int = 100
    start: 'Run | None' = None    # the run whose weights this one starts from

    @property
    def name(self):
        """The name of its checkpoint, such as prox_epsilon5.0_batch-norm-conv_seed0."""
        parts = [PREFIX[self.mode], f'epsilon{self.epsilon}' if self.mode != 'plain' else '',
                 self.variant.replace(' ', '-'),
                 f'seed{self.seed}' if self.fold is None else f'fold{self.fold}']
        return '_'.join(filter(None, parts))

    def __str__(self):
        where = f'seed {self.seed}' if self.fold is None else f'fold {self.fold}'
        parts = self.mode, f'epsilon {self.epsilon:g}', self.variant, where
        return ', '.join(filter(None, parts))


class Sweep:
    """The runs of one invocation, a checkpoint for each in `folder`; a context manager.

    Args:
        train: (run, args, data, start, saved, epochs) -> checkpoint, as training.train.
        data: Run -> (training batches, test batches, bool mask of unseen test sequences).
        args: the options. `--resume` continues with the checkpoints that are there; otherwise they
            are moved to `folder`/previous/.
        folder: where the checkpoints are; default: `args.output_dir`/checkpoints.

    Raises ValueError if another process uses the folder, for a checkpoint of other settings, and
    for a cluster that does not answer. An OSError or an interrupt gets a note that says what is
    saved and how to resume.
    """

    def __init__(self, train, data, args, folder=None):
        self.train_one, self.data, self.args = train, data, args
        self.folder = folder or args.output_dir / 'checkpoints'
        self.data_sha256 = hash_file(args.data)
        self.runs = []     # in the order in which train() was called for them
        self.entries = {}  # Run -> its entry for results.json, as far as it is trained

    def __enter__(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            lock = filelock.FileLock(self.folder / '.lock')
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except filelock.Timeout:
                raise ValueError(f'{self.folder}: another process is writing there; wait for its '
                                 f'end or give another --output-dir') from None
            for unfinished in self.folder.glob('*.tmp'):
                unfinished.unlink()
            if self.args.backend == 'dask':
                from support.cluster import cluster_workers
                stack.enter_context(cluster_workers(self.args.scheduler))
            else:
                stack.enter_context(local_workers())
            if not self.args.resume:
                self.move_to_previous()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, (OSError, KeyboardInterrupt)):
            error.add_note(self.describe_saved())
        return self.stack.__exit__(kind, error, traceback)

    def move_to_previous(self):
        checkpoints, previous = list(self.folder.glob('*.pt')), self.folder / 'previous'
        if checkpoints:
            print(f'{len(checkpoints)} checkpoints of an earlier run are moved to {previous}',
                  file=sys.stderr)
            previous.mkdir(exist_ok=True)
            for path in previous.glob('*.pt'):
                path.unlink()
        for path in checkpoints:
            path.replace(previous / path.name)

    def train(self, runs, description='training'):
        """Train every run to its end, those that they start from first; return their entries.

        An entry is what results.json holds of a run. A run whose base model diverged is not
        trained: it is entered as diverged in epoch 0.
        """
        runs = list(runs)
        starts = dict.fromkeys(run.start for run in runs if run.start)
        if missing := [run for run in starts if run not in self.entries]:
            self.train(missing, 'base model')
        self.runs += runs
        for run in runs:
            if run.start and self.entries[run.start]['diverged'] is not None:
                print(f'{run}: not trained, because its base model diverged', file=sys.stderr)
                self.entries[run] = {**new_entry(run, self.args), 'diverged': 0}
            elif self.args.resume:
                self.find_saved(run)
        total, done = sum(run.epochs for run in runs), sum(map(self.epochs_done, runs))
        failures = 0
        with progress_bar(desc=description, unit='epoch', total=total, initial=done) as bar:
            while unfinished := [run for run in runs if self.epochs_done(run) < run.epochs]:
                before = sum(map(self.epochs_done, runs))
                try:
                    self.train_round(unfinished, bar)
                except worker_deaths() as error:
                    advanced = sum(map(self.epochs_done, runs)) > before
                    failures = 1 if advanced else failures + 1
                    if failures == MAX_FAILURES:
                        raise ChildProcessError('The worker processes are killed repeatedly '
                                                '(out of memory?).') from error
                    bar.write('A worker process was killed; its epochs are retried.',
                              file=sys.stderr)
                except RuntimeError as error:
                    if 'allocate' not in str(error):  # torch's words for out of memory
                        raise
                    raise OSError(f'Training failed: {str(error).splitlines()[0]} (a smaller '
                                  f'--hidden-size, --out-channels or --batch-size may help)'
                                  ) from error
        return [self.entries[run] for run in runs]

    def train_round(self, runs, bar):
        """Train every run for `SAVE_EVERY` epochs, the slowest first, and save it."""
        def cost(run):
            return run.mode == 'ProxLSTM' and run.epsilon > 0, run.mode == 'AdvLSTM'

        def saved(run):
            with contextlib.suppress(OSError):  # a file that is gone costs its run only
                return self.load(run) if run in self.entries else None

        calls = [joblib.delayed(advance)(self.train_one, run, self.args, self.data(run),
                                         self.load(run.start) if run.start else None,
                                         saved(run))
                 for run in sorted(runs, key=cost, reverse=True)]
        for run, checkpoint in start_parallel(calls, self.args.jobs, 'generator_unordered'):
            before = self.epochs_done(run)
            self.save(run, checkpoint)
            bar.update(self.epochs_done(run) - before)
            if (epoch := checkpoint['run']['diverged']) is not None:
                bar.write(f'{run}: the loss was not finite in epoch {epoch}; this run ends there',
                          file=sys.stderr)

    def find_saved(self, run):
        """Read the entry of a saved run, if there is one; rename a damaged checkpoint.

        Raises ValueError if it was written with other settings, or for another run.
        """
        path = self.path(run)
        try:
            saved = load_checkpoint(path)
            if 'run' not in saved or not isinstance(saved.get('config'), dict):
                raise ValueError(f'{path}: not a checkpoint of this program')
        except FileNotFoundError:
            return
        except ValueError as error:
            path.replace(path.with_name(f'{path.name}.damaged'))
            print(f'{error}; it is now {path.name}.damaged, and its run is retrained',
                  file=sys.stderr)
            return
        if differences := describe_differences(saved['config'], self.config_of(run)):
            raise ValueError(f'{path}: cannot be resumed, it was written with {differences}; give '
                             f'the same arguments, or start over without --resume')
        self.entries[run] = saved['run']

    def config_of(self, run):
        """Return everything that the numbers of `run` depend on, as JSON values."""
        config = {**asdict(run), **hyperparameters(self.args, run),
                  **model_arguments(self.args, run, self.data(run)[0]),
                  'start': run.start and self.config_of(run.start), 'device': self.args.device,
                  'data_sha256': self.data_sha256, **environment()}
        if run.fold is not None:
            config |= {'folds': self.args.folds}
        return json.loads(json.dumps(config))

    def save(self, run, checkpoint):
        save_checkpoint(self.path(run), {**checkpoint, 'config': self.config_of(run)})
        self.entries[run] = checkpoint['run']

    def load(self, run):
        """Return the checkpoint of `run`, as saved. Raises OSError if it is missing or damaged."""
        try:
            return load_checkpoint(self.path(run))
        except (OSError, ValueError) as error:
            raise OSError(f'{self.path(run)}: missing or damaged since it was written') from error

    def path(self, run):
        return self.folder / f'{run.name}.pt'

    def epochs_done(self, run):
        """Return how many epochs of `run` are trained; all of them if it diverged."""
        entry = self.entries.get(run)
        if entry is None:
            return 0
        return run.epochs if entry['diverged'] is not None else len(entry['history']['train_loss'])

    def describe_saved(self):
        count = len(list(self.folder.glob('*.pt')))
        if not count:
            return 'Nothing has been saved yet.'
        # A dry run's folder is a temporary one, which has to be named.
        folder = f'--output-dir {self.args.output_dir} ' if self.args.dry_run else ''
        added = '' if self.args.resume else f' and {folder}--resume'
        return (f'{count} runs are saved in {self.folder}, up to their last checkpoint. Resume '
                f'with the same command{added}.')


def new_entry(run, args):
    """Return what results.json holds of a run before its first epoch."""
    return {'mode': run.mode, 'epsilon': run.epsilon, 'seed': run.seed, 'variant': run.variant,
            'hyperparameters': hyperparameters(args, run),
            'history': {key: [] for key in HISTORY}, 'diverged': None, 'seconds': 0.0}


def advance(train, run, args, data, start, saved):
    with one_at_a_time:
        return run, train(run, args, data, start, saved, SAVE_EVERY)


def worker_deaths():
    """Return the exceptions by which joblib's backends say that a worker died."""
    distributed = sys.modules.get('distributed')
    return (BrokenProcessPool, distributed.KilledWorker) if distributed else BrokenProcessPool


def describe_differences(old, new):
    """Describe how two configurations differ; '' if they are equal."""
    words = []
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            value = f'{key} {json.dumps(old[key])}' if key in old else f'no {key}'
            words.append({'data_sha256': 'another data file', 'start': 'another base model'}.get(
                key, f'{value} instead of {json.dumps(new.get(key))}'))
    return ', '.join(words)


def load_or_train(path, config, function):
    """Load the checkpoint at `path` if it was written with `config`; otherwise train and save it.

    `config` holds everything that the result depends on, as JSON takes it. function() returns a
    dictionary of tensors and plain values.
    """
    config = json.loads(json.dumps(config))
    with contextlib.suppress(OSError, ValueError):
        checkpoint = load_checkpoint(path)
        if checkpoint.get('config') == config:
            return checkpoint
    checkpoint = {**function(), 'config': config}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, checkpoint)
    return checkpoint


def load_or_train_all(args, tasks, description):
    """Return {key: checkpoint} for {key: (file name, config, function)}, see load_or_train.

    The files are in checkpoints/companions/; `args.jobs` processes train what is missing there.
    """
    folder = args.output_dir / 'checkpoints' / 'companions'
    calls = [{'path': folder / f'{name}.pt', 'config': config, 'function': function}
             for name, config, function in tasks.values()]
    return dict(zip(tasks, parallel_map(load_or_train, calls, args.jobs, description)))
