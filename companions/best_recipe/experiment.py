"""Train and test the best recipe for Japanese Vowels, or search for it.

    python -m companions.best_recipe.experiment --seeds 8   # train on UCI's 270, test on its 370
    python -m companions.best_recipe.experiment --tune      # the search, by cross-validation
"""

import argparse
import math
from functools import partial
from pathlib import Path

import numpy as np

from companions.best_recipe.recipe import (CHOSEN, INGREDIENTS, KERNEL_SIZE, BestClassifier,
                                           accuracy, fit, probabilities, recipe_of)
from companions.common.models import best_recipe_models
from load_data import UCI_PATH, load_data, sequences_of, targets_of
from support.checkpoints import write_json
from support.figures import markdown_table, mean_std
from support.options import add_run_arguments, fold_count, positive_int, prepare_output_dir
from support.parallel import parallel_map
from support.program import run_program
from support.tuning import check_folds, paired_difference, stratified_folds

START, ADDITIONS = tuple(INGREDIENTS)[:8], tuple(INGREDIENTS)[8:]  # of the search
HALVES = 10  # times that the training set is halved to compare additions


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
    """Return the chosen ingredients, and what was cross-validated.

    The latter is, for each of the two steps, the accuracies on the folds by recipe, a tuple of
    ingredients. The second step trains on half of the sequences, not on four fifths, so that there
    are more errors by which recipes differ.
    """
    validate = partial(cross_validate, sequences, labels, args)
    kept, elimination = eliminate(partial(validate, args.folds, args.repeats))
    chosen, additions = add(kept, partial(validate, 2, 1 if args.dry_run else HALVES))
    return chosen, {'elimination': elimination, 'addition': additions}


def eliminate(validate):
    """Backward elimination with the one-standard-error rule (Breiman et al. 1984).

    From START, remove the ingredient whose removal leaves the highest accuracy, as long as the best
    recipe so far does not lead by a standard error. validate(recipes) returns {recipe: accuracies}.
    Returns what is left and all accuracies.
    """
    results, current = validate([START]), START
    while current:
        smaller = [tuple(name for name in current if name != removed) for removed in current]
        results |= validate(smaller)
        candidate, best = (max(recipes, key=lambda recipe: results[recipe].mean())
                           for recipes in (smaller, results))
        if leads(results[best], results[candidate]):
            break
        current = candidate
    return current, results


def add(current, validate):
    """Add each of ADDITIONS, in their order, with which the recipe leads by a standard error."""
    results = validate([current])
    for name in ADDITIONS:
        candidate = (*current, name)
        results |= validate([candidate])
        if leads(results[candidate], results[current]):
            current = candidate
    return current, results


def leads(values, others):
    """Return whether `values` [folds] are larger by at least a standard error of the difference."""
    lead = values - others
    return lead.mean() > 0 and lead.mean() >= lead.std(ddof=1) / math.sqrt(len(lead))


def cross_validate(sequences, labels, args, folds, repeats, recipes):
    """Return the accuracies of each recipe on the held-out folds, float [folds · repeats]."""
    folds = list(stratified_folds(labels, folds, repeats))
    tasks = [{'sequences': sequences, 'labels': labels, 'ingredients': ingredients,
              'settings': {'epochs': 2} if args.dry_run else {}, 'held_out': held_out}
             for ingredients in recipes for held_out in folds]
    values = parallel_map(validate, tasks, args.jobs, 'cross-validation')
    return dict(zip(recipes, np.array(values).reshape(len(recipes), -1)))


def validate(sequences, labels, ingredients, settings, held_out):
    """Fit a recipe on what is not held out; return its accuracy on what is."""
    train, test = ([sequences[i] for i in np.flatnonzero(part)] for part in (~held_out, held_out))
    model = fit(train, labels[~held_out], 0, ingredients, **settings)
    mode, epsilon = (recipe_of(ingredients)[key] for key in ('mode', 'epsilon'))
    epsilon = epsilon if mode == 'ProxLSTM' else None  # AdvLSTM perturbs in training only
    return accuracy(probabilities(model, test, mode, epsilon), labels[held_out])


def search_tables(records):
    """Return {step: Markdown}: accuracies, and differences from the recipe that each one changes."""
    results = {}
    for r in records:
        recipes = results.setdefault(r['step'], {})
        recipes.setdefault(tuple(r['ingredients']), []).append(r['accuracy'])
    rows = {step: [] for step in results}
    for step, recipes in results.items():
        first = next(iter(recipes))
        for ingredients, values in recipes.items():
            before, name = first, f'these {len(first)} ingredients'
            if ingredients != first and step == 'addition':  # to the recipe so far
                before, name = ingredients[:-1], f'and {ingredients[-1]}'
                name += ' (added)' if leads(np.array(values), np.array(recipes[before])) else ''
            elif ingredients != first:
                name = 'without ' + '; '.join(x for x in first if x not in ingredients)
            rows[step].append((name, mean_std(values), '' if ingredients == first else
                               paired_difference(values, recipes[before])))
    return {step: markdown_table(('recipe', 'accuracy on held-out folds (%)',
                                  'difference (mean ± standard error)'), rows[step])
            for step in rows}


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Train and test the best recipe, or search it.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data', type=Path, default=UCI_PATH, help='.mat file, see load_data.py')
    add_run_arguments(parser, seeds=1)
    parser.add_argument('--tune', action='store_true',
                        help='search by cross-validation within the training set')
    parser.add_argument('--folds', type=fold_count, default=5)
    parser.add_argument('--repeats', type=positive_int, default=4)
    args = parser.parse_args(argv)
    if args.dry_run:
        args.folds, args.repeats = 2, 1
    return args


def main(args):
    train, test = load_data(args.data, kernel_size=KERNEL_SIZE)
    if args.tune:
        check_folds(args.folds, targets_of(train))
    prepare_output_dir(args, 'best_recipe')
    if args.tune:
        chosen, results = search(sequences_of(train), targets_of(train), args)
        records = [{'step': step, 'ingredients': ingredients, 'fold': k, 'accuracy': value}
                   for step, recipes in results.items() for ingredients, values in recipes.items()
                   for k, value in enumerate(values.tolist())]
        write_json(args.output_dir / 'plots' / 'tune_best.json', {'chosen': chosen}, records)
        print('', *search_tables(records).values(), sep='\n\n')
        print(f'\nChosen: {"; ".join(chosen) or "nothing"}')
    else:
        train_and_test(args, test)
    print(f'Written to {args.output_dir / "plots"}')


if __name__ == '__main__':
    run_program(main, get_args)
