"""SkipGram and CBOW as PyTorch modules, their accuracy, and the best accuracy and loss possible."""

import itertools
import math
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from support.checkpoints import to_cpu
from support.parallel import seeded

WORDS = 'his', 'her', 'lion', 'lioness'  # whose cosines the assignment prints


class SkipGram(nn.Module):
    """Predict a window from its center: embedding, linear, ReLU, linear, log-softmax.

    With `joint`, one softmax runs over the words of all positions together, as in the assignment's
    answer. The 2 context_size probabilities of a window then have a sum of at most 1, so that their
    mean −log is at least log(2 context_size); the most probable word of each position is the same.
    """

    def __init__(self, context_size, embedding_dim, vocab_size, hidden_size=128, joint=False):
        super().__init__()
        self.context_size, self.joint = context_size, joint
        self.embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.linear1 = nn.Linear(embedding_dim, hidden_size)
        self.linear2 = nn.Linear(hidden_size, 2 * context_size * vocab_size)

    def forward(self, inputs):
        """Return log-probabilities [B, 2 context_size, vocab_size]; inputs: word numbers [B]."""
        x = self.linear2(F.relu(self.linear1(self.embeddings(inputs))))
        shape = 2 * self.context_size, -1
        if self.joint:
            return F.log_softmax(x, dim=1).unflatten(1, shape)
        return F.log_softmax(x.unflatten(1, shape), dim=2)


class CBOW(nn.Module):
    """Predict the center of a window from the mean of its embeddings; otherwise as SkipGram."""

    def __init__(self, context_size, embedding_dim, vocab_size, hidden_size=128):
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.linear1 = nn.Linear(embedding_dim, hidden_size)
        self.linear2 = nn.Linear(hidden_size, vocab_size)

    def forward(self, inputs):
        """Return log-probabilities [B, 1, vocab_size]; inputs: word numbers [B, 2 context_size]."""
        x = F.relu(self.linear1(self.embeddings(inputs).mean(1)))
        return F.log_softmax(self.linear2(x), dim=1)[:, None]


PREDICTORS = {'SkipGram': (SkipGram, {}), 'SkipGram joint': (SkipGram, {'joint': True}),
              'CBOW': (CBOW, {})}


def windows(text, context_size):
    """Return (centers [n], contexts [n, 2 context_size]) of all windows within one sentence."""
    at = np.arange(context_size, len(text.tokens) - context_size)
    at = at[text.sentences[at - context_size] == text.sentences[at + context_size]]
    offsets = [k for k in range(-context_size, context_size + 1) if k]
    return text.tokens[at], text.tokens[at[:, None] + offsets]


def number_occurrences(words):
    """Turn word w into w · k + the number of its earlier occurrences in the row: int64 [n, k]."""
    earlier = np.tril(words[:, :, None] == words[:, None, :], -1).sum(2)
    return words * words.shape[1] + earlier


def matches(predicted, targets):
    """Count how many words of each row of `targets` are predicted, as the assignment counts them.

    Each prediction is used once. Both int64 [n, k]; returns int64 [n].
    """
    predicted, targets = number_occurrences(predicted), number_occurrences(targets)
    return (predicted[:, :, None] == targets[:, None, :]).sum((1, 2))


def ceilings(centers, contexts):
    """Return the highest possible accuracies on these windows, {'SkipGram': …, 'CBOW': …}.

    SkipGram has one answer for all windows of a center. The n-th w in it is right in every window
    that holds w at least n times, so the best answer is the most frequent (w, n). CBOW has one
    answer for all windows of the same words: their most frequent center.
    """
    groups = np.unique(np.sort(contexts, 1), axis=0, return_inverse=True)[1].ravel()
    return {'SkipGram': best_accuracy(centers, number_occurrences(contexts)),
            'CBOW': best_accuracy(groups, centers[:, None])}


def best_accuracy(groups, targets):
    """Return the share of `targets` [n, k] that are among the k most frequent in their group."""
    n, k = targets.shape
    size = 1 + targets.max()
    events, times = np.unique(groups[:, None] * size + targets, return_counts=True)
    group = events // size
    order = np.lexsort((-times, group))
    group, times = group[order], times[order]
    rank = np.arange(len(times)) - np.searchsorted(group, group)
    return float(times[rank < k].sum() / (n * k))


def lowest_losses(centers, contexts):
    """Return the lowest possible losses on these windows, for each of PREDICTORS.

    They are the entropies of a word given the center and its position, or given the context. The
    best joint softmax gives a position 1 / k of the probability that its own softmax gives, so that
    its loss is log k more.
    """
    groups = np.unique(np.sort(contexts, 1), axis=0, return_inverse=True)[1].ravel()
    loss = float(np.mean([conditional_entropy(centers, words) for words in contexts.T]))
    return {'SkipGram': loss, 'SkipGram joint': loss + math.log(contexts.shape[1]),
            'CBOW': conditional_entropy(groups, centers)}


def conditional_entropy(groups, targets):
    """Return the mean −log of the share of each of `targets` [n] in its group."""
    events = groups * (1 + targets.max()) + targets
    _, event, times = np.unique(events, return_inverse=True, return_counts=True)
    return float(-np.log(times[event] / np.bincount(groups)[groups]).mean())


def cosines(table, index):
    """Return [[a, b, cosine], …] of all pairs of WORDS in `index`, word: row of `table` [V, d]."""
    known = [word for word in WORDS if word in index]
    return [[a, b, F.cosine_similarity(table[index[a]], table[index[b]], dim=0).item()]
            for a, b in itertools.combinations(known, 2)]


def predict_contexts(model, text, words):
    """Return {word: the most probable word of each position around it} for those in `text`."""
    known = [word for word in words if word in text.index]
    with torch.no_grad():
        rows = torch.tensor([text.index[word] for word in known], dtype=torch.long)
        found = model(rows.to(model.embeddings.weight.device)).argmax(2).tolist()
    return {word: [text.words[row] for row in rows] for word, rows in zip(known, found)}


def fit(text, name, seed, epochs, context_size=2, embedding_dim=20, batch_size=128, rate=3e-3,
        words=(), device='cpu'):
    """Train one of PREDICTORS with Adam; return a checkpoint.

    {'arguments': …, 'state_dict': on the CPU, 'words': the vocabulary, 'record': …}. The record has
    the loss and the accuracy on the training windows of each epoch, seconds (of CPU time), cosines;
    of SkipGram also the contexts predicted for `words`, before and after training.
    """
    centers, contexts = map(torch.from_numpy, windows(text, context_size))
    x, y = (contexts, centers[:, None]) if name == 'CBOW' else (centers, contexts)
    kind, options = PREDICTORS[name]
    arguments = {'context_size': context_size, 'embedding_dim': embedding_dim,
                 'vocab_size': len(text.words), **options}
    losses, accuracies, examples = [], [], []
    start = time.process_time()
    with seeded(seed, device):
        model = kind(**arguments).to(device)
        inputs, targets = x.to(device), y.to(device)
        optimizer = torch.optim.Adam(model.parameters(), rate)

        def show():
            examples.append({'cosines': cosines(model.embeddings.weight.detach(), text.index)})
            if kind is SkipGram:
                examples[-1]['contexts'] = predict_contexts(model, text, words)

        show()
        for _ in range(epochs):
            losses.append(0.0)
            for batch in torch.randperm(len(x)).to(device).split(batch_size):
                optimizer.zero_grad()
                loss = F.nll_loss(model(inputs[batch]).flatten(0, 1), targets[batch].flatten())
                loss.backward()
                optimizer.step()
                losses[-1] += loss.item() * len(batch) / len(x)
            with torch.no_grad():
                predicted = torch.cat([model(part).argmax(2) for part in inputs.split(batch_size)])
            right = matches(predicted.cpu().numpy(), y.numpy())
            accuracies.append(right.mean().item() / y.shape[1])
        show()
    record = {'job': 'accuracy', 'method': name, 'seed': seed, 'loss': losses,
              'accuracy': accuracies, 'seconds': time.process_time() - start,
              'untrained': examples[0], 'trained': examples[1]}
    return {'arguments': arguments, 'state_dict': to_cpu(model.state_dict()), 'words': text.words,
            'record': record}
