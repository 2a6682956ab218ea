"""Stronger attacks in L2, after those that AutoAttack combines (arXiv:2003.01690).

    perturbed = pgd(model, x, labels, 0.5, norm=2, mask=mask, loss=dlr_loss)   # another loss
    perturbed = ddn(model, x, labels, mask=mask)                  # the smallest perturbation
    perturbed = square(model, x, labels, 0.5, mask=mask, generator=generator)      # no gradient

Arguments and results are those of attacks.py. `x` is [B, T, F] for `square`, else of any shape.
"""

import math

import torch

from companions.attacks.attacks import (check_input, expand, input_gradient, norms, project,
                                        step_direction)


def dlr_loss(logits, labels, targets=None):
    """Return the difference of logits ratio, [B]: above 0 where `labels` are not predicted.

    A loss for `pgd` on which the scale of the logits has no effect: (max_{i≠y} z_i − z_y) /
    (z₁ − z₃) for logits z, in descending order z₁ ≥ z₂ ≥ …, of the labels y; with classes
    `targets` t, (z_t − z_y) / (z₁ − (z₃ + z₄) / 2). Croce and Hein, arXiv:2003.01690, equations
    (6) and (7). Raises ValueError for fewer classes than that takes.
    """
    needed = 3 if targets is None else 4
    if logits.shape[1] < needed:
        raise ValueError(f'the model has {logits.shape[1]} classes, expected {needed} or more')
    top = logits.topk(needed).values
    own = logits.gather(1, labels[:, None])[:, 0]
    if targets is None:
        other = torch.where(logits.argmax(1) == labels, top[:, 1], top[:, 0])
        scale = top[:, 0] - top[:, 2]
    else:
        other = logits.gather(1, targets[:, None])[:, 0]
        scale = top[:, 0] - (top[:, 2] + top[:, 3]) / 2
    return (other - own) / scale.clamp(min=1e-12)


def ddn(model, input, labels, steps=100, *, start=1.0, gamma=0.05, mask=None, valid_range=None):
    """Search the smallest misclassified perturbation (Rony et al., arXiv:1811.09600).

    The direction follows the gradient of the cross-entropy; its norm, at first `start`, falls by
    the factor 1 − `gamma` after every step that is misclassified and grows by 1 + `gamma` after any
    other. A step's size falls from 1 to 0.01 and is, unlike there, relative to the norm. Returns
    the smallest perturbation found, and the input itself where none was found or none is needed.
    """
    input, mask = check_input(input, 2, mask, valid_range)
    x = best = input
    radius = torch.full((len(input),), float(start)).to(input)
    smallest = torch.full_like(radius, math.inf)
    for step in range(steps + 1):
        g, logits = input_gradient(model, x, labels)
        fooled, size = logits.argmax(1) != labels, norms(x - input, 2)
        best = torch.where(expand(fooled & (size < smallest), x), x, best)
        smallest = torch.where(fooled, torch.minimum(size, smallest), smallest)
        radius = radius * torch.where(fooled, 1 - gamma, 1 + gamma)
        rate = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        delta = x - input + rate * expand(radius, x) * step_direction(g, 2, mask)
        x = input + expand(radius, x) * step_direction(delta, 2, mask)
        x = project(x, input, mask, valid_range)
    return best


def square(model, input, labels, epsilon, steps=1000, *, mask=None, generator):
    """Search at random for a perturbation of norm `epsilon`, without a gradient.

    Square attack for L2 (Andriushchenko et al., arXiv:1912.00049, algorithm 3), with windows of
    steps, over all features, in place of squares of pixels. A step moves the perturbation of one
    window to another, where it continues in a random direction, and is kept where it lowers the
    margin of the true class. The windows shrink from 0.3 of a sequence's steps to one step.
    """
    input, mask = check_input(input, 2, mask, None)
    length = mask.any(2).sum(1).cpu()  # valid steps come first
    time = torch.arange(input.shape[1])

    def random_like(x):
        return torch.randn(x.shape, generator=generator).to(x)

    def window(width):
        start = (torch.rand(len(input), generator=generator) * (length - width + 1)).long()
        inside = (time >= start[:, None]) & (time < (start + width)[:, None])
        return inside[:, :, None].to(mask.device) & mask

    def margins(x):  # of the true class over the others
        logits = model(x)
        own = logits.gather(1, labels[:, None])[:, 0]
        return own - logits.scatter(1, labels[:, None], -math.inf).amax(1)

    with torch.no_grad():
        delta = epsilon * step_direction(random_like(input), 2, mask)
        margin = margins(input + delta)
        for step in range(steps):
            width = (0.3 * 0.5 ** (8 * step / steps) * length).round().clamp(min=1).long()
            here, there = window(width), window(width)
            both = norms(torch.where(here | there, delta, 0), 2)
            unused = (epsilon ** 2 - norms(delta, 2) ** 2).clamp(min=0)
            direction = step_direction(delta, 2, here) + step_direction(random_like(delta), 2, here)
            moved = expand((both ** 2 + unused).sqrt(), delta) * step_direction(direction, 2, here)
            new = torch.where(here, moved, torch.where(there, 0, delta))
            found = margins(input + new)
            delta = torch.where(expand(found < margin, delta), new, delta)
            margin = torch.minimum(found, margin)
    return project(input + delta, input, mask, None, 2, epsilon)
