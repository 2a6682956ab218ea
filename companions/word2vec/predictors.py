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
        """inputs int64 [B], word numbers; log-probabilities [B, 2 context_size, vocab_size]."""
        x = F.relu(self.linear1(self.embeddings(inputs)))
        return F.log_softmax(self.linear2(x).view(len(inputs), 2 * self.context_size, -1), dim=2)

    def vector(self, row):
        """Return the embedding [embedding_dim] of the word number `row`.

        A one-hot vector of the word is wrong here: nn.Embedding takes it for V word numbers, V − 1
        times word 0 and once word 1, and the cosines of such results compare word 0 with itself.
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
        """inputs int64 [B, 2 context_size], word numbers; log-probabilities [B, 1, vocab_size]."""
        x = F.relu(self.linear1(self.embeddings(inputs).mean(1)))
        return F.log_softmax(self.linear2(x), dim=1)[:, None]


PREDICTORS = {'SkipGram': SkipGram, 'CBOW': CBOW}


def windows(text, context_size):
    """Return (centres [n], contexts [n, 2 context_size]) of all windows within one sentence."""
    at = np.arange(context_size, len(text.tokens) - context_size)
    at = at[text.sentences[at - context_size] == text.sentences[at + context_size]]
    offsets = [k for k in range(-context_size, context_size + 1) if k]
    return text.tokens[at], text.tokens[at[:, None] + offsets]


def matches(predicted, targets):
    """Count how many words of each row of `targets` are predicted, as the assignment counts them.

    Each prediction is used once. Both int64 [n, k]; returns int64 [n].
    """
    total = np.zeros(len(targets), dtype=np.int64)
    free = np.ones(predicted.shape, dtype=bool)
    rows = np.arange(len(targets))
    for j in range(targets.shape[1]):
        found = (predicted == targets[:, j:j + 1]) & free
        hit = found.any(1)
        free[rows[hit], found[hit].argmax(1)] = False
        total += hit
    return total


def ceilings(centres, contexts):
    """Return the highest possible accuracies on these windows, {'SkipGram': …, 'CBOW': …}.

    From the centre alone, the answer is the same for all of a centre's windows. The n-th w in it is
    right in every window that holds w at least n times, so the best answer consists of the most
    frequent events (w, n). From the context's words, it is the most frequent centre of the windows
    with these words.
    """
    n, width = contexts.shape
    ordered = np.sort(contexts, 1)
    nth = np.zeros_like(ordered)
    for j in range(1, width):
        nth[:, j] = np.where(ordered[:, j] == ordered[:, j - 1], nth[:, j - 1] + 1, 0)
    size = 1 + max(centres.max(), contexts.max())
    events, times = np.unique((centres[:, None] * size + ordered) * width + nth, return_counts=True)
    centre = events // (size * width)
    order = np.lexsort((-times, centre))
    centre, times = centre[order], times[order]
    start = np.searchsorted(centre, centre)  # where the events of each centre begin
    skipgram = times[np.arange(len(times)) - start < width].sum() / (n * width)
    whole = np.concatenate([ordered, centres[:, None]], 1)
    whole, times = np.unique(whole, axis=0, return_counts=True)
    first = np.flatnonzero(np.append(True, (whole[1:, :-1] != whole[:-1, :-1]).any(1)))
    cbow = np.maximum.reduceat(times, first).sum() / n
    return {'SkipGram': float(skipgram), 'CBOW': float(cbow)}


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
