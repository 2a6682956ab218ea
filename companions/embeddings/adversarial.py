"""Adversarial training on word embeddings: minimize F(e) + F(e + r), r the worst small step of e.

    embedded = embedding(tokens)                                # [B, T, d], looked up once
    forward = lambda e: model(e, lengths)
    loss_of = lambda logits: F.cross_entropy(logits, labels)
    total, loss = adversarial_loss(forward, embedded, tokens != PADDING, loss_of, epsilon)
    total.backward()

Miyato, Dai and Goodfellow, arXiv:1605.07725, section 3: for each sequence r = ε g / ‖g‖₂, where g
is the gradient of its loss with respect to e, with one norm over all its steps and dimensions.
README.md lists nine common mistakes. This file needs torch only.
"""

import math

import torch


def perturbation(loss, embedded, mask, epsilon):
    """Compute r = ε g / ‖g‖₂ of each sequence, g the gradient of `loss` with respect to `embedded`.

    Args:
        loss: scalar, a sum or mean over sequences, computed from `embedded`.
        embedded: float [B, T, d], requires a gradient.
        mask: bool [B, T], False at padding.
        epsilon: L2 norm of each sequence's r.

    Returns r, float [B, T, d]: 0 at padding and where a sequence's g is 0. It is a constant, no
    parameter's .grad changes, and the graph of `loss` is kept.
    """
    g, = torch.autograd.grad(loss, embedded, retain_graph=True)
    return scale(g, mask, epsilon)


def scale(direction, mask, epsilon):
    """Scale each sequence of `direction` [B, T, d] to L2 norm epsilon, without its padding."""
    direction = torch.where(mask[..., None], direction, 0)
    largest = direction.abs().amax((1, 2), keepdim=True)
    direction = direction / largest  # first: the squares of a tiny gradient would underflow
    norm = torch.linalg.vector_norm(direction, dim=(1, 2), keepdim=True)
    return epsilon * torch.where(largest > 0, direction / norm, 0)


def adversarial_loss(forward, embedded, mask, loss_of, epsilon, generator=None):
    """Return (F(e) + F(e + r), F(e)): the loss to minimize and the ordinary one, to report.

    Args:
        forward: embedded [B, T, d] -> outputs, anything `loss_of` takes. Called twice, with
            different dropout.
        embedded: e, as looked up. It need not require a gradient (a frozen table).
        mask: bool [B, T], False at padding.
        loss_of: outputs -> scalar loss.
        epsilon: L2 norm of each sequence's r; 0 returns (F(e), F(e)).
        generator: torch.Generator of the CPU; if given, r has a random direction drawn from it,
            as a control.

    Both terms train every parameter, the table included; r is a constant. Raises ValueError
    unless epsilon is finite and at least 0.
    """
    if not 0 <= epsilon < math.inf:
        raise ValueError(f'epsilon is {epsilon}, expected a finite number of at least 0')
    if epsilon > 0 and not embedded.requires_grad:
        embedded = embedded.detach().requires_grad_()
    loss = loss_of(forward(embedded))
    if epsilon == 0:
        return loss, loss
    if generator is None:
        r = perturbation(loss, embedded, mask, epsilon)
    else:
        noise = torch.randn(embedded.shape, generator=generator, dtype=embedded.dtype)
        r = scale(noise.to(embedded.device), mask, epsilon)
    return loss + loss_of(forward(embedded + r)), loss
