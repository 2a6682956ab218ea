"""SkipGram and CBOW as PyTorch modules, their accuracy, and the highest accuracy possible."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from support.parallel import seeded


class SkipGram(nn.Module):
    """Predict a window from its centre: embedding, linear, ReLU, linear, log-softmax."""

    def __init__(self, context_size, embedding_dim, vocab_size, hidden_size=128):
        super().__init__()
        self.context_size = context_size
        self.embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.linear1 = nn.Linear(embedding_dim, hidden_size)
        self.linear2 = nn.Linear(hidden_size, 2 * context_size * vocab_size)

    def forward(self, inputs):
        """Return log-probabilities [B, 2 context_size, vocab_size]; inputs: word numbers [B]."""
        x = F.relu(self.linear1(self.embeddings(inputs)))
        return F.log_softmax(self.linear2(x).view(len(inputs), 2 * self.context_size, -1), dim=2)

    def vector(self, row):
        """Return the embedding [embedding_dim] of word number `row`.

        nn.Embedding takes word numbers: a one-hot vector would look up word 0 for every 0 in it.
        """
        return self.embeddings.weight[row].detach()


class CBOW(nn.Module):
    """Predict the centre of a window from the mean of its embeddings; otherwise as SkipGram."""

    def __init__(self, context_size, embedding_dim, vocab_size, hidden_size=128):
        super().__init__()
        self.embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.linear1 = nn.Linear(embedding_dim, hidden_size)
        self.linear2 = nn.Linear(hidden_size, vocab_size)

    def forward(self, inputs):
        """Return log-probabilities [B, 1, vocab_size]; inputs: word numbers [B, 2 context_size]."""
        x = F.relu(self.linear1(self.embeddings(inputs).mean(1)))
        return F.log_softmax(self.linear2(x), dim=1)[:, None]


PREDICTORS = {'SkipGram': SkipGram, 'CBOW': CBOW}


def windows(text, context_size):
    """Return (centres [n], contexts [n, 2 context_size]) of all windows within one sentence."""
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


def ceilings(centres, contexts):
    """Return the highest possible accuracies on these windows, {'SkipGram': …, 'CBOW': …}.

    SkipGram has one answer for all windows of a centre. The n-th w in it is right in every window
    that holds w at least n times, so the best answer is the most frequent (w, n). CBOW has one
    answer for all windows of the same words: their most frequent centre.
    """
    groups = np.unique(np.sort(contexts, 1), axis=0, return_inverse=True)[1].ravel()
    return {'SkipGram': best_accuracy(centres, number_occurrences(contexts)),
            'CBOW': best_accuracy(groups, centres[:, None])}


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


def fit(text, name, seed, epochs, context_size=2, embedding_dim=20, batch_size=128, rate=3e-3):
    """Train SkipGram or CBOW with Adam; a record with the accuracy on its training windows."""
    centres, contexts = map(torch.from_numpy, windows(text, context_size))
    x, y = (centres, contexts) if name == 'SkipGram' else (contexts, centres[:, None])
    losses, accuracies = [], []
    with seeded(seed):
        model = PREDICTORS[name](context_size, embedding_dim, len(text.words))
        optimizer = torch.optim.Adam(model.parameters(), rate)
        for _ in range(epochs):
            losses.append(0.0)
            for batch in torch.randperm(len(x)).split(batch_size):
                optimizer.zero_grad()
                loss = F.nll_loss(model(x[batch]).flatten(0, 1), y[batch].flatten())
                loss.backward()
                optimizer.step()
                losses[-1] += loss.item() * len(batch) / len(x)
            with torch.no_grad():
                predicted = torch.cat([model(part).argmax(2) for part in x.split(batch_size)])
            accuracies.append(matches(predicted.numpy(), y.numpy()).mean().item() / y.shape[1])
    return {'job': 'accuracy', 'method': name, 'seed': seed, 'loss': losses, 'accuracy': accuracies}
