"""An LSTM that classifies texts by looked-up word embeddings, and a normalized embedding table."""

import torch
from torch import nn
from torch.nn import functional as F


class NormalizedEmbedding(nn.Module):
    """tokens int64 [B, T] -> float [B, T, d], rows of `table` [V, d], normalized.

    Every dimension has mean 0 and variance 1 over words weighted by `counts` [V]
    (arXiv:1605.07725, equation 1): otherwise ε has a different meaning for every table, and a
    trained table can grow until ε has no effect. The gradient passes through the normalization.
    """

    def __init__(self, table, counts, frozen=False):
        super().__init__()
        self.weight = nn.Parameter(table.clone(), requires_grad=not frozen)
        self.register_buffer('share', counts.to(table.dtype) / counts.sum())

    def forward(self, tokens):
        centered = self.weight - self.share @ self.weight
        variance = self.share @ centered.square()
        return F.embedding(tokens, centered / variance.clamp_min(1e-12).sqrt())


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
