"""Compare the best recipe with other strong classifiers, on 30 partitions of Japanese Vowels.

    python -m benchmarks.accuracy                    # about eight minutes on two cores
    python -m benchmarks.accuracy --resamples 2 --epochs 2

UCI's 270 training and 370 test sequences are pooled and partitioned again, stratified: each class
keeps as many training sequences as in UCI's own partition, which is the first. Each classifier is
fitted once on each partition, on one thread. The peers are aeon's, with their defaults, on
sequences padded with zeros to the longest. The recipe was chosen on UCI's training sequences, some
of which are test sequences in the other partitions; `fresh_accuracy` is on all others. The results
are discussed in companions/best_recipe/README.md. Needs requirements-extra.txt.
"""

import argparse
import time
from pathlib import Path

import joblib
import numpy as np
import torch

from companions.best_recipe.peers import OURS, PEERS, peers_table
from companions.best_recipe.recipe import EPOCHS, fit, probabilities
from load_data import UCI_PATH, load_data, sequences_of, targets_of
from support.checkpoints import write_json
from support.options import ROOT, positive_int
from support.parallel import parallel_map
from support.program import run_program


def partitions(train_labels, test_labels, count):
    """Yield the training part, bool [N], of `count` stratified partitions, the given one first."""
    labels = np.concatenate([train_labels, test_labels])
    own = np.arange(len(labels)) < len(train_labels)
    yield own
    for seed in range(1, count):
        generator, part = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
        for c in np.unique(labels):
            members = generator.permutation(np.flatnonzero(labels == c))
            part[members[:own[labels == c].sum()]] = True
        yield part


def evaluate(name, sequences, labels, part, fresh, seed, epochs):
    """Fit a classifier on the training part; return its record of accuracies and seconds."""
    start = time.perf_counter()
    if name in OURS:
        train, test = ([sequences[i] for i in np.flatnonzero(p)] for p in (part, ~part))
        models = [fit(train, labels[part], seed + k, epochs=epochs) for k in range(OURS[name])]
        fitted = time.perf_counter()
        predicted = sum(probabilities(model, test) for model in models).argmax(1).numpy()
    else:
        from aeon.classification import convolution_based
        x = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, sequences)), batch_first=True)
        x = x.mT.contiguous().numpy()  # [N, F, T], as aeon expects
        model = getattr(convolution_based, PEERS[name])(random_state=seed)
        model.fit(x[part], labels[part])
        fitted = time.perf_counter()
        predicted = model.predict(x[~part])
    done = time.perf_counter()
    correct = predicted == labels[~part]
    return {'classifier': name, 'partition': seed, 'accuracy': correct.mean().item(),
            'fresh_accuracy': correct[fresh[~part]].mean().item(),
            'fit_seconds': round(fitted - start, 2), 'predict_seconds': round(done - fitted, 3)}


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Compare the best recipe with its peers.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--resamples', type=positive_int, default=30,
                        help="number of partitions, UCI's own among them")
    parser.add_argument('--epochs', type=positive_int, default=EPOCHS, help='of the best recipe')
    parser.add_argument('--jobs', type=positive_int, default=joblib.cpu_count(),
                        help='number of parallel processes')
    parser.add_argument('--output', type=Path, default=ROOT / 'plots' / 'accuracy.json',
                        help='file for all records')
    args = parser.parse_args(argv)
    if args.resamples < 2:
        parser.error('argument --resamples: expected at least 2')
    return args


def main(args):
    try:
        import aeon
    except ModuleNotFoundError:
        raise ValueError('benchmarks.accuracy needs the package aeon: '
                         'python -m pip install -r requirements-extra.txt') from None
    train, test = load_data(UCI_PATH)
    sequences = sequences_of(train) + sequences_of(test)
    labels = np.concatenate([targets_of(train), targets_of(test)])
    fresh = np.arange(len(labels)) >= len(targets_of(train))
    parts = list(partitions(targets_of(train), targets_of(test), args.resamples))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    tasks = [{'name': name, 'sequences': sequences, 'labels': labels, 'part': part, 'fresh': fresh,
              'seed': seed, 'epochs': args.epochs}
             for name in (*OURS, *PEERS) for seed, part in enumerate(parts)]
    records = parallel_map(evaluate, tasks, args.jobs, 'fits')
    print(f'\n{peers_table(records)}\n\naeon {aeon.__version__}; one thread, medians of seconds')
    write_json(args.output, {'aeon': aeon.__version__, 'epochs': args.epochs}, records)
    print(f'Written to {args.output}')


if __name__ == '__main__':
    run_program(main, get_args)
