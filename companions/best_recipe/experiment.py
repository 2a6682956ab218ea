"""Train and test the best recipe for Japanese Vowels, or search for it.

    python -m companions.best_recipe.experiment --seeds 8   # train on UCI's 270, test on its 370
    python -m companions.best_recipe.experiment --tune      # the search, by cross-validation
"""

import argparse
import math
from pathlib import Path

import numpy as np

from companions.best_recipe.recipe import (CHOSEN, INGREDIENTS, KERNEL_SIZE, BestClassifier,
                                           accuracy, fit, probabilities, recipe_of)
from companions.common.models import best_recipe_models
from load_data import UCI_PATH, load_data, sequences_of, targets_of
from support.checkpoints import write_json
from support.figures import markdown_table, mean_std
from support.options import add_run_arguments, finish_args, fold_count, positive_int
from support.parallel import parallel_map
from support.program import run_program
from support.tuning import check_folds, paired_difference, stratified_folds

START, ADDITIONS = tuple(INGREDIENTS)[:8], tuple(INGREDIENTS)[8:]  # of the search


def train_and_test(args, test):
    """Train or load a model for each seed, test it, and print and write its accuracy."""
    sequences, labels = sequences_of(test), targets_of(test)
    records, total = [], 0
    for (_, seed), checkpoint in best_recipe_models(args, args.data).items():
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
    header = {'data': args.data.name, 'ingredients': CHOSEN,
              'test_sequences': len(labels), 'averaged': averaged}
    write_json(args.output_dir / 'plots' / 'best.json', header, records)


def search(sequences, labels, args):
    """Search by backward elimination, then forward, with the one-standard-error rule.

    (Breiman et al. 1984.) From START, remove the ingredient whose removal leaves the highest
    accuracy, as long as the best recipe so far does not lead by a standard error. Then add each of
    ADDITIONS, in their order, with which the recipe leads by a standard error. Returns the chosen
    ingredients, and the accuracies on the folds by recipe, a tuple of ingredients.
    """
    results, current = cross_validate([START], sequences, labels, args), START
    while current:
        smaller = [tuple(name for name in current if name != removed) for removed in current]
        results |= cross_validate(smaller, sequences, labels, args)
        candidate, best = (max(recipes, key=lambda recipe: results[recipe].mean())
                           for recipes in (smaller, results))
        if leads(results[best], results[candidate]):
            break
        current = candidate
    for name in ADDITIONS:
        candidate = (*current, name)
        results |= cross_validate([candidate], sequences, labels, args)
        if leads(results[candidate], results[current]):
            current = candidate
    return current, results


def leads(values, others):
    """Return whether `values` [folds] are larger by at least a standard error of the difference."""
    lead = values - others
    return lead.mean() > 0 and lead.mean() >= lead.std(ddof=1) / math.sqrt(len(lead))


def cross_validate(recipes, sequences, labels, args):
    """Return the accuracies of each recipe on the held-out folds, float [folds]."""
    folds = list(stratified_folds(labels, args.folds, args.repeats))
    tasks = [{'sequences': sequences, 'labels': labels, 'ingredients': ingredients,
              'epochs': 2 if args.dry_run else None, 'held_out': held_out}
             for ingredients in recipes for held_out in folds]
    values = parallel_map(validate, tasks, args.jobs, 'cross-validation')
    return dict(zip(recipes, np.array(values).reshape(len(recipes), -1)))


def validate(sequences, labels, ingredients, epochs, held_out):
    """Fit a recipe on what is not held out; return its accuracy on what is."""
    train, test = ([sequences[i] for i in np.flatnonzero(part)] for part in (~held_out, held_out))
    model = fit(train, labels[~held_out], 0, ingredients, epochs)
    mode, epsilon = (recipe_of(ingredients)[key] for key in ('mode', 'epsilon'))
    epsilon = epsilon if mode == 'ProxLSTM' else None  # AdvLSTM perturbs in training only
    return accuracy(probabilities(model, test, mode, epsilon), labels[held_out])


def search_table(chosen, records):
    """Return Markdown: the accuracy of each recipe, and its difference to the one it changes."""
    results, rows = {}, []
    for r in records:
        results.setdefault(tuple(r['ingredients']), []).append(r['accuracy'])
    for ingredients, values in results.items():
        *others, last = ingredients or [None]
        if last in ADDITIONS:  # to the recipe so far
            before = tuple(others)
            name = f'{"eight" if before == START else "these"} and {last}'
            verdict = 'added' if last in chosen else ''
        else:
            before, missing = START, [name for name in START if name not in ingredients]
            name = f'without {"; ".join(missing)}' if missing else 'the eight ingredients'
            verdict = ''
        difference = '' if before == ingredients else paired_difference(values, results[before])
        rows.append((name, mean_std(values), difference, verdict))
    return markdown_table(('recipe', 'accuracy on held-out folds (%)',
                           'difference (mean ± standard error)', ''), rows)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Train and test the best recipe, or search it.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data', type=Path, default=UCI_PATH, help='.mat file, see load_data.py')
    add_run_arguments(parser, seeds=1)
    parser.add_argument('--tune', action='store_true',
                        help='search by cross-validation within the training set')
    parser.add_argument('--folds', type=fold_count, default=2)
    parser.add_argument('--repeats', type=positive_int, default=10)
    args = parser.parse_args(argv)
    if args.dry_run:
        args.folds, args.repeats = 2, 1
    return args


def main(args):
    train, test = load_data(args.data, kernel_size=KERNEL_SIZE)
    if args.tune:
        check_folds(args.folds, targets_of(train))
    finish_args(args, 'best_recipe')
    if args.tune:
        chosen, results = search(sequences_of(train), targets_of(train), args)
        records = [{'ingredients': ingredients, 'repeat': k // args.folds, 'fold': k % args.folds,
                    'accuracy': value}
                   for ingredients, values in results.items()
                   for k, value in enumerate(values.tolist())]
        write_json(args.output_dir / 'plots' / 'tune_best.json', {'chosen': chosen}, records)
        print(f'\n{search_table(chosen, records)}\n\nChosen: {"; ".join(chosen) or "nothing"}')
    else:
        train_and_test(args, test)
    print(f'Written to {args.output_dir / "plots"}')


if __name__ == '__main__':
    run_program(main, get_args)
