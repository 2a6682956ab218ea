"""The best recipe against the field's strong classifiers: the same 30 partitions of Japanese Vowels for all.

    pip install -r requirements.txt -r requirements-benchmarks.txt
    python benchmarks/accuracy.py                    # about eight minutes on two cores
    python benchmarks/accuracy.py --resamples 2 --epochs 2

UCI's 270 training and 370 test sequences are pooled and parted anew, stratified: each class keeps as many training
sequences as it has in UCI's own partition, which is the first. One fit of each classifier on each partition, on one
thread; accuracies are compared partition by partition with Wilcoxon's signed-rank test, p corrected for all comparisons
with peers (Holm 1979). The peers are aeon's, with their defaults, on sequences that are padded with zeros to the longest of
all, because they need equal lengths. The recipe was chosen on UCI's training sequences, which in all partitions but the first
are partly test sequences; `fresh_accuracy` counts the others only.
"""

import argparse
import sys
import time
from pathlib import Path

import joblib
import numpy as np
from scipy.stats import wilcoxon

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / 'companions')]

from best import EPOCHS, fit, probabilities  # noqa: E402
from common import carry_out, in_parallel  # noqa: E402
from load_data import load_data, sequences_of, targets_of  # noqa: E402
from runs import write  # noqa: E402
from training import positive_int, records_json  # noqa: E402

OURS = {'best recipe': 1, 'five of it averaged': 5}
PEERS = {'MiniRocket': 'MiniRocketClassifier', 'MultiRocketHydra': 'MultiRocketHydraClassifier'}


def partitions(train_labels, test_labels, count):
    """`count` stratified partitions of training and test set pooled, their own first: which are training, bool [N]."""
    labels = np.concatenate([train_labels, test_labels])
    own = np.arange(len(labels)) < len(train_labels)
    yield own
    for seed in range(1, count):
        generator, part = np.random.default_rng(seed), np.zeros(len(labels), dtype=bool)
        for c in np.unique(labels):
            part[generator.permutation(np.flatnonzero(labels == c))[:own[labels == c].sum()]] = True
        yield part


def padded(sequences, steps):
    """Float32 [N, F, steps], as aeon wants them."""
    x = np.zeros((len(sequences), sequences[0].shape[1], steps), dtype=np.float32)
    for row, sequence in zip(x, sequences):
        row[:, :len(sequence)] = sequence.T
    return x


def compare(name, sequences, labels, part, fresh, seed, epochs):
    """Fit classifier `name` on the training part: its accuracy on the rest, and the seconds of fit and predict."""
    train, test = ([sequences[i] for i in np.flatnonzero(p)] for p in (part, ~part))
    start = time.perf_counter()
    if name in OURS:
        models = [fit(train, labels[part], seed + k, epochs=epochs)[1] for k in range(OURS[name])]
        fitted = time.perf_counter()
        predicted = sum(probabilities(model, test) for model in models).argmax(1).numpy()
    else:
        from aeon.classification import convolution_based
        steps = max(map(len, sequences))
        model = getattr(convolution_based, PEERS[name])(random_state=seed).fit(padded(train, steps), labels[part])
        fitted = time.perf_counter()
        predicted = model.predict(padded(test, steps))
    seconds = fitted - start, time.perf_counter() - fitted
    right = predicted == labels[~part]
    return {'classifier': name, 'partition': seed, 'accuracy': right.mean().item(),
            'fresh_accuracy': right[fresh[~part]].mean().item(),
            'fit_seconds': round(seconds[0], 2), 'predict_seconds': round(seconds[1], 3)}


def holm(p):
    """The p-values of tests made together, corrected (Holm 1979); in their order."""
    corrected, largest = {}, 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = corrected[i] = max(largest, min(1.0, (len(p) - rank) * p[i]))
    return [corrected[i] for i in range(len(p))]


def comparisons(records):
    """Ours minus each peer's: {(ours, peer): (differences in points over partitions, corrected p)}."""
    values = {(r['classifier'], r['partition']): r['accuracy'] for r in records}
    numbers = sorted({partition for _, partition in values})
    # Rounded, so that equal numbers of sequences are ties for the ranks.
    differences = {(ours, peer): np.round([100 * (values[ours, k] - values[peer, k]) for k in numbers], 6)
                   for ours in OURS for peer in PEERS}
    p = holm([wilcoxon(d).pvalue if d.any() else 1.0 for d in differences.values()])
    return {pair: (d, p) for (pair, d), p in zip(differences.items(), p)}


def accuracy_table(records):
    """Markdown: each classifier over the partitions, and ours minus it."""
    compared = comparisons(records)
    lines = [f"| classifier | UCI's own partition (%) | all partitions (%) | {' | '.join(f'{ours} minus it' for ours in OURS)} | "
             'fit (s) | predict (s) |', '|---|---|---|---|---|---|---|']
    for name in (*OURS, *PEERS):
        rows = sorted((r for r in records if r['classifier'] == name), key=lambda r: r['partition'])
        x = np.array([100 * r['accuracy'] for r in rows])
        seconds = [np.median([r[key] for r in rows]) for key in ('fit_seconds', 'predict_seconds')]
        cells = [describe(*compared[ours, name]) if name in PEERS else '' for ours in OURS]
        lines.append(f'| {name} | {x[0]:.2f} | {x.mean():.2f} ± {x.std(ddof=1):.2f} | {" | ".join(cells)} | '
                     f'{seconds[0]:.1f} | {seconds[1]:.2f} |')
    return '\n'.join(lines)


def describe(difference, p):
    signs = ', '.join(f'{(np.sign(difference) == sign).sum()} {word}'
                      for sign, word in ((1, 'better'), (0, 'equal'), (-1, 'worse')))
    return f'{difference.mean():+.2f} ± {difference.std(ddof=1):.2f}; {signs}; p = {p:.2g}'


def get_args():
    parser = argparse.ArgumentParser(description='The best recipe against its peers on resampled partitions.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--resamples', type=positive_int, default=30, help="partitions, UCI's own among them")
    parser.add_argument('--epochs', type=positive_int, default=EPOCHS, help='of the best recipe')
    parser.add_argument('--jobs', type=positive_int, default=joblib.cpu_count(), help='fits at a time')
    parser.add_argument('--output', type=Path, default=ROOT / 'plots' / 'accuracy.json', help='file for all figures')
    args = parser.parse_args()
    if args.resamples < 2:
        parser.error('argument --resamples: expected at least 2')
    return parser, args


def measure(args):
    try:
        import aeon
    except ModuleNotFoundError:
        raise ValueError('benchmarks/accuracy.py needs the package aeon: '
                         'python -m pip install -r requirements-benchmarks.txt') from None
    train, test = load_data(ROOT / 'data' / 'JV_uci.mat')
    sequences = sequences_of(train) + sequences_of(test)
    labels = np.concatenate([targets_of(train), targets_of(test)])
    fresh = np.arange(len(labels)) >= len(targets_of(train))
    tasks = [{'name': name, 'sequences': sequences, 'labels': labels, 'part': part, 'fresh': fresh, 'seed': seed,
              'epochs': args.epochs}
             for name in (*OURS, *PEERS)
             for seed, part in enumerate(partitions(targets_of(train), targets_of(test), args.resamples))]
    args.output.parent.mkdir(parents=True, exist_ok=True)
    records = in_parallel(args.jobs, compare, tasks, 'fits')
    print(f'\n{accuracy_table(records)}\n\naeon {aeon.__version__}; one thread a fit, medians of seconds')
    write(args.output, records_json({'aeon': aeon.__version__, 'epochs': args.epochs}, records))


def main():
    parser, args = get_args()
    carry_out(parser, measure, args)
    print(f'Written to {args.output}')


if __name__ == '__main__':
    main()
