"""Adversarial training on word embeddings: train on F(e) + F(e + r), where r moves the embeddings that a text looked up.

    python companions/embeddings.py                      # which library does a docstring's sentence come from?
    python companions/embeddings.py frozen --seeds 8     # with word2vec's vectors, kept as they are
    python companions/embeddings.py --tsv reviews.tsv    # lines of a label, a tab and a text, in UTF-8
    python companions/embeddings.py --tune               # choose ε by cross-validation within the training set
    python companions/embeddings.py --dry-run
    python -m pytest tests/test_embeddings.py

In a training loop of your own, with one head (a class) or two (where an answer's span starts and ends):

    embedded = embedding(tokens)                                       # [B, T, d], looked up once
    forward = lambda e: model(e, lengths)
    loss_of = lambda logits: F.cross_entropy(logits, labels)           # two heads: span_loss(outputs, starts, ends)
    total, loss = adversarial_loss(forward, embedded, tokens != PADDING, loss_of, epsilon)
    total.backward()

Miyato, Dai and Goodfellow, arXiv:1605.07725, section 3: for each sequence r = ε g / ‖g‖₂, with g the gradient of its loss
with respect to e and one norm over all its steps and dimensions. Nine lines often found in such code, and what each breaks:

 1. g = embedding.weight.grad                    The table's gradient adds up all occurrences of a word in the minibatch: each
                                                 occurrence is moved by the sum, so a text's r depends on its neighbours.
 2. r = epsilon * F.normalize(g, dim=-1)         Normalised a row, every word moves by ε, however small its gradient: a text
                                                 of T words by ε√T, and mostly where the loss does not care.
 3. embedding.weight.data = perturbed            Autograd cannot see it. What it keeps of the table by reference is read after
                                                 the table was put back: a gradient of F(e + r), in part taken at e.
 4. loss.backward(retain_graph=True)             To get at g this way also fills every weight's .grad: unless they are cleared
                                                 before total.backward(), F(e) counts twice.
 5. total = loss.detach() + adversarial          F(e) is then a constant: only the perturbed texts are learnt from.
 6. g = grad(loss, e, create_graph=True)         r must be a constant. Not detached, the weights are also trained to turn r,
                                                 by second derivatives: another objective, and a slower one.
 7. e = embedding(tokens).detach()               This cuts the path to the table: embeddings are never learnt, in either term.
 8. embedding.training = False                   Freezes nothing; an embedding does not look at it. requires_grad_(False)
                                                 does, and then e must be made to require a gradient, as here.
 9. nn.Embedding(..., padding_idx=0)             Keeps the table's row 0 from learning, not the looked-up padding from a g:
                                                 where a model reads its padding, r is spent on it unless masked.

The classes are the standard library and those of numpy, scipy, torch, matplotlib and scikit-learn that are installed. Written
under --output-dir: plots/embeddings.png and embeddings.json, or tune_embeddings.json.
"""

import argparse
import math
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import corpus as corpora
from common import add_arguments, carry_out, complete, in_parallel, make_folders
from runs import write
from training import non_negative, per_sequence, positive_int, records_json, save_figure, spread, stratified_folds
from word2vec import alone, call, text_of, train as train_word2vec

PADDING, UNKNOWN = 0, 1
VECTORS = {'scratch': 'from scratch', 'word2vec': 'from word2vec', 'frozen': 'word2vec, frozen'}
METHODS = 'plain', 'random', 'adversarial'
CHOSEN = {'scratch': 1.0, 'word2vec': 3.0, 'frozen': 1.0}  # ε, chosen by --tune on docstrings
GRID = 0.0, 0.3, 1.0, 3.0, 10.0
SIZES = 0.0, 1.0, 2.0, 4.0, 8.0  # of the perturbations of the test texts
SETTINGS = {'epochs': 6, 'hidden': 64, 'dropout': 0.3, 'batch_size': 128, 'lr': 5e-3}
SHORTEST = 5                     # words in a docstring's sentence
VECTOR_WORDS = 300_000           # to learn word2vec's vectors from


# ---------------------------------------------------------------------------------------------- the perturbation

def perturbation(loss, embedded, mask, epsilon):
    """r = ε g / ‖g‖₂ for each sequence, g the gradient of `loss` with respect to `embedded`.

    Args: loss, a scalar computed from `embedded` (float [B, T, d], which requires a gradient) as a sum or mean over sequences;
    mask, bool [B, T], False at padding. Returns r, float [B, T, d]: 0 at padding and where a sequence's g is 0. It is a
    constant, no parameter's .grad is touched, and the graph of `loss` stays usable.
    """
    g, = torch.autograd.grad(loss, embedded, retain_graph=True)
    return epsilon * per_sequence(torch.where(mask[..., None], g, 0))


def adversarial_loss(forward, embedded, mask, loss_of, epsilon):
    """(F(e) + F(e + r), F(e)): the loss to minimise, and the ordinary loss to look at. With ε = 0 it is (F(e), F(e)).

    Args:
        forward: embedded [B, T, d] -> outputs, anything that `loss_of` takes. It is called twice; dropout in it draws anew.
        embedded: e, as looked up. Of a frozen table it need not require a gradient.
        mask: bool [B, T], False at padding.
        loss_of: outputs -> the loss, a scalar. Of several heads, the sum of their losses.
        epsilon: the L2 norm of each sequence's r, 0 or above.

    Both terms reach every parameter, the table through e in either; r is a constant. Raises ValueError for another epsilon.
    """
    if not 0 <= epsilon < math.inf:
        raise ValueError(f'epsilon is {epsilon}, expected a finite number from 0 up')
    if epsilon > 0 and not embedded.requires_grad:
        embedded = embedded.detach().requires_grad_()
    loss = loss_of(forward(embedded))
    if epsilon == 0:
        return loss, loss
    r = perturbation(loss, embedded, mask, epsilon)
    return loss + loss_of(forward(embedded + r)), loss


def random_loss(forward, embedded, mask, loss_of, epsilon, generator):
    """The same with r of a random direction: what noise of this size does by itself."""
    loss = loss_of(forward(embedded))
    if epsilon == 0:
        return loss, loss
    noise = torch.randn(embedded.shape, generator=generator, dtype=embedded.dtype)
    r = epsilon * per_sequence(torch.where(mask[..., None], noise, 0))
    return loss + loss_of(forward(embedded + r)), loss


# ---------------------------------------------------------------------------------------------- models

def normalised(table, counts):
    """`table` [V, d] with mean 0 and variance 1 in every dimension, over words as frequent as `counts` [V] says.

    As in arXiv:1605.07725, section 2, equation 1. Without it a trained table can grow until a step of ε is nothing to it, and
    a given ε means something else for every table.
    """
    share = counts / counts.sum()
    centred = table - share @ table
    return centred / (share @ centred.square()).clamp_min(1e-12).sqrt()


class NormalisedEmbedding(nn.Module):
    """tokens int64 [B, T] -> float [B, T, d], looked up in the normalised table, which is learnt through the normalisation."""

    def __init__(self, table, counts, frozen=False):
        super().__init__()
        self.weight = nn.Parameter(table.clone(), requires_grad=not frozen)
        self.register_buffer('counts', counts.to(table.dtype))

    def forward(self, tokens):
        return F.embedding(tokens, normalised(self.weight, self.counts))


class TextLSTM(nn.Module):
    """A text's class from the mean of an LSTM's states. `embed` looks up, with dropout; `forward` takes what was looked up."""

    def __init__(self, embedding, hidden, classes, dropout=0.5):
        super().__init__()
        self.embedding = embedding
        self.lstm = nn.LSTM(embedding.weight.shape[1], hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden, classes)

    def embed(self, tokens):
        return self.dropout(self.embedding(tokens))

    def forward(self, embedded, lengths):
        """embedded [B, T, d], lengths int64 [B]; logits [B, classes]."""
        states, _ = self.lstm(embedded)  # padding comes last, so that no other state has seen it
        valid = torch.arange(embedded.shape[1]) < lengths[:, None]
        mean = (states * valid[..., None]).sum(1) / lengths[:, None]
        return self.linear(self.dropout(mean))


class SpanLSTM(nn.Module):
    """Where a span starts and ends: two scores for every step, by a bidirectional LSTM."""

    def __init__(self, embedding, hidden):
        super().__init__()
        self.embedding = embedding
        self.lstm = nn.LSTM(embedding.weight.shape[1], hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, 2)

    def forward(self, embedded, lengths):
        """Two tensors of logits [B, T], -inf at padding."""
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        outputs, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=embedded.shape[1])
        beyond = torch.arange(embedded.shape[1]) >= lengths[:, None]
        return self.linear(outputs).masked_fill(beyond[..., None], -math.inf).unbind(2)


def span_loss(outputs, starts, ends):
    """The sum of both heads' cross-entropies; starts and ends int64 [B]."""
    return F.cross_entropy(outputs[0], starts) + F.cross_entropy(outputs[1], ends)


# ---------------------------------------------------------------------------------------------- texts

class Data(NamedTuple):
    tokens: torch.Tensor   # int64 [N, T], rows of the table, PADDING beyond each text's end
    lengths: torch.Tensor  # int64 [N]
    labels: torch.Tensor   # int64 [N]

    def at(self, chosen):
        return Data(*(x[chosen] for x in self))

    def batches(self, size, generator=None):
        """Data of `size` texts each, in random order if there is a generator, cut to their longest."""
        order = torch.arange(len(self.labels)) if generator is None else torch.randperm(len(self.labels), generator=generator)
        for chosen in order.split(size):
            tokens, lengths, labels = self.at(chosen)
            yield Data(tokens[:, :lengths.max()], lengths, labels)


class Problem(NamedTuple):
    name: str
    class_names: list
    train: Data
    test: Data
    counts: torch.Tensor  # float32 [V], how often each row of the table occurs in training
    table: torch.Tensor   # float32 [V, d], word2vec's vectors


def divided(labels, train, test, seed=0):
    """Indices of a training and of a test set, random, of at most `train` and `test` texts and as many of each class.

    A class with fewer texts gives all that it has, in the same proportion. Raises ValueError where it has too few for both.
    """
    generator, classes = np.random.default_rng(seed), sorted(set(labels))
    labels, parts = np.array(labels, dtype=object), ([], [])
    most = train // len(classes), test // len(classes)
    if not all(most):
        raise ValueError(f'--train is {train} and --test is {test}, expected at least {len(classes)}, one text of each class')
    for name in classes:
        rows = generator.permutation(np.flatnonzero(labels == name))[:sum(most)]
        at = min(most[0], max(len(rows) - most[1], round(len(rows) * train / (train + test))))
        if not 0 < at < len(rows):
            raise ValueError(f'class {name!r} has {len(rows)} texts to divide into training and test, expected more')
        parts[0].extend(rows[:at])
        parts[1].extend(rows[at:])
    return parts


def encode(sentences, labels, index, classes):
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    tokens = torch.full((len(sentences), int(lengths.max())), PADDING)
    for row, sentence in zip(tokens, sentences):
        row[:len(sentence)] = torch.tensor([index.get(word, UNKNOWN) for word in sentence])
    return Data(tokens, lengths, torch.tensor([classes.index(label) for label in labels]))


def make_problem(labelled, train, test, min_count, dim, vector_epochs, run=call):
    """A Problem of a corpora.Labelled. Words that occur fewer than `min_count` times in training are one, UNKNOWN.

    word2vec's vectors are learnt from the training texts and, up to VECTOR_WORDS words, from those that are in neither part;
    never from the test texts. run(function, **arguments) runs it.
    """
    sentences, labels = labelled.sentences, labelled.labels
    parts = divided(labels, train, test)
    occurring = Counter(word for k in parts[0] for word in sentences[k])
    words = sorted((word for word, count in occurring.items() if count >= min_count), key=lambda w: (-occurring[w], w))
    if len(words) < 2:
        raise ValueError(f'{labelled.name}: {len(words)} different words occur {min_count} times or more in training '
                         f'(--min-count), expected at least 2')
    index, classes = {word: row for row, word in enumerate(words, UNKNOWN + 1)}, sorted(set(labels))
    train, test = (encode([sentences[k] for k in part], [labels[k] for k in part], index, classes) for part in parts)
    counts = torch.bincount(train.tokens.flatten(), minlength=UNKNOWN + 1 + len(words)).float()
    counts[PADDING] = 0

    learnt = [sentences[k] for k in parts[0]]
    used = {*parts[0], *parts[1]}
    others = [sentence for k, sentence in enumerate(sentences) if k not in used]
    learnt += corpora.thinned(others, max(0, VECTOR_WORDS - sum(map(len, learnt))))
    text = text_of(learnt, min_count)
    vectors, _ = run(train_word2vec, text=text, method='skip-gram', seed=0, dim=dim, epochs=vector_epochs)
    table = torch.zeros(len(counts), dim)
    table[UNKNOWN] = torch.from_numpy(vectors.mean(0))
    table[UNKNOWN + 1:] = torch.from_numpy(vectors[[text.index[word] for word in words]])
    return Problem(labelled.name, classes, train, test, counts, table)


# ---------------------------------------------------------------------------------------------- training

def fit(problem, vectors, method, epsilon, seed, settings, held_out=None):
    """Train a TextLSTM on the training texts and judge it on the test texts; a record.

    With `held_out` (bool [N]) the training texts that it marks take the place of the test texts. Methods of one seed start
    from the same weights and see the same minibatches.
    """
    start, train, test = time.perf_counter(), problem.train, problem.test
    if held_out is not None:
        test, train = train.at(torch.from_numpy(held_out)), train.at(torch.from_numpy(~held_out))
    order, noise, initial = (torch.Generator().manual_seed(3 * seed + k) for k in range(3))
    table = torch.randn(problem.table.shape, generator=initial) if vectors == 'scratch' else problem.table
    losses, finite = [], True
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TextLSTM(NormalisedEmbedding(table, problem.counts, vectors == 'frozen'), settings['hidden'],
                         len(problem.class_names), settings['dropout'])
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], settings['lr'])
        for _ in range(settings['epochs']):
            model.train()
            losses.append(0.0)
            for tokens, lengths, labels in train.batches(settings['batch_size'], order):
                arguments = (lambda e: model(e, lengths), model.embed(tokens), tokens != PADDING,
                             lambda logits: F.cross_entropy(logits, labels))
                if method == 'random':
                    total, loss = random_loss(*arguments, epsilon, noise)
                else:
                    total, loss = adversarial_loss(*arguments, epsilon if method == 'adversarial' else 0.0)
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                finite &= math.isfinite(total.item())
                losses[-1] += loss.item() * len(labels) / len(train.labels)
            if not finite:
                raise ValueError(f'{VECTORS[vectors]}, {method}, ε = {epsilon:g}: the loss is no longer finite, seed {seed}')
        accuracies = accuracy(model, test, SIZES if held_out is None else (0.0,))
    return {'vectors': vectors, 'method': method, 'epsilon': epsilon, 'seed': seed, 'loss': losses, 'accuracy': accuracies,
            'seconds': round(time.perf_counter() - start, 1)}


def accuracy(model, data, sizes):
    """The share of texts classified rightly at e + r, for each of `sizes`, the norm of r; each r along the gradient at e."""
    model.eval()
    right = torch.zeros(len(sizes), dtype=torch.int64)
    for tokens, lengths, labels in data.batches(256):
        embedded = model.embed(tokens).detach().requires_grad_()
        logits = model(embedded, lengths)
        r = perturbation(F.cross_entropy(logits, labels), embedded, tokens != PADDING, 1.0) if any(sizes) else None
        with torch.no_grad():
            outputs = [model(embedded + size * r, lengths) if size else logits for size in sizes]
        right += torch.stack([(output.argmax(1) == labels).sum() for output in outputs])
    return (right.double() / len(data.labels)).tolist()


# ---------------------------------------------------------------------------------------------- figure and tables

def accuracies(records, vectors, method):
    """[seeds, sizes]"""
    return np.array([r['accuracy'] for r in records if (r['vectors'], r['method']) == (vectors, method)])


def kinds(records):
    return list(dict.fromkeys(record['vectors'] for record in records))


def comparison_table(records):
    """Markdown: test accuracy, its paired difference to plain training, and accuracy on perturbed test texts."""
    attacked = ' | '.join(f'at r of norm {size:g} (%)' for size in SIZES[1:])
    lines = [f'| vectors | training | ε | accuracy (%) | minus plain | {attacked} | seconds |',
             '|---' * (len(SIZES) + 5) + '|']
    for vectors in kinds(records):
        for method in METHODS:
            values, plain = accuracies(records, vectors, method), accuracies(records, vectors, 'plain')
            rows = [r for r in records if (r['vectors'], r['method']) == (vectors, method)]
            epsilon = '' if method == 'plain' else f'{rows[0]["epsilon"]:g}'
            difference = '' if method == 'plain' else spread(values[:, 0] - plain[:, 0], '+')
            cells = ' | '.join(map(spread, values[:, 1:].T))
            lines.append(f'| {VECTORS[vectors]} | {method} | {epsilon} | {spread(values[:, 0])} | {difference} | {cells} | '
                         f'{np.mean([r["seconds"] for r in rows]):.1f} |')
    return '\n'.join(lines)


def tuning_table(records):
    """Markdown: accuracy on held-out folds of the training set, and its paired difference to ε = 0."""
    lines = ['| vectors | ε | accuracy on held-out folds (%) | minus ε = 0 |', '|---|---|---|---|']
    for vectors in kinds(records):
        plain = accuracies(records, vectors, 'plain')[:, 0]
        for epsilon in GRID:
            values = np.array([r['accuracy'][0] for r in records if (r['vectors'], r['epsilon']) == (vectors, epsilon)])
            lines.append(f'| {VECTORS[vectors]} | {epsilon:g} | {spread(values)} | '
                         f'{spread(values - plain, "+") if epsilon else ""} |')
    return '\n'.join(lines)


def plot_comparison(path, records):
    """The paired differences of every seed, and for each kind of vectors accuracy against the size of the perturbation."""
    figure = Figure(figsize=(4 * (1 + len(kinds(records))), 4.2), layout='constrained')
    ax, *others = figure.subplots(1, 1 + len(kinds(records)))
    for m, method in enumerate(METHODS[1:], 1):
        for k, vectors in enumerate(kinds(records)):
            difference = 100 * (accuracies(records, vectors, method) - accuracies(records, vectors, 'plain'))[:, 0]
            at = k + 0.2 * (2 * m - 3)
            ax.plot(np.full(len(difference), at), difference, 'o', color=f'C{m}', alpha=0.5,
                    label=method if k == 0 else None)
            ax.plot([at - 0.12, at + 0.12], 2 * [difference.mean()], color=f'C{m}')
    ax.axhline(0, color='black', lw=0.8)
    ax.set_xticks(range(len(kinds(records))), [VECTORS[vectors].replace(' ', '\n', 1) for vectors in kinds(records)])
    ax.set(title='Test accuracy minus plain training', ylabel='percentage points: each seed, and the mean',
           xlim=(-0.6, len(kinds(records)) - 0.4))
    for ax_, vectors in zip(others, kinds(records)):
        for m, method in enumerate(METHODS):
            y = 100 * accuracies(records, vectors, method)
            ax_.errorbar(SIZES, y.mean(0), y.std(0, ddof=1) if len(y) > 1 else None, fmt='o-', capsize=3, color=f'C{m}',
                         label=method)
        ax_.set(title=VECTORS[vectors], xlabel="L2 norm of a test text's perturbation",
                ylabel='accuracy (%), mean ± standard deviation', ylim=(0, 100))
    for each in figure.axes:
        each.grid(alpha=0.3)
        each.legend()
    save_figure(path, figure)


# ---------------------------------------------------------------------------------------------- the command line

def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Adversarial training on word embeddings against plain training.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('vectors', nargs='?', choices=VECTORS, help='all, unless one is named')
    add_arguments(parser)
    parser.add_argument('--tsv', type=Path, metavar='FILE', default=argparse.SUPPRESS, help='tell these texts apart, lines of '
                        'a label, a tab and a text in UTF-8, instead of sentences of docstrings')
    parser.add_argument('--train', type=positive_int, default=4500, help='texts at most')
    parser.add_argument('--test', type=positive_int, default=2000, help='texts at most')
    parser.add_argument('--longest', type=positive_int, default=30, help='words: longer sentences of docstrings are left out, '
                        'longer texts cut')
    parser.add_argument('--min-count', type=positive_int, default=2, help='words that occur less often in training are one')
    parser.add_argument('--dim', type=positive_int, default=50, help='of the vectors')
    parser.add_argument('--epochs', type=positive_int, default=SETTINGS['epochs'])
    parser.add_argument('--epsilon', type=non_negative, default=argparse.SUPPRESS, help='the norm of r, instead of the chosen '
                        f'{", ".join(f"{value:g} ({name})" for name, value in CHOSEN.items())}')
    parser.add_argument('--tune', action='store_true', help='cross-validate ε within the training set, instead')
    parser.add_argument('--folds', type=positive_int, default=5)
    args = parser.parse_args(argv)
    args.tsv, args.epsilon = getattr(args, 'tsv', None), getattr(args, 'epsilon', None)
    if args.folds < 2:
        parser.error('argument --folds: expected at least 2')
    if args.longest < SHORTEST and not args.tsv:
        parser.error(f'argument --longest: expected at least {SHORTEST}, the words of the shortest sentence')
    if args.dry_run:
        args.seeds, args.epochs, args.folds, args.dim, args.train, args.test = 1, 1, 2, 8, 200, 100
    complete(args)
    return parser, args


def read_labelled(args):
    if args.tsv:
        return corpora.labelled_file(args.tsv, args.longest)
    libraries = ('numpy', 'sklearn') if args.dry_run else tuple(corpora.LIBRARIES)
    return corpora.labelled_docstrings(args.jobs, libraries, SHORTEST, args.longest)


def study(args):
    make_folders(args)
    labelled = read_labelled(args)
    problem = make_problem(labelled, args.train, args.test, args.min_count, args.dim, 1 if args.dry_run else 5,
                           call if args.dry_run else alone)
    print(f'{labelled.name}: {len(problem.train.labels)} training and {len(problem.test.labels)} test texts of '
          f'{len(problem.class_names)} classes ({", ".join(problem.class_names)}), {len(problem.counts):,} rows in the table')
    settings, chosen = {**SETTINGS, 'epochs': args.epochs}, [args.vectors] if args.vectors else list(VECTORS)
    plots, common = args.output_dir / 'plots', {'problem': problem, 'settings': settings}
    header = {'corpus': labelled.name, 'sha256': labelled.sha256, 'sources': labelled.sources, 'classes': problem.class_names,
              'train': len(problem.train.labels), 'test': len(problem.test.labels), 'rows': len(problem.counts),
              'longest': args.longest, 'min_count': args.min_count, 'dim': args.dim, **settings, 'sizes': SIZES,
              'torch': torch.__version__}
    if args.tune:
        smallest = torch.bincount(problem.train.labels).min().item()
        if args.folds > smallest:
            raise ValueError(f'--folds is {args.folds}, but the smallest class has {smallest} training texts')
        folds = list(stratified_folds(problem.train.labels.numpy(), args.folds, 1))
        tasks = [{**common, 'vectors': vectors, 'method': 'adversarial' if epsilon else 'plain', 'epsilon': epsilon,
                  'seed': fold, 'held_out': held_out}
                 for vectors in chosen for epsilon in GRID for fold, held_out in enumerate(folds)]
        records = in_parallel(args.jobs, fit, tasks, 'folds')
        write(plots / 'tune_embeddings.json', records_json(header, records))
        print(f'\n{tuning_table(records)}\n')
        return
    tasks = [{**common, 'vectors': vectors, 'method': method, 'seed': seed,
              'epsilon': 0.0 if method == 'plain' else CHOSEN[vectors] if args.epsilon is None else args.epsilon}
             for vectors in chosen for method in METHODS for seed in range(args.seeds)]
    records = in_parallel(args.jobs, fit, tasks, 'training')
    write(plots / 'embeddings.json', records_json(header, records))
    plot_comparison(plots / 'embeddings.png', records)
    print(f'\n{comparison_table(records)}\n')


def main():
    parser, args = get_args()
    carry_out(parser, study, args)
    print(f'Written to {args.output_dir / "plots"}')


if __name__ == '__main__':
    main()
