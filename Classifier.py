"""The sequence classifier: one embedding, one recurrence in three modes, one linear head.

    python -m pytest tests/test_Classifier.py

    model = LSTMClassifier()
    logits = model(inputs, lengths)                                        # plain
    logits = model(inputs, lengths, r=epsilon * r, mode='AdvLSTM')         # r from training.compute_perturbation
    logits = model(inputs, lengths, mode='ProxLSTM', epsilon=2.0)          # see ProxLSTM.py
"""

import torch
from torch import nn
from torch.nn import functional as F

from ProxLSTM import ProxLSTM

MODES = ('plain', 'AdvLSTM', 'ProxLSTM')
PLACEMENTS = ('input', 'conv', 'lstm_input', 'output')


class MaskedBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the steps of [B, T, C] that `mask` [B, T] marks as valid; the others become zero."""

    def forward(self, x, mask):
        y = torch.zeros_like(x)
        y[mask] = super().forward(x[mask])
        return y


class LSTMClassifier(nn.Module):
    """Per-step normalise → Conv1d → ReLU → LSTM → linear, read at each sequence's own last valid step.

    Args:
        input_size: features of a step. With a single feature the normalisation, which would leave only its sign, is
            left out.
        hidden_size: units of the recurrence.
        output_size: classes.
        out_channels, kernel_size, stride: of the convolution, which has no padding.
        epsilon: the proximal layer's own, used in mode 'ProxLSTM' where `forward` is given none.
        dropout: placement → probability, such as `{'lstm_input': 0.5}`.
        batch_norm: placements of batch normalisation, whose statistics leave out padded steps. Placements are 'input'
            (before the convolution), 'conv' (after it, before the ReLU), 'lstm_input' and 'output' (before the linear
            layer); where both stand in one place, dropout comes second.

    Raises ValueError for an unknown placement.
    """

    def __init__(self, input_size=12, hidden_size=50, output_size=9, out_channels=64, kernel_size=3, stride=1,
                 epsilon=1.0, dropout=None, batch_norm=()):
        super().__init__()
        dropout = dropout or {}
        for placement in (*dropout, *batch_norm):
            if placement not in PLACEMENTS:
                raise ValueError(f'placement is {placement!r}, expected one of {", ".join(PLACEMENTS)}')
        self.input_size = input_size
        self.kernel_size = kernel_size
        self.stride = stride
        self.conv = nn.Conv1d(input_size, out_channels, kernel_size, stride)
        self.lstm = ProxLSTM(out_channels, hidden_size, epsilon=epsilon, batch_first=True)
        self.linear = nn.Linear(hidden_size, output_size)
        sizes = dict(zip(PLACEMENTS, (input_size, out_channels, out_channels, hidden_size)))
        self.batch_norm = nn.ModuleDict({p: MaskedBatchNorm(sizes[p]) for p in PLACEMENTS if p in batch_norm})
        self.dropout = nn.ModuleDict({p: nn.Dropout(dropout[p]) for p in PLACEMENTS if p in dropout})
        self.v = None

    def forward(self, input, lengths, r=0, mode='plain', epsilon=None):
        """Logits [B, output_size] of zero-padded `input` [B, T, input_size] with true `lengths` [B].

        `mode` 'AdvLSTM' adds `r`, of the shape of `v`, to the LSTM input as it is given: pass ε·r. 'ProxLSTM' runs the
        recurrence with `epsilon`, or the layer's own. In training, `v` keeps the LSTM input [B, T', out_channels]
        before `r`, for gradients with respect to it.

        Raises ValueError for an unknown mode, for an `r` or `epsilon` that the mode would ignore, and for a
        length below that of the convolution kernel or above T.
        """
        if mode not in MODES:
            raise ValueError(f'mode is {mode!r}, expected one of {", ".join(MODES)}')
        if mode != 'AdvLSTM' and (torch.is_tensor(r) or r != 0):
            raise ValueError(f"r is for mode 'AdvLSTM', not {mode!r}")
        if mode != 'ProxLSTM' and epsilon:
            raise ValueError(f"epsilon is for mode 'ProxLSTM', not {mode!r}; in 'AdvLSTM' pass r multiplied by it")
        lengths = lengths.to(input.device)
        if lengths.min() < self.kernel_size:
            raise ValueError(f"a sequence has {lengths.min()} steps, fewer than the convolution kernel's "
                             f'{self.kernel_size}')
        if lengths.max() > input.shape[1]:
            raise ValueError(f'lengths go up to {lengths.max()}, but the input has {input.shape[1]} steps')

        x = self.regularise('input', self.features(input), lengths)
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        lengths = (lengths - self.kernel_size) // self.stride + 1
        x = self.regularise('conv', x, lengths)
        v = self.regularise('lstm_input', F.relu(x), lengths)
        if self.training:
            self.v = v

        if mode == 'AdvLSTM':
            v = v + r
        if mode != 'ProxLSTM':
            epsilon = 0
        output, _ = self.lstm(v, epsilon=epsilon)

        last = output[torch.arange(len(output), device=output.device), lengths - 1]
        last = self.regularise('output', last[:, None], torch.ones_like(lengths))[:, 0]
        return self.linear(last)

    def features(self, input):
        """What the convolution reads of `input`: each step [F] divided by its L2 norm."""
        return F.normalize(input, dim=2) if self.input_size > 1 else input

    def regularise(self, placement, x, lengths):
        """Batch normalisation and dropout at `placement`, where there are any, on x [B, T, C]."""
        if placement in self.batch_norm:
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            x = self.batch_norm[placement](x, mask)
        if placement in self.dropout:
            x = self.dropout[placement](x)
        return x

    def __getstate__(self):
        return {**self.__dict__, 'v': None}  # a tensor with a graph behind it can be neither copied nor pickled
