"""Adversarial training on word embeddings: minimize F(e) + F(e + r), r the worst small step of e.

This file needs torch only. In a training loop of your own:

    embedded = embedding(tokens)                                # [B, T, d], looked up once
    forward = lambda e: model(e, lengths)
    loss_of = lambda logits: F.cross_entropy(logits, labels)
    total, loss = adversarial_loss(forward, embedded, tokens != PADDING, loss_of, epsilon)
    total.backward()

With two heads, where the span of an answer starts and ends, the loss is the sum of theirs:

    loss_of = lambda two: F.cross_entropy(two[0], starts) + F.cross_entropy(two[1], ends)

Miyato, Dai and Goodfellow, arXiv:1605.07725, section 3: for each sequence r = ε g / ‖g‖₂, where g
is the gradient of its loss with respect to e, with one norm over all its steps and dimensions.

Nine common mistakes:

 1. g = embedding.weight.grad
    The gradient of the table sums over all occurrences of a word in the minibatch, so the r of a
    text depends on its neighbours.
 2. r = epsilon * F.normalize(g, dim=-1)
    One norm per row moves every word by ε, however small its gradient: a text of T words moves by
    ε√T, mostly where the loss does not depend on it.
 3. embedding.weight.data = perturbed
    Autograd does not see the assignment. What it saved of the table by reference is read after the
    table has been restored, so the gradient of F(e + r) is in part taken at e.
 4. loss.backward(retain_graph=True), to get g
    This fills the .grad of every weight as well: unless cleared before total.backward(), F(e)
    counts twice.
 5. total = loss.detach() + adversarial
    F(e) is then a constant, and only the perturbed texts are trained on.
 6. g = grad(loss, e, create_graph=True)
    r must be a constant. Otherwise second derivatives train the weights to change r: a different
    objective, and a slower one.
 7. e = embedding(tokens).detach()
    This cuts the path to the table, so neither term trains the embeddings.
 8. embedding.training = False
    This freezes nothing. requires_grad_(False) does, and then e itself must require a gradient,
    as `adversarial_loss` sees to.
 9. nn.Embedding(..., padding_idx=0)
    It keeps row 0 of the table from training, but the looked-up padding still has a gradient:
    where a model reads its padding, part of r is spent on it unless masked.
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


def adversarial_loss(forward, embedded, mask, loss_of, epsilon):
    """Return (F(e) + F(e + r), F(e)): the loss to minimize and the ordinary one, to report.

    Args:
        forward: embedded [B, T, d] -> outputs, anything `loss_of` takes. Called twice, with
            different dropout.
        embedded: e, as looked up. It need not require a gradient (a frozen table).
        mask: bool [B, T], False at padding.
        loss_of: outputs -> scalar loss.
        epsilon: L2 norm of each sequence's r; 0 returns (F(e), F(e)).

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
    r = perturbation(loss, embedded, mask, epsilon)
    return loss + loss_of(forward(embedded + r)), loss


def random_loss(forward, embedded, mask, loss_of, epsilon, generator):
    """The control of `adversarial_loss`: r has the same norm in a random direction."""
    loss = loss_of(forward(embedded))
    if epsilon == 0:
        return loss, loss
    noise = torch.randn(embedded.shape, generator=generator, dtype=embedded.dtype)
    return loss + loss_of(forward(embedded + scale(noise, mask, epsilon))), loss
