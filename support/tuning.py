"""Choose epsilon by stratified, repeated cross-validation within the training set."""

import math

import numpy as np

from load_data import EVALUATION_BATCH, make_batches, seen_in_training, sequences_of, targets_of
from support.checkpoints import write_json
from support.figures import markdown_table, mean_std, plot_tuning
from support.options import MODE_OF_PREFIX, config_of
from support.sweep import Run, Sweep


def tune(train, args, train_set):
    """Cross-validate a mode over `args.grid`; write the records and a plot, and print a table.

    Every fold trains a base model of its own. A record is the accuracy of one fold and epsilon
    after the last epoch, by the averaged weights, None if the run diverged.
    """
    mode = MODE_OF_PREFIX[args.tune]
    labels = targets_of(train_set)
    check_folds(args.folds, labels)
    folds = []
    for held_out in stratified_folds(labels, args.folds, args.repeats):
        batches = fold_batches(train_set, held_out, args.batch_size)
        folds.append((*batches, ~seen_in_training(*batches)))
    with Sweep(train, lambda run: folds[run.fold], args,
               args.output_dir / 'checkpoints' / f'tune_{args.tune}') as sweep:
        base = [Run('plain', seed=k, fold=k, epochs=args.epochs) for k in range(len(folds))]
        runs = [Run(mode, epsilon, seed=k, fold=k, epochs=args.epochs, start=base[k])
                for epsilon in args.grid for k in range(len(folds))]
        entries = sweep.train(runs, mode)
    records = [{'mode': mode, 'epsilon': run.epsilon, 'repeat': run.fold // args.folds,
                'fold': run.fold % args.folds,
                'accuracy': None if entry['diverged'] is not None
                else entry['history']['averaged_test_accuracy'][-1]}
               for run, entry in zip(runs, entries)]
    plots = args.output_dir / 'plots'
    write_json(plots / f'tune_{args.tune}.json', {'config': config_of(args)}, records)
    plot_tuning(plots / f'tune_{args.tune}.png', mode, records)
    table, best = tuning_table(records)
    verdict = {None: 'Runs diverged at every epsilon.', 0: 'No epsilon above 0 helps.'}
    print(f'\n{table}\n\n{verdict.get(best, f"Best: --{args.tune}-epsilon {best}")}\n\n'
          f'Written to {plots}')


def check_folds(folds, labels):
    """Raise ValueError if a class has fewer training examples than there are folds."""
    smallest = np.bincount(labels).min()
    if folds > smallest:
        raise ValueError(f'--folds is {folds}, but the smallest class has {smallest} training '
                         f'examples')


def stratified_folds(labels, folds, repeats):
    """Yield, for each repeat and fold, which of `labels` [N] are held out: bool [N]."""
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(len(labels))
        order = order[np.argsort(labels[order], kind='stable')]  # by class, in random order
        for fold in range(folds):
            held_out = np.zeros(len(labels), dtype=bool)
            held_out[order[fold::folds]] = True
            yield held_out


def fold_batches(batches, held_out, batch_size):
    """Split a list of `Batch` in two: to train on, and held out, in batches for evaluation."""
    sequences, labels = sequences_of(batches), targets_of(batches)
    return [make_batches([sequences[i] for i in np.flatnonzero(part)], labels[part], size)
            for part, size in ((~held_out, batch_size), (held_out, EVALUATION_BATCH))]


def tuning_table(records):
    """Return a Markdown table of held-out accuracy by epsilon, and the best epsilon or None."""
    folds = {}
    for record in records:
        fold = record['repeat'], record['fold']
        folds.setdefault(record['epsilon'], {})[fold] = record['accuracy']
    best = best_epsilon({epsilon: list(x.values()) for epsilon, x in folds.items()})
    rows = []
    for epsilon, accuracy in folds.items():
        values = [x for x in accuracy.values() if x is not None]
        pairs = [(x, folds[0][fold]) for fold, x in accuracy.items()]
        difference = paired_difference(*zip(*(pair for pair in pairs if None not in pair)))
        rows.append((f'{epsilon:g}{" (best)" if epsilon == best else ""}',
                     mean_std(values, of=len(accuracy)), difference))
    return markdown_table(('ε', 'accuracy on held-out folds (%)',
                           'minus ε = 0 (mean ± standard error)'), rows), best


def best_epsilon(accuracies):
    """Return the epsilon with the largest mean of {epsilon: accuracies}, the smallest of equals.

    None among the accuracies, a run that diverged, excludes an epsilon; if all are, return None.
    """
    means = {epsilon: round(np.mean(values), 9) for epsilon, values in sorted(accuracies.items())
             if None not in values}
    return max(means, key=means.get, default=None)


def paired_difference(values=(), baseline=()):
    """Format the mean ± standard error of `values` − `baseline`, fractions, in points."""
    difference = 100 * (np.array(values) - np.array(baseline))
    if len(difference) < 2:
        return ''.join(f'{x:+.2f}' for x in difference)
    return f'{difference.mean():+.2f} ± {difference.std(ddof=1) / math.sqrt(len(difference)):.2f}'
