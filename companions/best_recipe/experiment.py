"""Train and test the best recipe for Japanese Vowels, or search for it.

    python -m companions.best_recipe.experiment --seeds 8   # train on UCI's 270, test on its 370
    python -m companions.best_recipe.experiment --tune      # the search, by cross-validation
"""

import argparse
import math
from pathlib import Path

import numpy as np

from companions.best_recipe.recipe import (CHOSEN, EPOCHS, INGREDIENTS, KERNEL_SIZE, BestClassifier,
                                           accuracy, fit, probabilities)
from companions.common.models import best_recipe_models
from load_data import UCI_PATH, load_data, sequences_of, targets_of
from support.checkpoints import write_json
from support.figures import markdown_table, mean_std
from support.options import add_run_arguments, finish_args, fold_count, positive_int
from support.parallel import parallel_map
from support.program import run_program
from support.tuning import check_folds, paired_difference, stratified_folds

PLAIN = 'plain', None, 1  # mode, epsilon, number of models whose probabilities are averaged
ADDITIONS = [('AdvLSTM', 0.3, 1), ('AdvLSTM', 1.0, 1), ('AdvLSTM', 3.0, 1), ('ProxLSTM', 1.0, 1),
             ('ProxLSTM', 5.0, 1), ('plain', None, 5)]


def train_and_test(args, test):
    """Train or load a model for each seed, test it, and print and write its accuracy."""
    sequences, labels = sequences_of(test), targets_of(test)
    records, total = [], 0
    for (_, seed), checkpoint in best_recipe_models(args, args.data, args.epochs).items():
        p = probabilities(BestClassifier.from_checkpoint(checkpoint), sequences)
        total = total + p
        records.append({'seed': seed, 'accuracy': accuracy(p, labels),
                        'seconds': checkpoint['seconds']})
        print(f'seed {seed}: {100 * records[-1]["accuracy"]:.2f} % of {len(labels)} test '
              f'sequences, trained in {checkpoint["seconds"]:.1f} s')
    averaged = accuracy(total, labels)
    if args.seeds > 1:
        print(f'mean ± standard deviation: {mean_std([r["accuracy"] for r in records])} %; the '
              f'{args.seeds} models averaged: {100 * averaged:.2f} %')
    header = {'data': args.data.name, 'ingredients': CHOSEN, 'epochs': args.epochs,
              'test_sequences': len(labels), 'averaged': averaged}
    write_json(args.output_dir / 'plots' / 'best.json', header, records)


def search(sequences, labels, args):
    """Search by backward elimination with the one-standard-error rule (Breiman et al. 1984).

    Starting from all ingredients, remove the one whose removal leaves the highest accuracy, as
    long as the best recipe so far is then ahead by less than the standard error of the difference,
    paired over folds. Then try the ADDITIONS. Returns the chosen ingredients, and by candidate,
    (ingredients, mode, epsilon, number of models averaged), the accuracies on the folds.
    """
    current = tuple(INGREDIENTS)
    results = cross_validate([(current, *PLAIN)], sequences, labels, args)
    while current:
        smaller = [(tuple(name for name in current if name != removed), *PLAIN)
                   for removed in current]
        results |= cross_validate(smaller, sequences, labels, args)
        candidate = max(smaller, key=lambda key: results[key].mean())
        best = max(results, key=lambda key: results[key].mean())
        lead = results[best] - results[candidate]
        if lead.mean() > 0 and lead.mean() >= lead.std(ddof=1) / math.sqrt(len(lead)):
            break
        current = candidate[0]
    additions = [(current, *addition) for addition in ADDITIONS]
    return current, results | cross_validate(additions, sequences, labels, args)


def cross_validate(candidates, sequences, labels, args):
    """Return the accuracies of each candidate on the held-out folds, float [folds]."""
    folds = list(stratified_folds(labels, args.folds, args.repeats))
    tasks = [{'sequences': sequences, 'labels': labels, 'epochs': args.epochs,
              'candidate': candidate, 'held_out': held_out}
             for candidate in candidates for held_out in folds]
    values = parallel_map(validate, tasks, args.jobs, 'cross-validation')
    return dict(zip(candidates, np.array(values).reshape(len(candidates), -1)))


def validate(sequences, labels, epochs, candidate, held_out):
    """Fit a candidate on what is not held out, one seed for each model; return its accuracy."""
    ingredients, mode, epsilon, members = candidate
    train, test = ([sequences[i] for i in np.flatnonzero(part)] for part in (~held_out, held_out))
    models = [fit(train, labels[~held_out], seed, ingredients, mode, epsilon, epochs)
              for seed in range(members)]
    epsilon = epsilon if mode == 'ProxLSTM' else None  # AdvLSTM perturbs in training only
    return accuracy(sum(probabilities(model, test, mode, epsilon) for model in models),
                    labels[held_out])


def search_table(records):
    """Return Markdown: the accuracy of each candidate, and its difference to all ingredients."""
    results = {}
    for r in records:
        key = tuple(r['ingredients']), r['mode'], r['epsilon'], r['members']
        results.setdefault(key, []).append(r['accuracy'])
    rows = []
    for (ingredients, mode, epsilon, members), values in results.items():
        missing = [name for name in INGREDIENTS if name not in ingredients]
        name = 'without ' + '; '.join(missing) if missing else 'all ingredients'
        name += '' if mode == 'plain' else f'; {mode}, ε = {epsilon:g}'
        name += '' if members == 1 else f'; {members} models averaged'
        full = next(iter(results.values()))
        rows.append((name, mean_std(values), paired_difference(values, full)))
    return markdown_table(('recipe', 'accuracy on held-out folds (%)',
                           'minus all ingredients (mean ± standard error)'), rows)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Train and test the best recipe, or search it.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data', type=Path, default=UCI_PATH, help='.mat file, see load_data.py')
    add_run_arguments(parser, seeds=1)
    parser.add_argument('--epochs', type=positive_int, default=EPOCHS)
    parser.add_argument('--tune', action='store_true',
                        help='search by cross-validation within the training set')
    parser.add_argument('--folds', type=fold_count, default=5)
    parser.add_argument('--repeats', type=positive_int, default=4)
    args = parser.parse_args(argv)
    if args.dry_run:
        args.epochs, args.folds, args.repeats = 2, 2, 1
    return args


def main(args):
    train, test = load_data(args.data, kernel_size=KERNEL_SIZE)
    if args.tune:
        check_folds(args.folds, targets_of(train))
    finish_args(args, 'best_recipe')
    if args.tune:
        chosen, results = search(sequences_of(train), targets_of(train), args)
        records = [{'ingredients': ingredients, 'mode': mode, 'epsilon': epsilon,
                    'members': members, 'repeat': k // args.folds, 'fold': k % args.folds,
                    'accuracy': value}
                   for (ingredients, mode, epsilon, members), values in results.items()
                   for k, value in enumerate(values.tolist())]
        write_json(args.output_dir / 'plots' / 'tune_best.json', {'chosen': chosen}, records)
        print(f'\n{search_table(records)}\n\nChosen: {"; ".join(chosen) or "no ingredient"}')
    else:
        train_and_test(args, test)
    print(f'Written to {args.output_dir / "plots"}')


if __name__ == '__main__':
    run_program(main, get_args)
