"""FCN and ResNet for time series (Wang, Yan and Oates, arXiv:1611.06455), in PyTorch.

    checkpoint = fit('FCN', resample(sequences, 29), labels, seed=0, epochs=2000, batch_size=16)

Trained as in the comparison of Fawaz et al. (arXiv:1809.04356): the sequences are resampled to one
length by cubic splines, the learning rate is halved when the training loss stops falling, and the
model after the epoch of the lowest training loss is kept.
"""

import math
import time

import torch
from scipy.interpolate import CubicSpline
from torch import nn
from torch.nn import functional as F

from support.parallel import seeded


def convolution(inputs, outputs, kernel_size):
    """Return a convolution that keeps the length, and batch normalization, with Keras' defaults."""
    layer = nn.Conv1d(inputs, outputs, kernel_size)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    padding = nn.ZeroPad1d(((kernel_size - 1) // 2, kernel_size // 2))
    return nn.Sequential(padding, layer, nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.01))


def linear(inputs, outputs):
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def fcn(features, classes):
    """Return the fully convolutional network: x [B, F, T] -> logits [B, classes]."""
    return nn.Sequential(convolution(features, 128, 8), nn.ReLU(), convolution(128, 256, 5),
                         nn.ReLU(), convolution(256, 128, 3), nn.ReLU(),
                         nn.AdaptiveAvgPool1d(1), nn.Flatten(), linear(128, classes))


class Residual(nn.Module):
    """Three convolutions and a shortcut, which is a convolution where the width changes."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.body = nn.Sequential(convolution(inputs, outputs, 8), nn.ReLU(),
                                  convolution(outputs, outputs, 5), nn.ReLU(),
                                  convolution(outputs, outputs, 3))
        self.shortcut = (convolution(inputs, outputs, 1) if inputs != outputs else
                         nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.01))

    def forward(self, x):
        return F.relu(self.shortcut(x) + self.body(x))


def resnet(features, classes):
    """Return the residual network: x [B, F, T] -> logits [B, classes]."""
    return nn.Sequential(Residual(features, 64), Residual(64, 128), Residual(128, 128),
                         nn.AdaptiveAvgPool1d(1), nn.Flatten(), linear(128, classes))


NETWORKS = {'FCN': fcn, 'ResNet': resnet}


def resample(sequences, length):
    """Interpolate float [T, F] arrays of 4 steps or more to `length` steps: float32 [N, F, length].
    """
    resampled = [CubicSpline(range(len(x)), x)(torch.linspace(0, len(x) - 1, length,
                                                              dtype=torch.float64))
                 for x in sequences]
    return torch.stack([torch.tensor(x, dtype=torch.float32).T for x in resampled])


def fit(name, x, labels, seed, epochs, batch_size):
    """Train a network, on one thread; return a checkpoint: 'state_dict' and 'seconds'.

    Args:
        name: one of NETWORKS.
        x: float32 [N, F, T].
        labels: int64 [N], from 0.
        batch_size: at most; it is a tenth of the training set if that is less.

    Raises ValueError if the training loss is not finite.
    """
    start = time.process_time()
    batch_size = max(1, min(len(x) // 10, batch_size))
    with seeded(seed):
        model = NETWORKS[name](x.shape[1], int(labels.max()) + 1)
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, eps=1e-7, fused=True)
        # Keras halves the rate in the 50th epoch without progress, torch in the one after.
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=0.5, patience=49, threshold=1e-4, threshold_mode='abs', min_lr=1e-4)
        lowest = math.inf
        for _ in range(epochs):
            total = 0.0
            for batch in torch.randperm(len(x)).split(batch_size):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x[batch]), labels[batch])
                loss.backward()
                optimizer.step()
                total += loss.item() * len(batch) / len(x)
            if not math.isfinite(total):
                raise ValueError(f'{name}: the training loss is not finite, seed {seed}')
            schedule.step(total)
            if total < lowest:
                lowest = total
                best = {key: value.clone() for key, value in model.state_dict().items()}
    return {'state_dict': best, 'seconds': round(time.process_time() - start, 2)}


@torch.no_grad()
def predict(name, checkpoint, x):
    """Return the classes that a checkpoint of `fit` finds for x [N, F, T], int64 [N]."""
    weights = checkpoint['state_dict']
    model = NETWORKS[name](x.shape[1], len(list(weights.values())[-1])).eval()
    model.load_state_dict(weights, strict=True)
    return model(x).argmax(1)
