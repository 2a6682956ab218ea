"""The best recipe we know for this classifier on Japanese Vowels, kept to what cross-validation misses when it is left out.

    python companions/best.py                     # train on UCI's 270 sequences, save, test on its 370: a line a seed
    python companions/best.py --seeds 8
    python companions/best.py --tune              # the search for the recipe, within the 270 training sequences
    python companions/best.py --dry-run

A seed writes checkpoints/best_seed0.pt (under --output-dir, by default this repository), from which a program in the
repository's root predicts:

    import sys
    import torch
    sys.path.insert(0, 'companions')
    from best import BestClassifier
    checkpoint = torch.load('checkpoints/best_seed0.pt', weights_only=True)
    model = BestClassifier(**checkpoint['arguments'])
    model.load_state_dict(checkpoint['state_dict'])
    model.eval()
    speaker = model(inputs, lengths).argmax(1)    # float32 [B, T, 12] zero-padded, int64 [B]; not normalised
"""

import argparse
import io
import json
import math
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from common import ROOT, add_arguments, carry_out, complete, make_folders
from Classifier import LSTMClassifier
from load_data import load_data, make_batches, sequences_of, targets_of
from runs import write
from training import positive_int, records_json, spread, stratified_folds, train_model

# The ingredients: what each is in the full recipe, and without it, as the base model of training.py has it.
INGREDIENTS = {
    'raw values': {'raw': (True, False)},                              # beside the normalised ones
    'batch norm, input': {'norm_input': (True, False)},
    'batch norm, before ReLU': {'norm_conv': (True, False)},
    'weight decay 5e-3': {'weight_decay': (5e-3, 1e-3)},
    'one-cycle schedule': {'one_cycle': (True, False)},                # of lr, to 3e-3, and of beta1; without, 1e-3 throughout
    'shuffled batches': {'shuffle': (True, False)},
    'random crop': {'crop': (0.8, 1.0)},                               # the smallest part of a sequence that is kept
    'random offset': {'offset': (0.4, 0.0)},                           # in standard deviations of a coefficient
}
CHOSEN = tuple(INGREDIENTS)  # by --tune: each removal costs more than the standard error of what it costs
EPOCHS, BATCH_SIZE, KERNEL_SIZE, PEAK_LR, CONSTANT_LR = 80, 27, 3, 3e-3, 1e-3
PLAIN = 'plain', None, 1
ON_TOP = [('AdvLSTM', 0.3, 1), ('AdvLSTM', 1.0, 1), ('AdvLSTM', 3.0, 1), ('ProxLSTM', 1.0, 1), ('ProxLSTM', 5.0, 1),
          ('plain', None, 5)]  # mode, epsilon, how many models are averaged


# ---------------------------------------------------------------------------------------------- model and training

class BestClassifier(LSTMClassifier):
    """`LSTMClassifier` that, with `raw`, reads every step [F] twice: divided by its norm, and as it is."""

    def __init__(self, input_size=12, raw=True, **arguments):
        super().__init__(input_size * (1 + raw), **arguments)
        self.raw = raw

    def features(self, input):
        normalised = F.normalize(input, dim=2) if input.shape[2] > 1 else input
        return torch.cat([normalised, input], dim=2) if self.raw else normalised


def recipe_of(ingredients):
    """The settings of a recipe with these ingredients."""
    return {key: full if name in ingredients else without
            for name, settings in INGREDIENTS.items() for key, (full, without) in settings.items()}


def fit(sequences, labels, seed=0, ingredients=CHOSEN, mode='plain', epsilon=None, epochs=EPOCHS):
    """Train one model on float32 [T, F] arrays and their classes, counted from 0; on the CPU, one thread.

    `mode` and `epsilon` are those of training.train_model. Returns (arguments, model), the model in evaluation mode.
    """
    recipe = recipe_of(ingredients)
    generator = np.random.default_rng(seed)
    deviation = np.concatenate(sequences).std(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        norms = [place for place, wanted in (('input', recipe['norm_input']), ('conv', recipe['norm_conv'])) if wanted]
        arguments = {'input_size': sequences[0].shape[1], 'output_size': int(labels.max()) + 1,
                     'kernel_size': KERNEL_SIZE, 'raw': recipe['raw'], 'batch_norm': norms}
        model = BestClassifier(**arguments)
        optimizer = torch.optim.Adam(model.parameters(), CONSTANT_LR, weight_decay=recipe['weight_decay'])
        if recipe['one_cycle']:
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=epochs)
        for _ in range(epochs):
            order = generator.permutation(len(labels)) if recipe['shuffle'] else np.arange(len(labels))
            changed = [augmented(sequences[i], deviation, recipe, generator) for i in order]
            batches = make_batches(changed, labels[order], BATCH_SIZE)
            if recipe['shuffle']:
                batches = [batches[i] for i in generator.permutation(len(batches))]
            train_model(model, batches, optimizer, mode, epsilon)
            if recipe['one_cycle']:
                schedule.step()
    torch.set_num_threads(threads)
    return arguments, model.eval()


def augmented(x, deviation, recipe, generator):
    """x [T, F] cut to a random contiguous piece and moved by a random constant for each of its F coefficients."""
    shortest = max(math.ceil(recipe['crop'] * len(x)), KERNEL_SIZE)
    steps = generator.integers(shortest, len(x) + 1)
    start = generator.integers(len(x) - steps + 1)
    offset = recipe['offset'] * deviation * generator.standard_normal(len(deviation))
    return (x[start:start + steps] + offset).astype(np.float32)


def probabilities(model, sequences, mode='plain', epsilon=None):
    """Class probabilities, float32 [N, C], of float32 [T, F] arrays; those of several models may be averaged."""
    lengths = [len(x) for x in sequences]
    inputs = torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in sequences], batch_first=True)
    with torch.no_grad():
        return model(inputs, torch.tensor(lengths), mode=mode, epsilon=epsilon).softmax(1)


def accuracy(probabilities, labels):
    return (probabilities.argmax(1).numpy() == labels).mean().item()


# ---------------------------------------------------------------------------------------------- the search

def cross_validate(candidates, sequences, labels, args):
    """Fit each candidate (ingredients, mode, epsilon, members) on every fold; `members` models, a seed each, are averaged.

    Returns accuracies, float [folds], by candidate.
    """
    folds = list(stratified_folds(labels, args.folds, args.repeats))

    def one(candidate, held_out):
        ingredients, mode, epsilon, members = candidate
        train, test = ([sequences[i] for i in np.flatnonzero(part)] for part in (~held_out, held_out))
        models = [fit(train, labels[~held_out], seed, ingredients, mode, epsilon, args.epochs)[1] for seed in range(members)]
        epsilon_in_test = epsilon if mode == 'ProxLSTM' else None
        return accuracy(sum(probabilities(model, test, mode, epsilon_in_test) for model in models), labels[held_out])

    calls = [joblib.delayed(one)(candidate, held_out) for candidate in candidates for held_out in folds]
    parallel = joblib.Parallel(n_jobs=args.jobs, return_as='generator')
    values = list(tqdm(parallel(calls), total=len(calls), unit='fit'))
    return dict(zip(candidates, np.array(values).reshape(len(candidates), -1)))


def search(sequences, labels, args):
    """Backward elimination by the one-standard-error rule (Breiman et al. 1984); then what else may be put on top.

    From all ingredients on, the one whose removal leaves the highest accuracy is removed, as long as the best recipe so
    far is then ahead by less than the standard error of the difference, paired over folds. Returns the chosen ingredients
    and all accuracies by (ingredients, mode, epsilon, members).
    """
    current = tuple(INGREDIENTS)
    results = cross_validate([(current, *PLAIN)], sequences, labels, args)
    while current:
        smaller = [(tuple(name for name in current if name != removed), *PLAIN) for removed in current]
        results |= cross_validate(smaller, sequences, labels, args)
        candidate = max(smaller, key=lambda key: results[key].mean())
        behind = results[max(results, key=lambda key: results[key].mean())] - results[candidate]
        if behind.mean() > 0 and behind.mean() >= behind.std(ddof=1) / math.sqrt(len(behind)):
            break
        current = candidate[0]
    return current, results | cross_validate([(current, *more) for more in ON_TOP], sequences, labels, args)


def search_table(records):
    """Markdown of the search: every recipe's accuracy on the held-out folds, and what it is behind the full one."""
    results = {}
    for record in records:
        key = tuple(record['ingredients']), record['mode'], record['epsilon'], record['members']
        results.setdefault(key, []).append(100 * record['accuracy'])
    full = np.array(next(iter(results.values())))
    lines = ['| recipe | accuracy on held-out folds (%) | minus all ingredients (mean ± standard error) |', '|---|---|---|']
    for (ingredients, mode, epsilon, members), values in results.items():
        missing = [name for name in INGREDIENTS if name not in ingredients]
        name = 'without ' + '; '.join(missing) if missing else 'all ingredients'
        name += '' if mode == 'plain' else f'; {mode}, ε = {epsilon:g}'
        name += '' if members == 1 else f'; {members} models averaged'
        difference = np.array(values) - full
        lines.append(f'| {name} | {np.mean(values):.2f} ± {np.std(values, ddof=1):.2f} | '
                     f'{difference.mean():+.2f} ± {difference.std(ddof=1) / math.sqrt(len(difference)):.2f} |')
    return '\n'.join(lines)


# ---------------------------------------------------------------------------------------------- the command line

def train_and_test(args, train, test):
    """Every seed: train, save, test. Writes plots/best.json and prints a line a seed."""
    labels, correct_answer = targets_of(train), targets_of(test)
    records, total = [], 0
    for seed in range(args.seeds):
        start = time.perf_counter()
        arguments, model = fit(sequences_of(train), labels, seed, epochs=args.epochs)
        path = args.output_dir / 'checkpoints' / f'best_seed{seed}.pt'
        buffer = io.BytesIO()
        torch.save({'arguments': arguments, 'state_dict': model.state_dict()}, buffer)
        write(path, buffer.getvalue())
        p = probabilities(model, sequences_of(test))
        total = total + p
        seconds = time.perf_counter() - start
        records.append({'seed': seed, 'accuracy': accuracy(p, correct_answer), 'seconds': round(seconds, 2)})
        print(f'seed {seed}: {100 * records[-1]["accuracy"]:.2f} % of {len(correct_answer)} test sequences, '
              f'{seconds:.1f} s, saved to {path}')
    results = {'data': args.data.name, 'ingredients': CHOSEN, 'epochs': args.epochs, 'test_sequences': len(correct_answer),
               'runs': records, 'averaged': accuracy(total, correct_answer)}
    if args.seeds > 1:
        print(f'mean ± standard deviation: {spread([record["accuracy"] for record in records])} %; '
              f'the {args.seeds} models averaged: {100 * results["averaged"]:.2f} %')
    write(args.output_dir / 'plots' / 'best.json', (json.dumps(results, indent=1) + '\n').encode())


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='The best recipe: train, save, test; or search for it.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--data', type=Path, default=ROOT / 'data' / 'JV_uci.mat', help='.mat file, see load_data.py')
    add_arguments(parser, seeds=1)
    parser.add_argument('--epochs', type=positive_int, default=EPOCHS)
    parser.add_argument('--tune', action='store_true', help='search by cross-validation within the training set')
    parser.add_argument('--folds', type=positive_int, default=5)
    parser.add_argument('--repeats', type=positive_int, default=4)
    args = parser.parse_args(argv)
    if args.folds < 2:
        parser.error('argument --folds: expected at least 2')
    if args.dry_run:
        args.epochs, args.folds, args.repeats = 2, 2, 1
    complete(args)
    return parser, args


def search_or_train(args):
    train, test = load_data(args.data, kernel_size=KERNEL_SIZE)
    if args.tune and args.folds > (smallest := np.bincount(targets_of(train)).min()):
        raise ValueError(f'--folds is {args.folds}, but the smallest class has {smallest} training sequences')
    make_folders(args)
    if args.tune:
        chosen, results = search(sequences_of(train), targets_of(train), args)
        folds = [(repeat, fold) for repeat in range(args.repeats) for fold in range(args.folds)]
        records = [{'ingredients': ingredients, 'mode': mode, 'epsilon': epsilon, 'members': members,
                    'repeat': repeat, 'fold': fold, 'accuracy': value.item()}
                   for (ingredients, mode, epsilon, members), values in results.items()
                   for (repeat, fold), value in zip(folds, values)]
        write(args.output_dir / 'plots' / 'tune_best.json', records_json({'chosen': chosen}, records))
        print(f'\n{search_table(records)}\n\nChosen: {"; ".join(chosen) or "no ingredient"}')
    else:
        train_and_test(args, train, test)


def main():
    parser, args = get_args()
    carry_out(parser, search_or_train, args)
    print(f'Written to {args.output_dir / "plots"}')


if __name__ == '__main__':
    main()
