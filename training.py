"""Adversarial training on sequence classification: the whole assignment, in its order.

    python training.py                                     # train, save, reload, sweep epsilon, plot; closing table
    python training.py --dry-run                           # the same in two epochs, into a temporary folder
    python training.py --tune adv                          # choose epsilon by cross-validation on the training set
    python training.py --data data/JV_uci.mat --seeds 8 --output-dir uci

Section 2 trains the base model. Section 3 saves it, and every later model starts from the saved file. Section 4 trains
with AdvLSTM, section 5 with ProxLSTM, section 6 adds dropout and batch normalisation to ProxLSTM. Each sweep over
epsilon holds its control, the identical run at epsilon = 0, because training on for as many epochs changes the accuracy by itself.

Written under --output-dir: plots/*.png, plots/results.json and checkpoints/*.pt. A checkpoint is read back with

    checkpoint = torch.load(path, weights_only=True)
    model = LSTMClassifier(**checkpoint['arguments'])
    model.load_state_dict(checkpoint['state_dict'])
"""

import argparse
import hashlib
import io
import json
import math
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F
from tqdm import tqdm

from Classifier import PLACEMENTS, LSTMClassifier
from load_data import DEFAULT_PATH, Batch, load_data, make_batches, seen_in_training, sequences_of, targets_of

# The assignment's epsilons and the epochs it grants them, and the best ones: AdvLSTM's is what --tune adv chose,
# ProxLSTM's an earlier cross-validation (README.md).
SWEEPS = {'AdvLSTM': {'epsilons': (0.01, 0.1, 1.0), 'epochs': 50},
          'ProxLSTM': {'epsilons': (0.1, 1.0, 5.0), 'epochs': 100}}
BEST_EPSILON = {'AdvLSTM': 5.0, 'ProxLSTM': 2.0}
OPTIMISER = {'plain': {'lr': 1e-3, 'weight_decay': 1e-3},
             'AdvLSTM': {'lr': 5e-4, 'weight_decay': 1e-4},
             'ProxLSTM': {'lr': 1e-3, 'weight_decay': 1e-3}}
GRIDS = {'AdvLSTM': (0, 0.03, 0.1, 0.3, 1, 2, 3, 5, 10), 'ProxLSTM': (0, 0.1, 0.3, 1, 2, 3, 5, 10, 30)}
EVALUATION_BATCH = 128  # sequences: large batches are fast
PREFIX = {'plain': 'base', 'AdvLSTM': 'adv', 'ProxLSTM': 'prox'}
MODES = {prefix: mode for mode, prefix in PREFIX.items()}


# ---------------------------------------------------------------------------------------------- one epoch

def compute_perturbation(loss, model):
    """The direction r = g / ‖g‖₂ in which each sequence's LSTM input raises its loss fastest.

    g is the gradient of `loss` with respect to `model.v` [B, T', C]. There is one norm a sequence, over all its steps
    and channels. Returns r, of the shape of `model.v`, each sequence's norm 1, or 0 where g is 0; a constant: no
    gradient flows through it. The graph of `loss` stays usable. (Miyato, Dai and Goodfellow, arXiv:1605.07725.)
    """
    g, = torch.autograd.grad(loss, model.v, retain_graph=True)
    peak = g.abs().amax(dim=(1, 2), keepdim=True)
    g = g / peak  # first, because the squares of a confident sequence's gradient would underflow
    r = g / torch.linalg.vector_norm(g, dim=(1, 2), keepdim=True)
    return torch.where(peak > 0, r, 0)


def train_model(model, train_iter, optimizer, mode='plain', epsilon=None, clip_value=0.1):
    """One epoch of training in `mode`, each gradient entry clipped to ±`clip_value`.

    In mode 'AdvLSTM' the loss is F(v) + F(v + εr), in mode 'ProxLSTM' epsilon is the recurrence's (None: its own). The
    pass at v + εr is a forward pass of its own: dropout draws again, and batch normalisation counts it too. Returns the
    loss F(v) and the accuracy, each a mean over sequences, of the forward passes made on the way.

    Raises ValueError for mode 'AdvLSTM' without an epsilon, and for 'plain' with one above 0.
    """
    if mode == 'AdvLSTM' and epsilon is None:
        raise ValueError("mode 'AdvLSTM' needs an epsilon")
    model.train()
    total_loss, correct, count = 0.0, 0, 0
    for inputs, targets, lengths in train_iter:
        optimizer.zero_grad()
        logits = model(inputs, lengths, mode=mode, epsilon=None if mode == 'AdvLSTM' else epsilon)
        loss = F.cross_entropy(logits, targets)
        objective = loss
        if mode == 'AdvLSTM':
            r = compute_perturbation(loss, model)
            objective = loss + F.cross_entropy(model(inputs, lengths, r=epsilon * r, mode=mode), targets)
        objective.backward()
        torch.nn.utils.clip_grad_value_(model.parameters(), clip_value)
        optimizer.step()
        total_loss += loss.item() * len(targets)
        correct += (logits.argmax(1) == targets).sum().item()
        count += len(targets)
    return total_loss / count, correct / count


@torch.no_grad()
def eval_model(model, test_iter, mode='plain', epsilon=None):
    """Loss and accuracy of `model`, means over sequences, and which of them were right: bool [N], in order."""
    model.eval()
    logits = torch.cat([model(inputs, lengths, mode=mode, epsilon=epsilon) for inputs, _, lengths in test_iter])
    targets = torch.cat([targets for _, targets, _ in test_iter])
    correct = logits.argmax(1) == targets
    return F.cross_entropy(logits, targets).item(), correct.sum().item() / len(correct), correct


# ---------------------------------------------------------------------------------------------- one run

def train_run(mode, epsilon, seed, variant, model_arguments, hyperparameters, state, train, test, unseen, device):
    """Train one model from `state` (None: from scratch) and evaluate it after every epoch, on one thread.

    A function of its arguments alone: on the same machine's CPU the same ones give the same numbers. `variant` only names
    the run; `unseen` (bool [number of test sequences]) marks the test sequences that do not occur in training.
    Returns the entry for results.json and the checkpoint. Where no test sequence is unseen, that accuracy is None.
    """
    start = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train, test = ([Batch(*(x.to(device) for x in batch)) for batch in batches] for batches in (train, test))
    history = {'train_loss': [], 'train_accuracy': [], 'test_accuracy': [], 'unseen_accuracy': []}
    model_arguments = {**model_arguments, 'epsilon': epsilon if mode == 'ProxLSTM' else 0.0}
    with torch.random.fork_rng(devices=[] if torch.device(device).type == 'cpu' else None):
        torch.manual_seed(seed)
        model = LSTMClassifier(**model_arguments).to(device)
        if state is not None:
            model.load_state_dict(state, strict=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=hyperparameters['lr'],
                                     weight_decay=hyperparameters['weight_decay'])
        for _ in range(hyperparameters['epochs']):
            loss, accuracy = train_model(model, train, optimizer, mode, epsilon, hyperparameters['clip_value'])
            _, test_accuracy, correct = eval_model(model, test, mode)
            history['train_loss'].append(loss)
            history['train_accuracy'].append(accuracy)
            history['test_accuracy'].append(test_accuracy)
            history['unseen_accuracy'].append(correct[unseen].sum().item() / unseen.sum().item() if unseen.any() else None)
    torch.set_num_threads(threads)
    run = {'mode': mode, 'epsilon': epsilon, 'seed': seed, 'variant': variant, 'hyperparameters': hyperparameters,
           'history': history, 'seconds': round(time.perf_counter() - start, 2)}
    return run, {'arguments': model_arguments, 'state_dict': {k: x.cpu() for k, x in model.state_dict().items()}}


def train_runs(tasks, jobs, description):
    """`train_run` over a list of its keyword arguments, `jobs` at a time; results in the order of the list."""
    order = sorted(range(len(tasks)), key=lambda i: -cost(tasks[i]))  # the longest first, so that no core idles last
    results = [None] * len(tasks)
    with tqdm(total=sum(task['hyperparameters']['epochs'] for task in tasks), desc=description, unit='epoch') as bar:
        parallel = joblib.Parallel(n_jobs=jobs, return_as='generator')
        for i, result in zip(order, parallel(joblib.delayed(train_run)(**tasks[i]) for i in order)):
            results[i] = result
            bar.update(tasks[i]['hyperparameters']['epochs'])
    return results


def cost(task):
    """How long a run takes, roughly and relative to others."""
    return task['hyperparameters']['epochs'] * (10 if task['mode'] == 'ProxLSTM' and task['epsilon'] else 1)


# ---------------------------------------------------------------------------------------------- the assignment

def assignment(args, train, test):
    """Sections 2 to 6. Returns the entries of results.json."""
    unseen = ~seen_in_training(train, test)
    test = make_batches(sequences_of(test), targets_of(test), EVALUATION_BATCH)
    variants = {'': {}}
    variants |= {f'dropout {p} {probability}': {'dropout': {p: probability}} for p, probability in args.dropout}
    variants |= {f'batch norm {p}': {'batch_norm': [p]} for p in args.batch_norm}
    has_own_base = {name: 'batch_norm' in change for name, change in variants.items()}

    def task(mode, epsilon, seed, variant='', epochs=args.epochs):
        state = None
        if mode != 'plain':
            state = torch.load(checkpoint_path('plain', 0.0, seed, variant if has_own_base[variant] else ''),
                               weights_only=True)['state_dict']
        return {'mode': mode, 'epsilon': epsilon, 'seed': seed, 'variant': variant,
                'model_arguments': {**model_arguments(args, train), **variants[variant]},
                'hyperparameters': hyperparameters(args, mode, epochs),
                'state': state, 'train': train, 'test': test, 'unseen': unseen, 'device': args.device}

    def checkpoint_path(mode, epsilon, seed, variant):
        name = '_'.join([PREFIX[mode], *([f'epsilon{epsilon}'] if mode != 'plain' else []),
                         *([variant.replace(' ', '-')] if variant else []), f'seed{seed}'])
        return args.output_dir / 'checkpoints' / f'{name}.pt'

    def train_and_save(tasks, description):
        runs = []
        for run, checkpoint in train_runs(tasks, args.jobs, description):
            buffer = io.BytesIO()
            torch.save(checkpoint, buffer)
            write(checkpoint_path(run['mode'], run['epsilon'], run['seed'], run['variant']), buffer.getvalue())
            runs.append(run)
        return runs

    # Section 2, the base model, and section 3, saving it. Batch normalisation has parameters, hence a base of its own.
    seeds = range(args.seeds)
    runs = train_and_save([task('plain', 0.0, seed, variant)
                           for variant in variants if variant == '' or has_own_base[variant] for seed in seeds],
                          'base')

    # Sections 4 and 5: the assignment's epsilons, the best one, and the control, which goes on for as long as the best.
    tasks = []
    for mode in ('AdvLSTM', 'ProxLSTM'):
        sweep = SWEEPS[mode]
        epochs = {epsilon: min(args.epochs, sweep['epochs']) for epsilon in sweep['epsilons']}
        epochs |= {0.0: args.epochs, best_epsilon(args, mode): args.epochs}
        tasks += [task(mode, epsilon, seed, epochs=epochs[epsilon]) for epsilon in sorted(epochs) for seed in seeds]

    # Section 6: each variant at the best epsilon and at 0.
    tasks += [task('ProxLSTM', epsilon, seed, variant)
              for variant in variants if variant for epsilon in (0.0, best_epsilon(args, 'ProxLSTM')) for seed in seeds]
    return runs + train_and_save(tasks, 'Adv and Prox')


def model_arguments(args, batches):
    return {'input_size': batches[0].inputs.shape[2],
            'hidden_size': args.hidden_size,
            'output_size': 1 + max(batch.targets.max().item() for batch in batches),
            'out_channels': args.out_channels, 'kernel_size': args.kernel_size, 'stride': args.stride}


def hyperparameters(args, mode, epochs):
    prefix = PREFIX[mode]
    return {'epochs': epochs, 'batch_size': args.batch_size, 'lr': getattr(args, f'{prefix}_lr'),
            'weight_decay': getattr(args, f'{prefix}_weight_decay'), 'clip_value': args.clip_value}


def best_epsilon(args, mode):
    return args.adv_epsilon if mode == 'AdvLSTM' else args.prox_epsilon


# ---------------------------------------------------------------------------------------------- choosing epsilon

def tune(args, mode, train):
    """Cross-validate `mode` over `args.grid` within the training set, stratified and repeated.

    Every fold trains a base of its own. Returns one record per fold and epsilon, its accuracy that of the last epoch.
    """
    sequences, labels = sequences_of(train), targets_of(train)
    folds = []
    for repeat in range(args.repeats):
        order = np.random.default_rng(repeat).permutation(len(labels))
        order = order[np.argsort(labels[order], kind='stable')]  # class by class, each in random order
        for fold in range(args.folds):
            held_out = np.zeros(len(labels), dtype=bool)
            held_out[order[fold::args.folds]] = True  # dealt round, so that each fold has its share of each class
            folds.append([make_batches([sequences[i] for i in np.flatnonzero(part)], labels[part], size)
                          for part, size in ((~held_out, args.batch_size), (held_out, EVALUATION_BATCH))])

    def task(mode, epsilon, seed, state):
        fold_train, fold_test = folds[seed]
        return {'mode': mode, 'epsilon': epsilon, 'seed': seed, 'variant': 'cross-validation',
                'model_arguments': model_arguments(args, train),
                'hyperparameters': hyperparameters(args, mode, args.epochs),
                'state': state, 'train': fold_train, 'test': fold_test,
                'unseen': ~seen_in_training(fold_train, fold_test), 'device': args.device}

    bases = train_runs([task('plain', 0.0, i, None) for i in range(len(folds))], args.jobs, 'base of each fold')
    states = [checkpoint['state_dict'] for _, checkpoint in bases]
    results = train_runs([task(mode, epsilon, i, states[i]) for epsilon in args.grid for i in range(len(folds))],
                         args.jobs, mode)
    return [{'mode': mode, 'epsilon': run['epsilon'], 'repeat': run['seed'] // args.folds,
             'fold': run['seed'] % args.folds, 'accuracy': run['history']['test_accuracy'][-1]} for run, _ in results]


def tuning_table(records):
    """Markdown: validation accuracy against epsilon, and its paired difference to epsilon = 0; and the best epsilon."""
    accuracy = {}
    for record in records:
        accuracy.setdefault(record['epsilon'], []).append(record['accuracy'])
    best = max(accuracy, key=lambda epsilon: np.mean(accuracy[epsilon]))
    lines = ['| ε | accuracy on held-out folds (%) | minus ε = 0 (mean ± standard error) |', '|---|---|---|']
    for epsilon, values in accuracy.items():
        difference = 100 * np.subtract(values, accuracy[0]) if 0 in accuracy else [math.nan]
        error = np.std(difference, ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
        lines.append(f'| {epsilon:g}{" (best)" if epsilon == best else ""} | {spread(values)} | '
                     f'{np.mean(difference):+.2f} ± {error:.2f} |')
    return '\n'.join(lines), best


# ---------------------------------------------------------------------------------------------- figures and table

def plot_accuracy(path, title, curves, unseen_differs):
    """Accuracy against epoch for each (label, runs): the mean over seeds, and bars of one standard deviation."""
    panels = {'test_accuracy': 'all test sequences'}
    if unseen_differs:
        panels['unseen_accuracy'] = 'the test sequences that are not in training'
    figure = Figure(figsize=(1 + 5.5 * len(panels), 5), layout='constrained')
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    styles = ['-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3))]
    shades = ['black', 'tab:blue', 'tab:orange', 'tab:red', 'tab:green', 'tab:purple']
    floor = 100.0
    for ax, (key, panel) in zip(axes[0], panels.items()):
        for k, (label, runs) in enumerate(curves):
            y = 100 * np.array([run['history'][key] for run in runs])
            mean, deviation = y.mean(0), y.std(0, ddof=1) if len(y) > 1 else np.zeros(y.shape[1])
            ax.errorbar(np.arange(1, y.shape[1] + 1), mean, deviation, errorevery=(3 + 3 * k, 20), label=label,
                        linestyle=styles[k % 7], color=shades[k % 6], linewidth=1.5, elinewidth=0.9, capsize=3)
            floor = min(floor, np.percentile(mean, 10))
        ax.set(title=panel, xlabel='epoch', ylim=(max(0, floor - 3), 100))
        ax.grid(alpha=0.3)
    axes[0, 0].set_ylabel('accuracy (%), mean ± standard deviation over seeds')
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=3)
    figure.suptitle(title)
    save_figure(path, figure)


def plot_runs(folder, args, runs, unseen_differs):
    """The four figures of the assignment: base, AdvLSTM, ProxLSTM, and dropout and batch normalisation."""
    def select(mode, epsilon, variant=''):
        return [run for run in runs if (run['mode'], run['epsilon'], run['variant']) == (mode, epsilon, variant)]

    plot_accuracy(folder / 'base.png', 'Base model', [('base', select('plain', 0.0))], unseen_differs)
    for mode in ('AdvLSTM', 'ProxLSTM'):
        best = best_epsilon(args, mode)
        curves = [('ε = 0 (control)', select(mode, 0.0))]
        curves += [(f'ε = {epsilon:g}{" (chosen)" if epsilon == best else ""}', select(mode, epsilon))
                   for epsilon in sorted({*SWEEPS[mode]['epsilons'], best})]
        plot_accuracy(folder / f'{mode}.png', f'{mode}, from the saved base model', curves, unseen_differs)
    best = best_epsilon(args, 'ProxLSTM')
    variants = sorted({run['variant'] for run in runs if run['mode'] == 'ProxLSTM'})
    curves = [(f'{variant or "neither"}, ε = {epsilon:g}', select('ProxLSTM', epsilon, variant))
              for variant in variants for epsilon in (0.0, best)]
    plot_accuracy(folder / 'dropout_batch_norm.png', 'ProxLSTM with dropout and batch normalisation, and without Prox',
                  curves, unseen_differs)


def plot_tuning(path, mode, records):
    """Validation accuracy against epsilon, mean ± standard error over folds."""
    epsilons = sorted({record['epsilon'] for record in records})
    values = [[100 * r['accuracy'] for r in records if r['epsilon'] == epsilon] for epsilon in epsilons]
    figure = Figure(figsize=(6.5, 4), layout='constrained')
    ax = figure.subplots()
    ax.errorbar(range(len(epsilons)), [np.mean(v) for v in values], [np.std(v, ddof=1) / math.sqrt(len(v)) for v in values],
                fmt='ko-', capsize=3)
    ax.set(title=f'{mode}: cross-validation within the training set', xlabel='ε', ylabel='accuracy on held-out folds (%)'
           '\nmean ± standard error')
    ax.set_xticks(range(len(epsilons)), [f'{epsilon:g}' for epsilon in epsilons])
    ax.grid(alpha=0.3)
    save_figure(path, figure)


def closing_table(runs):
    """Markdown: final-epoch accuracy over seeds, and the paired difference to the control of as many epochs."""
    groups = {}
    for run in runs:
        groups.setdefault((run['mode'], run['variant'], run['epsilon']), {})[run['seed']] = run['history']
    lines = ['| model | ε | epochs | all test (%) | not in training (%) | minus ε = 0 (points) |', '|---|---|---|---|---|---|']
    for (mode, variant, epsilon), histories in groups.items():
        epochs = len(histories[min(histories)]['test_accuracy'])
        final, unseen = ([history[key][-1] for history in histories.values()]
                         for key in ('test_accuracy', 'unseen_accuracy'))
        difference = ''
        if epsilon:
            control = groups[mode, variant, 0.0]
            difference = spread([history['test_accuracy'][-1] - control[seed]['test_accuracy'][epochs - 1]
                                 for seed, history in histories.items()], sign='+')
        name = {'plain': 'base'}.get(mode, mode) + (f', {variant}' if variant else '')
        epsilon = '' if mode == 'plain' else f'{epsilon:g}'
        lines.append(f'| {name} | {epsilon} | {epochs} | {spread(final)} | '
                     f'{"" if None in unseen else spread(unseen)} | {difference} |')
    return '\n'.join(lines)


def spread(values, sign=''):
    """Fractions as per cent, mean ± standard deviation."""
    values = 100 * np.array(values)
    deviation = f' ± {values.std(ddof=1):.1f}' if len(values) > 1 else ''
    return f'{values.mean():{sign}.1f}{deviation}'


# ---------------------------------------------------------------------------------------------- files

def write(path, content):
    """Write bytes to a temporary name and move them into place, so that no reader ever sees half a file."""
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_bytes(content)
    temporary.replace(path)


def write_results(path, config, runs):
    """JSON, one run a line."""
    lines = ',\n'.join(json.dumps(run) for run in runs)
    write(path, f'{{"config": {json.dumps(config)},\n"runs": [\n{lines}\n]}}\n'.encode())


def save_figure(path, figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, format='png')
    write(path, buffer.getvalue())


# ---------------------------------------------------------------------------------------------- the command line

def positive_int(text):
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def non_negative(text):
    value = float(text)
    if not (math.isfinite(value) and value >= 0):
        raise ValueError
    return value


def positive(text):
    value = non_negative(text)
    if value == 0:
        raise ValueError
    return value


def dropout_placement(text):
    placement, _, probability = text.partition('=')
    probability = float(probability or 0.5)
    if placement not in PLACEMENTS or not 0 < probability < 1:
        raise ValueError
    return placement, probability


def device_name(text):
    try:
        torch.zeros(1, device=text).item()  # 'meta' fails here
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise argparse.ArgumentTypeError(f'{text!r} is not a device that works here') from error
    return text


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Adversarial training on sequence classification.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data', type=Path, default=DEFAULT_PATH, help='.mat file, see load_data.py')
    parser.add_argument('--output-dir', type=Path, help='folder for plots/ and checkpoints/ (default: this '
                        'repository; with --dry-run a temporary folder)', default=argparse.SUPPRESS)
    parser.add_argument('--seeds', type=positive_int, default=3, help='how many seeds, from 0 up')
    parser.add_argument('--epochs', type=positive_int, default=100,
                        help='of the base model, the best epsilons, their controls and section 6; at most 50 and 100 '
                        'for the other epsilons of AdvLSTM and ProxLSTM, as the assignment limits them')
    parser.add_argument('--dry-run', action='store_true', help='everything, in two epochs')
    parser.add_argument('--jobs', type=positive_int, default=joblib.cpu_count(), help='runs at a time, a process each')
    parser.add_argument('--device', type=device_name, default='cpu', help='cpu, cuda, …')

    group = parser.add_argument_group('model')
    group.add_argument('--hidden-size', type=positive_int, default=50)
    group.add_argument('--out-channels', type=positive_int, default=64, help='of the convolution')
    group.add_argument('--kernel-size', type=positive_int, default=3, help='of the convolution')
    group.add_argument('--stride', type=positive_int, default=1, help='of the convolution')
    group.add_argument('--dropout', type=dropout_placement, nargs='*', default=[('lstm_input', 0.5)],
                       metavar='PLACE=P', help=f'section 6: places ({", ".join(PLACEMENTS)}), each a run of its own')
    group.add_argument('--batch-norm', choices=PLACEMENTS, nargs='*', default=['conv'],
                       help='section 6: places, each a run of its own')

    group = parser.add_argument_group('optimisation')
    group.add_argument('--batch-size', type=positive_int, default=27)
    for mode, prefix in PREFIX.items():
        group.add_argument(f'--{prefix}-lr', type=positive, default=OPTIMISER[mode]['lr'], help=f'{mode}: Adam\'s step')
        group.add_argument(f'--{prefix}-weight-decay', type=non_negative, default=OPTIMISER[mode]['weight_decay'],
                           help=f'{mode}: Adam\'s L2 penalty')
    group.add_argument('--clip-value', type=positive, default=0.1, help='bound on each gradient entry')
    group.add_argument('--adv-epsilon', type=positive, default=BEST_EPSILON['AdvLSTM'],
                       help='best epsilon of AdvLSTM, chosen by --tune adv')
    group.add_argument('--prox-epsilon', type=positive, default=BEST_EPSILON['ProxLSTM'],
                       help='best epsilon of ProxLSTM; --tune prox searches for one')

    group = parser.add_argument_group('choosing epsilon, instead of the assignment')
    group.add_argument('--tune', choices=('adv', 'prox'), help='cross-validate over --grid within the training set')
    group.add_argument('--grid', type=non_negative, nargs='+', metavar='EPSILON', default=argparse.SUPPRESS,
                       help=f'epsilons to try (default: {GRIDS["AdvLSTM"]} or {GRIDS["ProxLSTM"]})')
    group.add_argument('--folds', type=positive_int, default=5)
    group.add_argument('--repeats', type=positive_int, default=3)

    args = parser.parse_args(argv)
    if args.dry_run:
        args.epochs = 2
    if args.tune:
        args.grid = sorted(set(getattr(args, 'grid', GRIDS[MODES[args.tune]])))
    elif 'grid' in args:
        parser.error('argument --grid: goes with --tune')
    if args.folds < 2:
        parser.error('argument --folds: expected at least 2')
    return parser, args


def check(args, train):
    """ValueError for options that the data does not allow."""
    if args.tune:
        smallest = np.bincount(targets_of(train)).min()
        if args.folds > smallest:
            raise ValueError(f'--folds is {args.folds}, but the smallest class has {smallest} training sequences')
        return
    for batch in train:
        steps = (batch.lengths - args.kernel_size) // args.stride + 1
        positions = {'input': batch.lengths.sum(), 'output': len(steps)}
        for placement in args.batch_norm:
            if positions.get(placement, steps.sum()) < 2:
                raise ValueError(f'--batch-norm {placement} needs two values in every minibatch, but --batch-size '
                                 f'{args.batch_size} leaves one with a single value')


def main():
    parser, args = get_args()
    try:
        train, test = load_data(args.data, args.batch_size, args.kernel_size)
        digest = hashlib.sha256(args.data.read_bytes()).hexdigest()
        check(args, train)
    except (ValueError, OSError) as error:
        parser.exit(2, f'{error}\n')
    config = {key: value for key, value in vars(args).items() if key not in ('output_dir', 'jobs', 'dry_run')}
    config |= {'data': args.data.name, 'data_sha256': digest, 'torch': torch.__version__}
    if train[0].inputs.shape[2] == 1:
        print('The data has a single feature: its steps are not normalised, which would leave only their signs.')

    try:
        if 'output_dir' not in args:
            temporary = args.dry_run and tempfile.mkdtemp(prefix='training-')
            args.output_dir = Path(temporary or Path(__file__).resolve().parent)
        for folder in ('plots', 'checkpoints'):
            (args.output_dir / folder).mkdir(parents=True, exist_ok=True)
        plots = args.output_dir / 'plots'
        if args.tune:
            mode = MODES[args.tune]
            records = tune(args, mode, train)
            table, best = tuning_table(records)
            write_results(plots / f'tune_{args.tune}.json', config, records)
            plot_tuning(plots / f'tune_{args.tune}.png', mode, records)
            print(f'\n{table}\n\n' + (f'Best: --{args.tune}-epsilon {best:g}' if best else 'No epsilon above 0 helps.'))
        else:
            runs = assignment(args, train, test)
            write_results(plots / 'results.json', config, runs)
            seen = seen_in_training(train, test)
            plot_runs(plots, args, runs, unseen_differs=bool(seen.any() and not seen.all()))
            print(f'\n{closing_table(runs)}\n')
        print(f'Written to {plots}')
    except OSError as error:
        parser.exit(2, f'{error}\n')


if __name__ == '__main__':
    main()
