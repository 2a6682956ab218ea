"""Labeled texts, or texts with a span, as padded minibatches; word2vec's vectors of the words."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from companions.common import corpus
from companions.word2vec import fast as word2vec

PADDING, UNKNOWN = 0, 1
VECTOR_WORDS = 300_000  # at most, to train word2vec's vectors on


class Data(NamedTuple):
    tokens: torch.Tensor   # int64 [N, T], rows of the table, PADDING after the end of each text
    lengths: torch.Tensor  # int64 [N]
    labels: torch.Tensor   # int64 [N], or [N, 2]: first and last token of a span

    def subset(self, rows):
        return Data(*(x[rows] for x in self))

    def to(self, device):
        return Data(*(x.to(device) for x in self))

    def batches(self, size, generator=None):
        """Yield Data of `size` texts, cut to their longest; in random order with a generator."""
        n = len(self.labels)
        order = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
        for rows in order.split(size):
            tokens, lengths, labels = self.subset(rows)
            yield Data(tokens[:, :lengths.max()], lengths, labels)


class Problem(NamedTuple):
    class_names: list     # None if the labels are spans
    words: list           # of str, the words of rows 2, 3, … of the table
    train: Data
    test: Data
    counts: torch.Tensor  # float32 [V], occurrences of each row of the table in training
    table: torch.Tensor   # float32 [V, d], word2vec's vectors


def split(labels, train, test, seed=0):
    """Draw indices of at most `train` training and `test` test texts, as many of each class.

    A class with fewer texts is divided in the same proportion. Raises ValueError if a class has
    too few for both parts.
    """
    generator, classes = np.random.default_rng(seed), sorted(set(labels))
    labels, parts = np.array(labels, dtype=object), ([], [])
    most = train // len(classes), test // len(classes)
    if not all(most):
        raise ValueError(f'--train is {train} and --test is {test}, expected at least '
                         f'{len(classes)}, one text of each class')
    for name in classes:
        rows = generator.permutation(np.flatnonzero(labels == name))[:sum(most)]
        share = round(len(rows) * train / (train + test))
        n = min(most[0], max(len(rows) - most[1], share))
        if not 0 < n < len(rows):
            raise ValueError(f'class {name!r} has {len(rows)} texts, too few for training and test')
        parts[0].extend(rows[:n])
        parts[1].extend(rows[n:])
    return parts


def make_problem(labeled, train, test, min_count, dim, vector_epochs):
    """Turn a corpus.Labeled into a Problem. Words rarer than `min_count` in training are UNKNOWN.

    Its labels are names of classes or pairs (first word, last word), see corpus.parameter_spans.
    word2vec's vectors are trained on the training texts and, up to VECTOR_WORDS words, on texts in
    neither part; never on the test texts.
    """
    sentences, labels = labeled.sentences, labeled.labels
    spans = isinstance(labels[0], tuple)
    parts = split(['span'] * len(labels) if spans else labels, train, test)
    occurring = Counter(word for k in parts[0] for word in sentences[k])
    words = sorted((word for word, count in occurring.items() if count >= min_count),
                   key=lambda word: (-occurring[word], word))
    if len(words) < 2:
        raise ValueError(f'{labeled.name}: {len(words)} different words occur {min_count} times '
                         f'or more in training (--min-count), expected at least 2')
    index = {word: row for row, word in enumerate(words, 2)}
    classes = None if spans else sorted(set(labels))

    def encode(part):
        rows = [torch.tensor([index.get(word, UNKNOWN) for word in sentences[k]]) for k in part]
        return Data(pad_sequence(rows, batch_first=True, padding_value=PADDING),
                    torch.tensor([len(row) for row in rows]),
                    torch.tensor([labels[k] if spans else classes.index(labels[k])
                                  for k in part]))

    train, test = map(encode, parts)
    counts = torch.bincount(train.tokens.flatten(), minlength=2 + len(words)).float()
    counts[PADDING] = 0

    used, vector_texts = {*parts[0], *parts[1]}, [sentences[k] for k in parts[0]]
    others = [sentence for k, sentence in enumerate(sentences) if k not in used]
    vector_texts += corpus.subsample(others, max(0, VECTOR_WORDS - sum(map(len, vector_texts))))
    text = word2vec.text_of(vector_texts, min_count)
    vectors, _ = word2vec.run_alone(word2vec.train, text=text, method='skip-gram', seed=0, dim=dim,
                                    epochs=vector_epochs)
    table = torch.zeros(len(counts), dim)
    table[UNKNOWN] = torch.from_numpy(vectors.mean(0))
    table[2:] = torch.from_numpy(vectors[[text.index[word] for word in words]])
    return Problem(classes, words, train, test, counts, table)
