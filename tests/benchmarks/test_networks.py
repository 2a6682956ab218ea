"""FCN and ResNet: their sizes, the resampling, and that the model of the lowest loss is kept."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from benchmarks import networks


def test_the_networks_have_the_papers_layers():
    """Counted by hand: weights, biases, and two parameters of batch normalization per channel."""
    def convolution(inputs, outputs, kernel_size):
        return inputs * outputs * kernel_size + outputs + 2 * outputs

    def residual(inputs, outputs, shortcut):
        return shortcut + sum(convolution(n, outputs, k)
                              for n, k in ((inputs, 8), (outputs, 5), (outputs, 3)))

    def count(model):
        return sum(p.numel() for p in model.parameters())

    assert count(networks.fcn(12, 9)) == (convolution(12, 128, 8) + convolution(128, 256, 5) +
                                          convolution(256, 128, 3) + 129 * 9)
    assert count(networks.resnet(12, 9)) == (
        residual(12, 64, convolution(12, 64, 1)) + residual(64, 128, convolution(64, 128, 1)) +
        residual(128, 128, 256) + 129 * 9)


@pytest.mark.parametrize('name', networks.NETWORKS)
def test_convolutions_keep_the_length(name):
    model = networks.NETWORKS[name](3, 4)
    lengths = []
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm1d):
            layer.register_forward_hook(lambda *args: lengths.append(args[-1].shape[2]))
    assert model(torch.randn(2, 3, 17)).shape == (2, 4)
    assert set(lengths) == {17}


def test_resampling_interpolates_to_the_given_length():
    t = np.linspace(0, 1, 9)
    x = np.column_stack([t ** 3, 1 - t]).astype(np.float32)  # a cubic spline is exact
    new = np.linspace(0, 1, 30)
    resampled = networks.resample([x, x[:4]], 30)
    assert resampled.shape == (2, 2, 30) and resampled.dtype == torch.float32
    np.testing.assert_allclose(resampled[0], [new ** 3, 1 - new], atol=1e-6)


def test_the_model_of_the_lowest_training_loss_is_kept(monkeypatch):
    x, labels = torch.randn(30, 2, 8), torch.arange(30) % 3
    losses = iter([3.0] * 10 + [1.0] * 10 + [2.0] * 10)  # of ten minibatches in three epochs
    original = F.cross_entropy

    def cross_entropy(logits, targets):
        loss = original(logits, targets)
        return loss + (next(losses) - loss).detach()

    monkeypatch.setattr(networks.F, 'cross_entropy', cross_entropy)
    three = networks.fit('FCN', x, labels, 0, 3, 16)['state_dict']
    losses = iter([3.0] * 10 + [1.0] * 10)
    two = networks.fit('FCN', x, labels, 0, 2, 16)['state_dict']
    assert all(torch.equal(three[key], two[key]) for key in two)
    losses = iter([3.0] * 10)
    one = networks.fit('FCN', x, labels, 0, 1, 16)['state_dict']
    assert not torch.equal(one['0.1.weight'], two['0.1.weight'])


def test_a_network_learns_and_predicts():
    labels = np.arange(40) % 2
    x = torch.randn(40, 2, 8) + 2 * torch.tensor(labels)[:, None, None]
    checkpoint = networks.fit('ResNet', x[:, :, :4], torch.tensor(labels), 0, 15, 16)
    assert (networks.predict('ResNet', checkpoint, x[:, :, :4]).numpy() == labels).mean() > 0.9
