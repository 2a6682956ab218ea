"""A generative adversarial network (GAN) of fully connected layers: layers, losses, training.

    D, G = discriminator(), generator()
    for epoch, losses in enumerate(train(D, G, images, 80, torch.Generator().manual_seed(0)), 1):
        print(epoch, losses)
    samples = G(uniform_noise(10, 96, torch.Generator()))       # in [-1, 1], as `images`

Goodfellow et al., arXiv:1406.2661; beta1 from Radford et al., arXiv:1511.06434, section 4.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

LOSSES = 'non-saturating', 'minimax'


def discriminator(pixels=784, width=256):
    """float [B, pixels] -> logits [B, 1] of being real. LeakyReLU: arXiv:1505.00853."""
    return nn.Sequential(nn.Linear(pixels, width), nn.LeakyReLU(0.01),
                         nn.Linear(width, width), nn.LeakyReLU(0.01), nn.Linear(width, 1))


def generator(pixels=784, noise_size=96, width=1024):
    """Noise, float [B, noise_size] -> images [B, pixels] in [-1, 1]."""
    return nn.Sequential(nn.Linear(noise_size, width), nn.ReLU(), nn.Linear(width, width),
                         nn.ReLU(), nn.Linear(width, pixels), nn.Tanh())


def uniform_noise(count, size, random):
    """Draw float32 [count, size], uniform in [-1, 1), from the torch.Generator `random`."""
    return 2 * torch.rand(count, size, generator=random) - 1


def discriminator_loss(real, fake):
    """-E[log D(x)] - E[log(1 - D(G(z)))], of the logits of real and generated images."""
    return (F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
            + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake)))


def generator_loss(fake, kind='non-saturating'):
    """-E[log D(G(z))], or for 'minimax' E[log(1 - D(G(z)))], of the logits of generated images.

    The gradient of 'minimax' vanishes where D is sure (Goodfellow et al., section 3).
    """
    if kind == 'minimax':
        return -F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def discriminator_step(D, G, optimizer, x, z):
    """Update D on images x and G(z). Returns its loss, mean D(x) and D(G(z)) before the step."""
    with torch.no_grad():
        fake = G(z)
    real_logits, fake_logits = D(x), D(fake)
    loss = discriminator_loss(real_logits, fake_logits)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), real_logits.sigmoid().mean().item(), fake_logits.sigmoid().mean().item()


def generator_step(D, G, optimizer, z, kind='non-saturating'):
    """Update G, leaving the weights and gradients of D alone. Returns the loss before the step."""
    loss = generator_loss(D(G(z)), kind)
    optimizer.zero_grad()
    loss.backward(inputs=list(G.parameters()))
    optimizer.step()
    return loss.item()


def train(D, G, images, epochs, random, kind='non-saturating', lr=1e-3, beta1=0.5, batch_size=128,
          noise=None):
    """Train D and G alternately, D first (Goodfellow et al., Algorithm 1 with k = 1).

    A Python generator: after each epoch it yields {'discriminator_loss', 'D(x)', 'D(G(z))',
    'generator_loss'}, means over the minibatches. `images` are float [N, pixels] in [-1, 1] on the
    device of D and G; the torch.Generator `random`, of the CPU, draws their order, and `noise`
    (default: `random`) draws z.
    """
    noise, size = noise or random, G[0].in_features
    D_optimizer, G_optimizer = (torch.optim.Adam(model.parameters(), lr, betas=(beta1, 0.999),
                                                 fused=True) for model in (D, G))
    for _ in range(epochs):
        steps = []
        for batch in torch.randperm(len(images), generator=random).split(batch_size):
            real, z = images[batch], uniform_noise(len(batch), size, noise).to(images.device)
            metrics = discriminator_step(D, G, D_optimizer, real, z)
            z = uniform_noise(len(batch), size, noise).to(images.device)
            steps.append((*metrics, generator_step(D, G, G_optimizer, z, kind)))
        names = 'discriminator_loss', 'D(x)', 'D(G(z))', 'generator_loss'
        yield dict(zip(names, np.mean(steps, 0).tolist()))
