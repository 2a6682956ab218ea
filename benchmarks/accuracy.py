"""Compare the best recipe with other strong classifiers, on 30 partitions of Japanese Vowels.

    python -m benchmarks.accuracy                    # hours; fits that are saved are not repeated
    python -m benchmarks.accuracy --dry-run

UCI's 270 training and 370 test sequences are pooled and partitioned again, stratified: each class
keeps as many training sequences as in UCI's own partition, which is the first. Each classifier is
fitted once on each partition, on one thread; ResNet on UCI's only, and the networks there with
--seeds seeds. The convolutional networks are those of networks.py; the other peers are aeon's, with
their defaults, on sequences padded with zeros to the longest, and in three other ways. The recipe
was chosen on UCI's training sequences, some of which are test sequences in the other partitions;
`fresh_accuracy` is on all others. The results are discussed in companions/best_recipe/README.md.
Needs requirements-extra.txt.
"""

import argparse
import time
from functools import partial

import numpy as np
import torch
from scipy.interpolate import make_interp_spline

from benchmarks import networks
from companions.best_recipe.peers import (PADDINGS, RECIPE, ROCKETS, TRAINING, padding_table,
                                         peers_table)
from companions.best_recipe.recipe import BestClassifier, probabilities
from companions.common.models import best_recipe_config, train_best_recipe
from load_data import UCI_PATH, load_data, sequences_of, targets_of
from support.checkpoints import hash_file, write_json
from support.options import add_run_arguments, number_type, prepare_output_dir
from support.parallel import parallel_map
from support.program import import_optional, run_program
from support.sweep import load_or_train


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


def evaluate(name, sequences, labels, part, fresh, partition, seed, folder, changes):
    """Fit a classifier on the training part; return its record of accuracies and seconds.

    The best recipe's models and the networks are saved to `folder`, or loaded if they are there.
    `changes` replace their settings. The seconds are of processor time.
    """
    def load_or_fit(kind, config, function, *arguments):
        return load_or_train(folder / f'{kind}_partition{partition}_seed{seed}.pt',
                             {**config, 'partition': part.tolist(), 'seed': seed},
                             partial(function, *arguments, seed))

    if name == RECIPE:
        predict, test, fit_seconds = fit_recipe(sequences, labels, part, changes, load_or_fit)
    elif name in networks.NETWORKS:
        predict, test, fit_seconds = fit_network(name, sequences, labels, part, changes,
                                                 load_or_fit)
    else:
        predict, test, fit_seconds = fit_aeon(name, sequences, labels, part, seed)
    start = time.process_time()
    correct = predict(test) == labels[~part]
    return {'classifier': name, 'partition': partition, 'seed': seed,
            'accuracy': correct.mean().item(),
            'fresh_accuracy': correct[fresh[~part]].mean().item(),
            'fit_seconds': round(fit_seconds, 2),
            'predict_seconds': round(time.process_time() - start, 3)}


def fit_recipe(sequences, labels, part, changes, load_or_fit):
    """Return a function from test data to classes [N], the test data, and the seconds of fitting.

    So do `fit_network` and `fit_aeon`.
    """
    train, test = ([sequences[i] for i in np.flatnonzero(p)] for p in (part, ~part))
    checkpoint = load_or_fit('best', best_recipe_config(UCI_PATH, changes),
                             train_best_recipe, train, labels[part], changes)
    model = BestClassifier.from_checkpoint(checkpoint)
    return lambda x: probabilities(model, x).argmax(1).numpy(), test, checkpoint['seconds']


def fit_network(name, sequences, labels, part, changes, load_or_fit):
    x = networks.resample(sequences, max(map(len, sequences)))
    settings = TRAINING[name] | changes
    config = {**settings, 'torch': torch.__version__, 'data_sha256': hash_file(UCI_PATH)}
    checkpoint = load_or_fit(name.lower(), config, partial(networks.fit, **settings), name,
                             x[part], torch.tensor(labels[part]))
    return (lambda x: networks.predict(name, checkpoint, x).numpy(), x[~part],
            checkpoint['seconds'])


def fit_aeon(name, sequences, labels, part, seed):
    """`name` may end with ', ' and one of PADDINGS; otherwise sequences are padded with zeros."""
    from aeon.classification import convolution_based
    name, _, padding = name.partition(', ')
    x = equal_length(sequences, padding)
    model = getattr(convolution_based, f'{name}Classifier')(random_state=seed)
    start = time.process_time()
    model.fit(x[part], labels[part])
    return model.predict, x[~part], time.process_time() - start


def equal_length(sequences, padding):
    """Return sequences of equal length, float32 [N, F, T], as aeon expects."""
    longest = max(map(len, sequences))
    if padding == 'cubic splines':
        return networks.resample(sequences, longest).numpy()
    if padding == 'linear interpolation':
        x = [make_interp_spline(range(len(x)), x, k=1)(np.linspace(0, len(x) - 1, longest))
             for x in sequences]
    else:
        mode = 'edge' if padding == 'last step repeated' else 'constant'
        x = [np.pad(x, ((0, longest - len(x)), (0, 0)), mode) for x in sequences]
    return np.stack(x).astype(np.float32).transpose(0, 2, 1).copy()


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Compare the best recipe with its peers.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--partitions', type=number_type(int, 2, 1000, 'a whole number above 1'),
                        default=30, help="number of partitions, UCI's own among them")
    add_run_arguments(parser, seeds=5)
    args = parser.parse_args(argv)
    if args.dry_run:
        args.partitions, args.seeds = 2, 1
    return args


def main(args):
    aeon = import_optional('aeon', 'benchmarks.accuracy')
    prepare_output_dir(args, 'accuracy')
    train, test = load_data(UCI_PATH)
    sequences = sequences_of(train) + sequences_of(test)
    labels = np.concatenate([targets_of(train), targets_of(test)])
    fresh = np.arange(len(labels)) >= len(targets_of(train))
    parts = list(partitions(targets_of(train), targets_of(test), args.partitions))
    # The slowest first. A fit's seed is its partition's number; on partition 0, networks have more.
    fits = [(name, 0, seed) for name in networks.NETWORKS for seed in range(args.seeds)]
    fits += [('FCN', k, k) for k in range(1, args.partitions)]
    names = [RECIPE, *ROCKETS]
    names += [f'{name}, {padding}' for name in ROCKETS for padding in PADDINGS]
    fits += [(name, k, k) for name in names for k in range(args.partitions)]
    tasks = [{'name': name, 'sequences': sequences, 'labels': labels, 'part': parts[k],
              'fresh': fresh, 'partition': k, 'seed': seed,
              'changes': {'epochs': 2} if args.dry_run else {},
              'folder': args.output_dir / 'checkpoints' / 'benchmarks'}
             for name, k, seed in fits]
    records = parallel_map(evaluate, tasks, args.jobs, 'fits')
    print('', peers_table(records), padding_table(records),
          f'aeon {aeon.__version__}; medians of processor seconds', sep='\n\n')
    plots = args.output_dir / 'plots'
    write_json(plots / 'accuracy.json', {'aeon': aeon.__version__}, records)
    print(f'Written to {plots}')


if __name__ == '__main__':
    run_program(main, get_args)
