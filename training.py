"""Adversarial training on sequence classification: the whole assignment, in its order.

    python training.py                                     # train, save, reload, sweep epsilon, plot; closing table
    python training.py --dry-run                           # the same in two epochs, into a temporary folder
    python training.py --resume                            # go on with a sweep that was interrupted
    python training.py --tune adv                          # choose epsilon by cross-validation on the training set
    python training.py --data data/JV_uci.mat --seeds 8 --output-dir uci

Section 2 trains the base model. Section 3 saves it, and every later model starts from the saved file. Section 4 trains
with AdvLSTM, section 5 with ProxLSTM, section 6 adds dropout and batch normalisation to ProxLSTM. Each sweep over
epsilon holds its control, the identical run at epsilon = 0, because training on for as many epochs changes the
accuracy by itself.

Written under --output-dir: plots/*.png, plots/results.json and, every few epochs, checkpoints/*.pt, read back with

    checkpoint = torch.load(path, weights_only=True)
    model = LSTMClassifier(**checkpoint['arguments'])
    model.load_state_dict(checkpoint['state_dict'])
"""

import signal

if __name__ == '__main__':  # while the imports take their seconds, Ctrl-C ends without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import hashlib
import io
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from Classifier import PLACEMENTS, LSTMClassifier
from load_data import DEFAULT_PATH, Batch, load_data, make_batches, seen_in_training, sequences_of, targets_of
from runs import (HISTORY, Runs, Stop, backend, claimed, command_to_resume, described, leave, read_results,
                  write)

# The assignment's epsilons and the epochs it grants them, and the best ones, as --tune chose them (README.md).
SWEEPS = {'AdvLSTM': {'epsilons': (0.01, 0.1, 1.0), 'epochs': 50},
          'ProxLSTM': {'epsilons': (0.1, 1.0, 5.0), 'epochs': 100}}
BEST_EPSILON = {'AdvLSTM': 5.0, 'ProxLSTM': 5.0}
OPTIMISER = {'plain': {'lr': 1e-3, 'weight_decay': 1e-3},
             'AdvLSTM': {'lr': 5e-4, 'weight_decay': 1e-4},
             'ProxLSTM': {'lr': 1e-3, 'weight_decay': 1e-3}}
GRIDS = {'AdvLSTM': (0, 0.03, 0.1, 0.3, 1, 2, 3, 5, 10), 'ProxLSTM': (0, 0.5, 2, 5, 10, 30, 100, 300)}
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
    return per_sequence(g)


def per_sequence(g):
    """Each sequence of `g` [B, T, C] divided by its L2 norm over all steps and channels; 0 where it is 0."""
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

def train_run(mode, epsilon, seed, variant, model_arguments, hyperparameters, state, train, test, unseen, device,
              saved=None, epochs=None):
    """Train one model from `state` (None: from scratch) and evaluate it after every epoch, on one thread.

    A function of its arguments alone: on the same machine's CPU the same ones give the same numbers. `variant` only
    names the run; `unseen` (bool [number of test sequences]) marks the test sequences that do not occur in training.
    Where none is unseen, that accuracy is None. `saved`, an earlier result, is gone on from, to the same numbers as in
    one go; `epochs` bounds how far (None: to the end). Where the loss of an epoch is not finite, the run has 'diverged'
    in it and ends.

    Returns the checkpoint: 'arguments' and 'state_dict' of the model, 'run', its entry for results.json, and, unless it
    is finished, 'optimizer' and 'generator'.
    """
    start = time.perf_counter()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    train, test = ([Batch(*(x.to(device) for x in batch)) for batch in batches] for batches in (train, test))
    history = {key: list(saved['run']['history'][key]) if saved else [] for key in HISTORY}
    model_arguments = {**model_arguments, 'epsilon': epsilon if mode == 'ProxLSTM' else 0.0}
    on_cuda = torch.device(device).type == 'cuda'
    with torch.random.fork_rng(devices=None if on_cuda else []):
        torch.manual_seed(seed)
        model = LSTMClassifier(**model_arguments).to(device)
        if state is not None:
            model.load_state_dict(state, strict=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=hyperparameters['lr'],
                                     weight_decay=hyperparameters['weight_decay'])
        if saved:
            model.load_state_dict(saved['state_dict'], strict=True)
            optimizer.load_state_dict(saved['optimizer'])
            torch.set_rng_state(saved['generator'][0])
            if on_cuda:
                torch.cuda.set_rng_state(saved['generator'][1], device)
        first, last, diverged = len(history['train_loss']) + 1, hyperparameters['epochs'], None
        for epoch in range(first, min(last, first + (epochs or last) - 1) + 1):
            loss, accuracy = train_model(model, train, optimizer, mode, epsilon, hyperparameters['clip_value'])
            test_loss, test_accuracy, correct = eval_model(model, test, mode)
            if not math.isfinite(loss + test_loss):
                diverged = epoch
                break
            unseen_accuracy = correct[unseen].sum().item() / unseen.sum().item() if unseen.any() else None
            for key, value in zip(HISTORY, (loss, accuracy, test_accuracy, unseen_accuracy)):
                history[key].append(value)
        generator = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if on_cuda else [])]
    torch.set_num_threads(threads)
    seconds = time.perf_counter() - start + (saved['run']['seconds'] if saved else 0)
    run = {'mode': mode, 'epsilon': epsilon, 'seed': seed, 'variant': variant, 'hyperparameters': hyperparameters,
           'history': history, 'diverged': diverged, 'seconds': round(seconds, 2)}
    checkpoint = {'arguments': model_arguments, 'state_dict': on_cpu(model.state_dict()), 'run': run}
    if diverged is None and len(history['train_loss']) < last:
        checkpoint |= {'optimizer': on_cpu(optimizer.state_dict()), 'generator': generator}
    return checkpoint


def on_cpu(state):
    """A state dict, nested as an optimizer's may be, with its tensors on the CPU."""
    if isinstance(state, dict):
        return {key: on_cpu(value) for key, value in state.items()}
    return state.cpu() if torch.is_tensor(state) else state


# ---------------------------------------------------------------------------------------------- the assignment

def assignment(args, train, test, runs):
    """Sections 2 to 6, carried out by `runs`. Returns the entries of results.json."""
    unseen = ~seen_in_training(train, test)
    test = make_batches(sequences_of(test), targets_of(test), EVALUATION_BATCH)
    variants = {'': {}}
    variants |= {f'dropout {p} {probability}': {'dropout': {p: probability}} for p, probability in args.dropout}
    variants |= {f'batch norm {p}': {'batch_norm': [p]} for p in args.batch_norm}
    has_own_base = {name: 'batch_norm' in change for name, change in variants.items()}
    seeds = range(args.seeds)

    def task(mode, epsilon, seed, variant='', epochs=args.epochs, state=None):
        return {'mode': mode, 'epsilon': epsilon, 'seed': seed, 'variant': variant,
                'model_arguments': {**model_arguments(args, train), **variants[variant]},
                'hyperparameters': hyperparameters(args, mode, epochs),
                'state': state, 'train': train, 'test': test, 'unseen': unseen, 'device': args.device}

    # Section 2, the base model, and section 3, saving it. Batch normalisation has parameters, hence a base of its own.
    bases = [task('plain', 0.0, seed, variant)
             for variant in variants if variant == '' or has_own_base[variant] for seed in seeds]

    # Sections 4 and 5: the assignment's epsilons, the best one, and the control, which goes on for as long as the best.
    tasks = []
    for mode in ('AdvLSTM', 'ProxLSTM'):
        sweep = SWEEPS[mode]
        epsilons = args.adv_epsilons if mode == 'AdvLSTM' else args.prox_epsilons
        epochs = {epsilon: min(args.epochs, sweep['epochs']) for epsilon in epsilons}
        epochs |= {0.0: args.epochs, best_epsilon(args, mode): args.epochs}
        tasks += [task(mode, epsilon, seed, epochs=epochs[epsilon]) for epsilon in sorted(epochs) for seed in seeds]

    # Section 6: each variant at the best epsilon and at 0.
    tasks += [task('ProxLSTM', epsilon, seed, variant)
              for variant in variants if variant for epsilon in (0.0, best_epsilon(args, 'ProxLSTM')) for seed in seeds]
    return train_from_bases(runs, bases, tasks, 'Adv and Prox', lambda task: run_name(
        {**task, 'mode': 'plain', 'variant': task['variant'] if has_own_base[task['variant']] else ''}))


def train_from_bases(runs, bases, tasks, description, base_of):
    """Carry out `bases`, then `tasks`, each of which starts from the saved model of the run named `base_of(task)`.

    Returns the entries of all. Where a base diverged, there is nothing to start from: its tasks are entered as diverged
    in epoch 0.
    """
    runs.begin(map(run_name, bases + tasks))
    base_entries = runs.carry_out(train_run, by_name(bases), 'base')
    checkpoints = {name: runs.finished_model(name) for name in map(base_of, tasks)}
    startable, entries = [], {}
    for task in tasks:
        base = checkpoints[base_of(task)]
        if base['run']['diverged'] is None:
            startable.append({**task, 'state': base['state_dict']})
            continue
        entry = {key: task[key] for key in ('mode', 'epsilon', 'seed', 'variant', 'hyperparameters')}
        entries[run_name(task)] = entry | {'history': {key: [] for key in HISTORY}, 'diverged': 0, 'seconds': 0.0}
        print(f'{described(task)}: not begun, for its base model diverged', file=sys.stderr)
    startable = by_name(startable)
    entries |= zip(startable, runs.carry_out(train_run, startable, description))
    return base_entries + [entries[run_name(task)] for task in tasks]


def run_name(task):
    """The name of a run's checkpoint, say prox_epsilon5.0_batch-norm-conv_seed0."""
    return '_'.join([PREFIX[task['mode']], *([f'epsilon{task["epsilon"]}'] if task['mode'] != 'plain' else []),
                     *([task['variant'].replace(' ', '-')] if task['variant'] else []), f'seed{task["seed"]}'])


def by_name(tasks):
    return {run_name(task): task for task in tasks}


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

def tune(args, mode, train, runs):
    """Cross-validate `mode` over `args.grid` within the training set, stratified and repeated.

    Every fold trains a base of its own. Returns one record per fold and epsilon, its accuracy that of the last epoch,
    None where the run diverged.
    """
    sequences, labels = sequences_of(train), targets_of(train)
    folds = [fold_batches(sequences, labels, held_out, args.batch_size)
             for held_out in stratified_folds(labels, args.folds, args.repeats)]

    def task(mode, epsilon, seed):
        fold_train, fold_test = folds[seed]
        return {'mode': mode, 'epsilon': epsilon, 'seed': seed, 'variant': f'cross-validation {args.tune}',
                'model_arguments': model_arguments(args, train),
                'hyperparameters': hyperparameters(args, mode, args.epochs),
                'state': None, 'train': fold_train, 'test': fold_test,
                'unseen': ~seen_in_training(fold_train, fold_test), 'device': args.device}

    bases = [task('plain', 0.0, i) for i in range(len(folds))]
    tasks = [task(mode, float(epsilon), i) for epsilon in args.grid for i in range(len(folds))]
    entries = train_from_bases(runs, bases, tasks, mode, lambda task: run_name({**task, 'mode': 'plain'}))
    return [{'mode': mode, 'epsilon': run['epsilon'], 'repeat': run['seed'] // args.folds,
             'fold': run['seed'] % args.folds,
             'accuracy': run['history']['test_accuracy'][-1] if run['diverged'] is None else None}
            for run in entries[len(bases):]]


def stratified_folds(labels, folds, repeats):
    """For each repeat and fold, which of `labels` [N] are held out (bool [N]): of every class its share."""
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(len(labels))
        order = order[np.argsort(labels[order], kind='stable')]  # class by class, each in random order
        for fold in range(folds):
            held_out = np.zeros(len(labels), dtype=bool)
            held_out[order[fold::folds]] = True  # dealt round
            yield held_out


def fold_batches(sequences, labels, held_out, batch_size):
    """Two lists of `Batch`: to train on, and those that `held_out` (bool [N]) marks, in batches for evaluation."""
    return [make_batches([sequences[i] for i in np.flatnonzero(part)], labels[part], size)
            for part, size in ((~held_out, batch_size), (held_out, EVALUATION_BATCH))]


def tuning_table(records):
    """Markdown: validation accuracy against epsilon, and its paired difference to epsilon = 0; and the best epsilon.

    An epsilon at which a fold diverged is not the best. None where every epsilon is such.
    """
    folds = {}
    for record in records:
        folds.setdefault(record['epsilon'], {})[record['repeat'], record['fold']] = record['accuracy']
    lines = ['| ε | accuracy on held-out folds (%) | minus ε = 0 (mean ± standard error) |', '|---|---|---|']
    means = {epsilon: np.mean(list(accuracy.values())) for epsilon, accuracy in folds.items()
             if None not in accuracy.values()}
    best = max(means, key=means.get, default=None)
    for epsilon, accuracy in folds.items():
        values = [x for x in accuracy.values() if x is not None]
        difference = 100 * np.array([x - folds[0][fold] for fold, x in accuracy.items()
                                     if None not in (x, folds.get(0, {}).get(fold))])
        mean = np.mean(difference) if len(difference) else math.nan
        error = np.std(difference, ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
        lines.append(f'| {epsilon:g}{" (best)" if epsilon == best else ""} | {spread(values, of=len(accuracy))} | '
                     f'{mean:+.2f} ± {error:.2f} |')
    return '\n'.join(lines), best


# ---------------------------------------------------------------------------------------------- figures and table

def plot_accuracy(path, title, curves, unseen_differs):
    """Accuracy against epoch for each (label, runs): the mean over seeds, and bars of one standard deviation.

    Diverged runs are left out, and counted in the label.
    """
    panels = {'test_accuracy': 'all test sequences'}
    if unseen_differs:
        panels['unseen_accuracy'] = 'the test sequences that are not in training'
    figure = Figure(figsize=(1 + 5.5 * len(panels), 5), layout='constrained')
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    styles = ['-', '--', '-.', ':', (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3))]
    shades = ['black', 'tab:blue', 'tab:orange', 'tab:red', 'tab:green', 'tab:purple']
    floor = 100.0
    curves = [(label, [run for run in runs if run['diverged'] is None], len(runs)) for label, runs in curves]
    curves = [(f'{label}, {n - len(runs)} of {n} diverged' if len(runs) < n else label, runs)
              for label, runs, n in curves]
    for ax, (key, panel) in zip(axes[0], panels.items()):
        for k, (label, runs) in enumerate(curves):
            if not runs:
                ax.plot([], [], label=label, linestyle=styles[k % 7], color=shades[k % 6])
                continue
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
                   for epsilon in sorted({*SWEEPS[mode]['epsilons'], best}) if select(mode, epsilon)]
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
    values = [[100 * r['accuracy'] for r in records if r['epsilon'] == epsilon and r['accuracy'] is not None]
              or [math.nan] for epsilon in epsilons]
    figure = Figure(figsize=(6.5, 4), layout='constrained')
    ax = figure.subplots()
    ax.errorbar(range(len(epsilons)), [np.mean(v) for v in values],
                [np.std(v, ddof=1) / math.sqrt(len(v)) if len(v) > 1 else math.nan for v in values],
                fmt='ko-', capsize=3)
    ax.set(title=f'{mode}: cross-validation within the training set', xlabel='ε', ylabel='accuracy on held-out folds (%)'
           '\nmean ± standard error')
    ax.set_xticks(range(len(epsilons)), [f'{epsilon:g}' for epsilon in epsilons])
    ax.grid(alpha=0.3)
    save_figure(path, figure)


def closing_table(runs):
    """Markdown: final-epoch accuracy over seeds, and the paired difference to the control of as many epochs.

    Diverged runs are counted, but in no mean; neither is a difference in which one takes part.
    """
    groups = {}
    for run in runs:
        groups.setdefault((run['mode'], run['variant'], run['epsilon']), {})[run['seed']] = run
    lines = ['| model | ε | epochs | all test (%) | not in training (%) | all test, minus ε = 0 (points) |',
             '|---|---|---|---|---|---|']
    for (mode, variant, epsilon), group in groups.items():
        epochs = next(iter(group.values()))['hyperparameters']['epochs']
        histories = {seed: run['history'] for seed, run in group.items() if run['diverged'] is None}
        final, unseen = ([history[key][-1] for history in histories.values()]
                         for key in ('test_accuracy', 'unseen_accuracy'))
        difference = ''
        if epsilon:
            control = {seed: run['history'] for seed, run in groups[mode, variant, 0.0].items()
                       if run['diverged'] is None}
            difference = spread([history['test_accuracy'][-1] - control[seed]['test_accuracy'][epochs - 1]
                                 for seed, history in histories.items() if seed in control], sign='+')
        name = {'plain': 'base'}.get(mode, mode) + (f', {variant}' if variant else '')
        epsilon = '' if mode == 'plain' else f'{epsilon:g}'
        lines.append(f'| {name} | {epsilon} | {epochs} | {spread(final, of=len(group))} | '
                     f'{"" if None in unseen else spread(unseen)} | {difference} |')
    return '\n'.join(lines)


def spread(values, sign='', of=None):
    """Fractions as per cent, mean ± standard deviation; with `of`, how many of so many runs diverged."""
    words = []
    if len(values):
        values = 100 * np.array(values)
        deviation = f' ± {values.std(ddof=1):.1f}' if len(values) > 1 else ''
        words.append(f'{values.mean():{sign}.1f}{deviation}')
    if of and len(values) < of:
        words.append(f'{of - len(values)} of {of} diverged')
    return ', '.join(words)


# ---------------------------------------------------------------------------------------------- files

def results_json(config, runs):
    """The bytes of a results file, one run a line."""
    return records_json({'config': config}, runs)


def records_json(header, records):
    """The bytes of a JSON object: what the dictionary `header` holds, then 'runs', a record a line."""
    lines = ',\n'.join(json.dumps(record, allow_nan=False) for record in records)
    return f'{json.dumps(header)[:-1]},\n"runs": [\n{lines}\n]}}\n'.encode()


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
    parser.add_argument('--resume', action='store_true', help='go on with the same sweep where it was interrupted')
    parser.add_argument('--device', type=device_name, default='cpu', help='cpu, cuda, …')

    group = parser.add_argument_group('where the runs are carried out')
    group.add_argument('--jobs', type=positive_int, help='runs at a time, a process each (default: the number of cores, '
                       'here %d; with dask, of the cluster\'s workers)' % joblib.cpu_count(), default=argparse.SUPPRESS)
    group.add_argument('--backend', choices=('loky', 'dask'), default='loky', help='processes here, or a Dask cluster')
    group.add_argument('--scheduler', metavar='tcp://HOST:PORT', default=argparse.SUPPRESS,
                       help='address of the Dask scheduler')

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
                       help='best epsilon of ProxLSTM, chosen by --tune prox')
    for mode, prefix in (('AdvLSTM', 'adv'), ('ProxLSTM', 'prox')):
        group.add_argument(f'--{prefix}-epsilons', type=positive, nargs='+', default=SWEEPS[mode]['epsilons'],
                           metavar='EPSILON', help=f"{mode}'s epsilons beside the best one; the figure shows the assignment's")

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
    if args.backend == 'dask' and 'scheduler' not in args:
        parser.error('argument --scheduler: needed with --backend dask')
    if args.backend != 'dask' and 'scheduler' in args:
        parser.error('argument --scheduler: goes with --backend dask')
    if 'jobs' not in args:
        args.jobs = joblib.cpu_count() if args.backend == 'loky' else -1
    if args.resume and args.dry_run and 'output_dir' not in args:
        parser.error('argument --resume: a dry run that can be resumed needs an --output-dir')
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


def carry_out(args, config, train, test, plots, runs):
    """What was asked for, with its figures, its results file and its table."""
    if args.tune:
        mode = MODES[args.tune]
        records = tune(args, mode, train, runs)
        table, best = tuning_table(records)
        write(plots / f'tune_{args.tune}.json', results_json(config, records))
        plot_tuning(plots / f'tune_{args.tune}.png', mode, records)
        verdict = {None: 'Runs diverged at every epsilon.', 0: 'No epsilon above 0 helps.'}
        print(f'\n{table}\n\n{verdict.get(best, f"Best: --{args.tune}-epsilon {best}")}')
    else:
        results = plots / 'results.json'
        if args.resume:
            runs.check_readable(results, read_results)
        entries = assignment(args, train, test, runs)
        runs.write(results, results_json(config, entries))
        seen = seen_in_training(train, test)
        plot_runs(plots, args, entries, unseen_differs=bool(seen.any() and not seen.all()))
        print(f'\n{closing_table(entries)}\n')
    print(f'Written to {plots}')


def main():
    parser, args = get_args()
    runs = None

    def interrupt(*_):
        leave(f'\nInterrupted: {resumable(runs)}', 130)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        train, test = load_data(args.data, args.batch_size, args.kernel_size)
        digest = hashlib.sha256(args.data.read_bytes()).hexdigest()
        check(args, train)
    except (ValueError, OSError) as error:
        parser.exit(2, f'{error}\n')
    not_in_config = 'output_dir', 'jobs', 'backend', 'scheduler', 'resume', 'dry_run'
    config = {key: value for key, value in vars(args).items() if key not in not_in_config}
    config |= {'data': args.data.name, 'data_sha256': digest, 'torch': torch.__version__}
    if train[0].inputs.shape[2] == 1:
        print('The data has a single feature: its steps are not normalised, which would leave only their signs.')

    try:
        if 'output_dir' not in args:
            temporary = args.dry_run and tempfile.mkdtemp(prefix='training-')
            args.output_dir = Path(temporary or Path(__file__).resolve().parent)
        plots, checkpoints = (args.output_dir / folder for folder in ('plots', 'checkpoints'))
        for folder in (plots, checkpoints):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise Stop(f'--output-dir: the folder {folder} cannot be made ({error.strerror})') from error
        with claimed(checkpoints), backend(args.backend, getattr(args, 'scheduler', None)):
            runs = Runs(checkpoints, config, args.resume, args.jobs)
            carry_out(args, config, train, test, plots, runs)
    except (Stop, OSError) as error:
        leave(f'{error}\n{resumable(runs)}' if runs and runs.entries else error, 2)


def resumable(runs):
    """What is saved, and the command that goes on from there."""
    if not runs or not runs.entries:
        return 'nothing has been saved since the start.'
    return f'{runs}. Go on with: {command_to_resume(runs.folder.parent)}'


if __name__ == '__main__':
    main()
