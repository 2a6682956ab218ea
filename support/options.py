"""The command line: options and defaults of training.py, and argument types for all programs."""

import argparse
import contextlib
import tempfile
from pathlib import Path

import joblib
import torch

from Classifier import PLACEMENTS
from load_data import DEFAULT_PATH
from ProxLSTM import describe_solver
from support.checkpoints import hash_file

ROOT = Path(__file__).resolve().parents[1]
ASSIGNMENT_EPSILONS = {'AdvLSTM': (0.01, 0.1, 1.0), 'ProxLSTM': (0.1, 1.0, 5.0)}
ASSIGNMENT_EPOCHS = {'AdvLSTM': 50, 'ProxLSTM': 100}  # the assignment's limit for these epsilons
CHOSEN_EPSILON = {'AdvLSTM': 2.0, 'ProxLSTM': 2.0}    # by --tune, see report/README.md
TUNING_GRID = {'AdvLSTM': (0, 0.03, 0.1, 0.3, 1, 2, 3, 5, 10),
               'ProxLSTM': (0, 0.5, 2, 5, 10, 30, 100, 300)}
OPTIMIZER = {'plain': {'lr': 1e-3, 'weight_decay': 1e-3},
             'AdvLSTM': {'lr': 5e-4, 'weight_decay': 1e-4},
             'ProxLSTM': {'lr': 1e-3, 'weight_decay': 1e-3}}
AVERAGE_DECAY = 0.99  # per minibatch, by cross-validation, see report/README.md
PREFIX = {'plain': 'base', 'AdvLSTM': 'adv', 'ProxLSTM': 'prox'}  # of options and checkpoints
MODE_OF_PREFIX = {prefix: mode for mode, prefix in PREFIX.items()}


def number_type(kind, low, high, expected):
    """Return an argument type: numbers of `kind` from `low` to `high`; say what was `expected`."""
    def convert(text):
        with contextlib.suppress(ValueError):
            if low <= kind(text) <= high:
                return kind(text)
        raise argparse.ArgumentTypeError(f'{text!r}, expected {expected}')

    return convert


positive_int = number_type(int, 1, 2**31 - 1, 'a whole number above 0')
fold_count = number_type(int, 2, 2**31 - 1, 'a whole number above 1')
# Beyond 1e30, float32 overflows in Adam.
non_negative = number_type(float, 0, 1e30, 'a number from 0 to 1e30')
positive = number_type(float, 1e-300, 1e30, 'a number above 0, up to 1e30')
probability = number_type(float, 1e-300, 1 - 1e-9, 'a probability between 0 and 1')


def dropout_placement(text):
    placement, _, p = text.partition('=')
    if placement not in PLACEMENTS:
        raise argparse.ArgumentTypeError(f'{text!r}, expected PLACE=P, where PLACE is one of '
                                         f'{", ".join(PLACEMENTS)}')
    return placement, probability(p or '0.5')


def device_name(text):
    try:
        torch.zeros(1, device=text).item()  # 'meta' fails here
    except Exception as error:  # torch raises many kinds for devices that it knows by name only
        raise argparse.ArgumentTypeError(f'{text!r} is not a usable device here') from error
    return text


def add_run_arguments(parser, seeds=3, jobs=joblib.cpu_count()):
    """Add --seeds, --jobs, --output-dir and --dry-run."""
    parser.add_argument('--seeds', type=positive_int, default=seeds,
                        help='number of seeds')
    parser.add_argument('--jobs', type=positive_int, default=jobs,
                        help='number of parallel processes')
    parser.add_argument('--output-dir', type=Path, default=argparse.SUPPRESS,
                        help='folder for plots/ and checkpoints/ (default: this repository; with '
                             '--dry-run a temporary folder)')
    parser.add_argument('--dry-run', action='store_true',
                        help='run everything with little work, in a temporary folder')


def add_device_argument(parser):
    """Add --device."""
    parser.add_argument('--device', type=device_name, default='cpu', help='cpu, cuda, …')


def prepare_output_dir(args, name):
    """Set `args.output_dir` if it was not given, and create its folders plots/ and checkpoints/.

    Raises OSError with one sentence if they cannot be created.
    """
    if 'output_dir' not in args:
        args.output_dir = Path(tempfile.mkdtemp(prefix=f'{name}-') if args.dry_run else ROOT)
    for folder in (args.output_dir / 'plots', args.output_dir / 'checkpoints'):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f'--output-dir: the folder {folder} cannot be created '
                          f'({error.strerror})') from error


def get_args(argv=None):
    """Parse training.py's command line."""
    parser = argparse.ArgumentParser(description='Adversarial training on sequence classification.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data', type=Path, default=DEFAULT_PATH,
                        help='.mat file, see load_data.py')
    add_run_arguments(parser, jobs=argparse.SUPPRESS)  # its default depends on the backend
    parser.add_argument('--first-seed', type=number_type(int, 0, 2**31 - 1, 'a whole number'),
                        default=0,
                        help='the seeds are this one and those after it (not with --tune)')
    parser.add_argument('--epochs', type=positive_int, default=100,
                        help='of the base model, the chosen epsilons, their controls and section '
                             '6; at most 50 and 100 for other epsilons of AdvLSTM and ProxLSTM')
    parser.add_argument('--resume', action='store_true', help='resume an interrupted sweep')
    add_device_argument(parser)
    parser.add_argument('--backend', choices=('loky', 'dask'), default='loky',
                        help='local processes or a Dask cluster')
    parser.add_argument('--scheduler', metavar='tcp://HOST:PORT', default=argparse.SUPPRESS,
                        help='address of the Dask scheduler')

    group = parser.add_argument_group('model')
    group.add_argument('--hidden-size', type=positive_int, default=50, help='of the LSTM')
    group.add_argument('--out-channels', type=positive_int, default=64, help='of the convolution')
    group.add_argument('--kernel-size', type=positive_int, default=3, help='of the convolution')
    group.add_argument('--stride', type=positive_int, default=1, help='of the convolution')
    places = ', '.join(PLACEMENTS)
    group.add_argument('--dropout', type=dropout_placement, nargs='*', metavar='PLACE=P',
                       default=[('lstm_input', 0.5)],
                       help=f'section 6: places ({places}), a run for each')
    group.add_argument('--batch-norm', choices=PLACEMENTS, nargs='*', default=['conv'],
                       help='section 6: places, a run for each')

    group = parser.add_argument_group('optimization')
    group.add_argument('--batch-size', type=positive_int, default=27,
                       help='sequences per minibatch')
    group.add_argument('--clip-value', type=positive, default=0.1,
                       help='bound on each gradient entry')
    group.add_argument('--average-decay', type=probability, default=AVERAGE_DECAY,
                       help='decay of the moving average of the weights, per minibatch')
    for mode, prefix in PREFIX.items():
        for name, kind, text in (('lr', positive, 'learning rate'),
                                 ('weight_decay', non_negative, 'L2 penalty')):
            group.add_argument(f'--{prefix}-{name.replace("_", "-")}', type=kind,
                               default=OPTIMIZER[mode][name], help=f"{mode}: Adam's {text}")
    for mode, epsilons in ASSIGNMENT_EPSILONS.items():
        prefix = PREFIX[mode]
        group.add_argument(f'--{prefix}-epsilon', type=positive, default=CHOSEN_EPSILON[mode],
                           help=f'{mode}: chosen epsilon, by --tune {prefix}')
        group.add_argument(f'--{prefix}-epsilons', type=positive, nargs='+', default=epsilons,
                           metavar='EPSILON', help=f'{mode}: other epsilons to train')

    group = parser.add_argument_group('choosing epsilon, instead of sections 2 to 6')
    group.add_argument('--tune', choices=('adv', 'prox'),
                       help='cross-validate over --grid within the training set')
    group.add_argument('--grid', type=non_negative, nargs='+', metavar='EPSILON',
                       default=argparse.SUPPRESS, help='epsilons to compare with 0 (default: '
                       f'{TUNING_GRID["AdvLSTM"]} or {TUNING_GRID["ProxLSTM"]})')
    group.add_argument('--folds', type=fold_count, default=5, help='of cross-validation')
    group.add_argument('--repeats', type=positive_int, default=3, help='of cross-validation')

    args = parser.parse_args(argv)
    if args.dry_run:
        args.epochs = 2
    if args.tune:  # epsilon 0 is the control of all others
        grid = getattr(args, 'grid', TUNING_GRID[MODE_OF_PREFIX[args.tune]])
        args.grid = sorted({0.0, *map(float, grid)})
    elif 'grid' in args:
        parser.error('argument --grid: only with --tune')
    if (args.backend == 'dask') != ('scheduler' in args):
        parser.error('argument --scheduler: expected with --backend dask, and only with it')
    if 'jobs' not in args:
        args.jobs = joblib.cpu_count() if args.backend == 'loky' else -1  # all of the cluster
    if args.resume and args.dry_run and 'output_dir' not in args:
        parser.error('argument --resume: a dry run can be resumed only with --output-dir')
    return args


def check_args(args, train_set):
    """Raise ValueError for options that the data does not allow; print what it changes."""
    if train_set[0].inputs.shape[2] == 1:
        print('The data has a single feature: its steps are not normalized, which would leave only '
              'their signs.')
    for batch in train_set if not args.tune else ():
        steps = (batch.lengths - args.kernel_size) // args.stride + 1
        values = {'input': batch.lengths.sum(), 'output': len(steps)}
        for placement in args.batch_norm:
            if values.get(placement, steps.sum()) < 2:
                raise ValueError(f'--batch-norm {placement} needs two values per channel, but '
                                 f'--batch-size {args.batch_size} leaves a minibatch with one')


def variants(args):
    """Return the names of section 6's variants, `Run.variant`."""
    names = [f'dropout {placement} {p}' for placement, p in args.dropout]
    return list(dict.fromkeys(names + [f'batch norm {placement}' for placement in args.batch_norm]))


def epochs_by_epsilon(args, mode):
    """Return {epsilon: epochs} of a sweep, ascending, with the control and the chosen epsilon."""
    epsilons = getattr(args, f'{PREFIX[mode]}_epsilons')
    epochs = dict.fromkeys(epsilons, min(args.epochs, ASSIGNMENT_EPOCHS[mode]))
    epochs |= {0.0: args.epochs, chosen_epsilon(args, mode): args.epochs}
    return dict(sorted(epochs.items()))


def chosen_epsilon(args, mode):
    return getattr(args, f'{PREFIX[mode]}_epsilon')


def config_of(args):
    """Return the options that the numbers depend on, and the versions, as results.json has them."""
    other = 'output_dir', 'jobs', 'backend', 'scheduler', 'resume', 'dry_run'
    config = {key: value for key, value in vars(args).items() if key not in other}
    return config | {'data': args.data.name, 'data_sha256': hash_file(args.data), **environment()}


def environment():
    """Return the versions that must match for two runs to give equal numbers.

    The solver matters only to ProxLSTM on a CPU, but is compared for every run.
    """
    return {'torch': torch.__version__, 'solver': describe_solver()}


def hyperparameters(args, run):
    """Return what training `run` depends on besides its model and data, as results.json has it."""
    prefix = PREFIX[run.mode]
    return {'epochs': run.epochs, 'batch_size': args.batch_size,
            'lr': getattr(args, f'{prefix}_lr'),
            'weight_decay': getattr(args, f'{prefix}_weight_decay'), 'clip_value': args.clip_value,
            'average_decay': args.average_decay}


def model_arguments(args, run, batches):
    """Return the arguments of LSTMClassifier for `run` on data like `batches`."""
    arguments = {'input_size': batches[0].inputs.shape[2],
                 'hidden_size': args.hidden_size,
                 'output_size': 1 + max(batch.targets.max().item() for batch in batches),
                 'out_channels': args.out_channels, 'kernel_size': args.kernel_size,
                 'stride': args.stride, 'epsilon': run.epsilon if run.mode == 'ProxLSTM' else 0.0}
    if run.variant.startswith('dropout '):
        _, placement, p = run.variant.split()
        arguments['dropout'] = {placement: float(p)}
    elif run.variant:
        arguments['batch_norm'] = [run.variant.removeprefix('batch norm ')]
    return arguments
