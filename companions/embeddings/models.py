"""LSTMs that classify texts, or find a span in them, by looked-up word embeddings.

Both have `embed(tokens)`, `forward(embedded, lengths)`, `loss(outputs, labels)`, a scalar, and
`correct(outputs, labels)`, bool [B].
"""

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


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

    def normalized(self):
        """Return the normalized table [V, d]."""
        centered = self.weight - self.share @ self.weight
        variance = self.share @ centered.square()
        return centered / variance.clamp_min(1e-12).sqrt()

    def forward(self, tokens):
        return F.embedding(tokens, self.normalized())


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
        valid = torch.arange(embedded.shape[1], device=lengths.device) < lengths[:, None]
        mean = (states * valid[..., None]).sum(1) / lengths[:, None]
        return self.linear(self.dropout(mean))

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels)

    def correct(self, logits, labels):
        return logits.argmax(1) == labels


class SpanLSTM(nn.Module):
    """Find a span of a text by two heads: its first and its last token."""

    def __init__(self, embedding, hidden_size, dropout=0.5):
        super().__init__()
        self.embedding = embedding
        self.lstm = nn.LSTM(embedding.weight.shape[1], hidden_size, batch_first=True,
                            bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(2 * hidden_size, 2)

    embed = TextLSTM.embed

    def forward(self, embedded, lengths):
        """embedded [B, T, d], lengths int64 [B] -> two logits [B, T], -inf at padding."""
        steps = embedded.shape[1]
        packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True,
                                      enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=steps)
        padding = torch.arange(steps, device=lengths.device) >= lengths[:, None]
        logits = self.linear(self.dropout(states)).masked_fill(padding[..., None], -math.inf)
        return logits.unbind(2)

    def loss(self, outputs, spans):
        """Sum the losses of both heads; spans int64 [B, 2] are the first and last tokens."""
        return sum(F.cross_entropy(logits, spans[:, k]) for k, logits in enumerate(outputs))

    def correct(self, outputs, spans):
        return (torch.stack([logits.argmax(1) for logits in outputs], 1) == spans).all(1)


def build_model(embedding, hidden_size, classes, dropout):
    """Return a TextLSTM, or a SpanLSTM if `classes` is None."""
    if classes is None:
        return SpanLSTM(embedding, hidden_size, dropout)
    return TextLSTM(embedding, hidden_size, classes, dropout)


def load_model(checkpoint):
    """Return the trained model of a checkpoint of experiment.py, for evaluation."""
    state = checkpoint['state_dict']
    table = state['embedding.weight']
    if 'embedding.share' in state:
        embedding = NormalizedEmbedding(table, state['embedding.share'])
    else:
        embedding = nn.Embedding(*table.shape)
    model = build_model(embedding, **checkpoint['arguments'])
    model.load_state_dict(state)
    return model.eval()
