"""The sequence classifier: one embedding, one recurrence in three modes, one linear layer.

    model = LSTMClassifier()
    logits = model(inputs, lengths)                                  # plain
    logits = model(inputs, lengths, r=epsilon * r, mode='AdvLSTM')   # r: compute_perturbation
    logits = model(inputs, lengths, mode='ProxLSTM', epsilon=2.0)    # see ProxLSTM.py
"""

import contextlib

import torch
from torch import nn
from torch.nn import functional as F

from ProxLSTM import ProxLSTM
from support.checkpoints import load_checkpoint

MODES = ('plain', 'AdvLSTM', 'ProxLSTM')
PLACEMENTS = ('input', 'conv', 'lstm_input', 'output')


class MaskedBatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm1d` over the steps of [B, T, C] that `mask` [B, T] selects; others become 0."""

    def forward(self, x, mask):
        y = torch.zeros_like(x)
        y[mask] = super().forward(x[mask])
        return y


class LSTMClassifier(nn.Module):
    """Normalize each step → Conv1d → ReLU → LSTM → linear, at each sequence's own last valid step.

    Args:
        input_size: features of a step. A single feature is not normalized, which would leave
            only its sign.
        hidden_size: units of the LSTM.
        output_size: classes.
        out_channels, kernel_size, stride: of the convolution, which has no padding.
        epsilon: of the ProxLSTM layer, used in mode 'ProxLSTM' if `forward` is given none.
        dropout: placement → probability, such as `{'lstm_input': 0.5}`.
        batch_norm: placements of batch normalization, whose statistics exclude padded steps.
            Placements are 'input' (before the convolution), 'conv' (after it, before the ReLU),
            'lstm_input' and 'output' (before the linear layer); dropout comes second.
            Any other placement raises ValueError.
    """

    def __init__(self, input_size=12, hidden_size=50, output_size=9, out_channels=64, kernel_size=3,
                 stride=1, epsilon=1.0, dropout=None, batch_norm=()):
        super().__init__()
        dropout = dropout or {}
        for placement in (*dropout, *batch_norm):
            if placement not in PLACEMENTS:
                raise ValueError(f'placement is {placement!r}, expected one of '
                                 f'{", ".join(PLACEMENTS)}')
        self.kernel_size = kernel_size
        self.stride = stride
        self.conv = nn.Conv1d(input_size, out_channels, kernel_size, stride)
        self.lstm = ProxLSTM(out_channels, hidden_size, epsilon=epsilon, batch_first=True)
        self.linear = nn.Linear(hidden_size, output_size)
        sizes = dict(zip(PLACEMENTS, (input_size, out_channels, out_channels, hidden_size)))
        self.batch_norm = nn.ModuleDict(
            {p: MaskedBatchNorm(sizes[p]) for p in PLACEMENTS if p in batch_norm})
        self.dropout = nn.ModuleDict(
            {p: nn.Dropout(dropout[p]) for p in PLACEMENTS if p in dropout})
        self.v = None

    @classmethod
    def from_checkpoint(cls, checkpoint, averaged=False):
        """Rebuild a saved model, in evaluation mode.

        `checkpoint` is a path, or the dictionary in it: its 'arguments' are those of this class,
        its 'state_dict', or 'averaged' if `averaged`, is loaded strictly. Raises OSError or
        ValueError for a file that cannot be read, and ValueError for a checkpoint of another model
        or without averaged weights.
        """
        if not isinstance(checkpoint, dict):
            checkpoint = load_checkpoint(checkpoint)
        if averaged and 'averaged' not in checkpoint:
            raise ValueError('the checkpoint has no averaged weights')
        weights = 'averaged' if averaged else 'state_dict'
        try:
            model = cls(**checkpoint['arguments'])
            model.load_state_dict(checkpoint[weights], strict=True)
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(f'not a checkpoint of {cls.__name__}: {error}') from error
        return model.eval()

    def forward(self, input, lengths, r=0, mode='plain', epsilon=None):
        """Return logits [B, output_size] of zero-padded `input` [B, T, input_size].

        `lengths` [B] are the sequences' true lengths. Mode 'AdvLSTM' adds `r`, of the shape of `v`,
        to the LSTM input as it is given: pass ε·r. 'ProxLSTM' runs the LSTM with `epsilon`, or with
        the layer's own. In training, `v` keeps the LSTM input [B, T', out_channels] before `r` is
        added, for gradients with respect to it.

        Raises ValueError for an unknown mode, for an `r` or `epsilon` that the mode would ignore,
        and for a length below the kernel size or above T. Lengths that are already on an
        accelerator are not checked, because the CPU would have to wait for them.
        """
        self.check_arguments(input, lengths, r, mode, epsilon)
        lengths = lengths.to(input.device)
        x = self.regularize('input', self.normalize(input), lengths)
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)  # the convolution runs along T
        lengths = (lengths - self.kernel_size) // self.stride + 1
        x = F.relu(self.regularize('conv', x, lengths))
        v = self.regularize('lstm_input', x, lengths)
        if self.training:
            self.v = v
        if mode == 'AdvLSTM':
            v = v + r
        if mode != 'ProxLSTM':
            epsilon = 0  # exactly nn.LSTM
        last = self.last_output(v, lengths, epsilon)
        last = self.regularize('output', last[:, None], torch.ones_like(lengths))[:, 0]
        return self.linear(last)

    def check_arguments(self, input, lengths, r, mode, epsilon):
        if mode not in MODES:
            raise ValueError(f'mode is {mode!r}, expected one of {", ".join(MODES)}')
        if mode != 'AdvLSTM' and (torch.is_tensor(r) or r != 0):
            raise ValueError(f"r is for mode 'AdvLSTM', not {mode!r}")
        if mode != 'ProxLSTM' and epsilon:
            raise ValueError(f"epsilon is for mode 'ProxLSTM', not {mode!r}")
        if lengths.device.type == 'cpu' and lengths.min() < self.kernel_size:
            raise ValueError(f"a sequence has {lengths.min()} steps, fewer than the convolution "
                             f"kernel's {self.kernel_size}")
        if lengths.device.type == 'cpu' and lengths.max() > input.shape[1]:
            raise ValueError(f'a sequence has {lengths.max()} steps, the input {input.shape[1]}')

    def normalize(self, input):
        """Divide each step by its L2 norm, unless it has a single feature."""
        return F.normalize(input, dim=2) if input.shape[2] > 1 else input

    def last_output(self, v, lengths, epsilon, lstm=None):
        """Return the output of `lstm`, or the model's own, for v [B, T', C] at step lengths − 1."""
        flags = contextlib.nullcontext()
        if torch.is_grad_enabled() and not self.training:  # cuDNN has no backward pass then
            flags = torch.backends.cudnn.flags(enabled=False)
        with flags:
            output, _ = (lstm or self.lstm)(v, epsilon=epsilon)
        return output[torch.arange(len(v), device=v.device), lengths - 1]

    def regularize(self, placement, x, lengths):
        """Apply batch normalization and dropout to x [B, T, C], where `placement` has them."""
        if placement in self.batch_norm:
            mask = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
            x = self.batch_norm[placement](x, mask)
        if placement in self.dropout:
            x = self.dropout[placement](x)
        return x

    def __getstate__(self):
        return {**self.__dict__, 'v': None}  # a tensor with a graph cannot be copied or pickled
