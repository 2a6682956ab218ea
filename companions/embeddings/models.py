"""An LSTM that classifies texts by looked-up word embeddings, and a normalized embedding table."""

import torch
from torch import nn
from torch.nn import functional as F


def normalize(table, counts):
    """Scale `table` [V, d] to mean 0 and variance 1 per dimension, words weighted by `counts` [V].

    As in arXiv:1605.07725, section 2, equation 1. Otherwise a trained table can grow until a step
    of norm ε has no effect, and the same ε means something else for every table.
    """
    share = counts / counts.sum()
    centred = table - share @ table
    return centred / (share @ centred.square()).clamp_min(1e-12).sqrt()


class NormalizedEmbedding(nn.Module):
    """tokens int64 [B, T] -> float [B, T, d], rows of the normalized table.

    The gradient of the table passes through its normalization.
    """

    def __init__(self, table, counts, frozen=False):
        super().__init__()
        self.weight = nn.Parameter(table.clone(), requires_grad=not frozen)
        self.register_buffer('counts', counts.to(table.dtype))

    def forward(self, tokens):
        return F.embedding(tokens, normalize(self.weight, self.counts))


class TextLSTM(nn.Module):
    """Classify a text by the mean of its LSTM states."""

    def __init__(self, embedding, hidden_size, classes, dropout=0.5):
        super().__init__()
        self.embedding = embedding
        self.lstm = nn.LSTM(embedding.weight.shape[1], hidden_size, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, classes)

    def embed(self, tokens):
        """Look up tokens int64 [B, T], with dropout: float [B, T, d], for `forward`."""
        return self.dropout(self.embedding(tokens))

    def forward(self, embedded, lengths):
        """embedded [B, T, d], lengths int64 [B] -> logits [B, classes]."""
        states, _ = self.lstm(embedded)  # padding is last, so that no valid state depends on it
        valid = torch.arange(embedded.shape[1]) < lengths[:, None]
        mean = (states * valid[..., None]).sum(1) / lengths[:, None]
        return self.linear(self.dropout(mean))
