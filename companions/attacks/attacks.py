"""Gradient attacks on any classifier: functions (model, input, …) -> perturbed input.

    perturbed = pgd(model.eval(), images, labels, epsilon=8 / 255, valid_range=(0, 1))

`model` maps `input`, float [B, …], to logits [B, C], each sample on its own: a torch module must be
in evaluation mode. Bind its other arguments: `lambda x: classifier(x, lengths)`. Shared arguments:

    labels        int64 [B], the true classes
    norm          2 (over all entries of a sample) or math.inf (the largest entry); for `one_shot`
                  and `iterated` also None: a step is then epsilon times the raw gradient
    epsilon       size of the perturbation, or of each step of `iterated`, in that norm
    mask          bool, broadcastable to `input`: the entries that may change, e.g. not padding
    valid_range   (low, high), to which entries that may change are clamped; None: no clamping
    generator     a torch.Generator on the CPU, whatever the device of `input`

`one_shot` and `iterated` with `valid_range=(0, 1)` are the assignment's two attacks.

Each attack returns a tensor without a graph and leaves the parameters' gradients alone. Raises
ValueError for other values of `norm`, and if entries that may change are outside `valid_range`.
"""

import math

import torch
from torch.nn import functional as F


def fgsm(model, input, labels, epsilon, *, norm=math.inf, mask=None, valid_range=None):
    """Step up the loss of the true class: x + ε sign(∇ℓ) for norm inf, x + ε ∇ℓ/‖∇ℓ‖ for norm 2.

    Goodfellow et al., arXiv:1412.6572, section 4.
    """
    input, mask = check_input(input, norm, mask, valid_range)
    g, _ = input_gradient(model, input, labels)
    return project(input + epsilon * step_direction(g, norm, mask), input, mask, valid_range)


def one_shot(model, input, epsilon, *, norm=None, mask=None, valid_range=None):
    """Step down the loss of the least likely class (Kurakin et al., arXiv:1611.01236, sec. 2)."""
    input, mask = check_input(input, norm, mask, valid_range, allow_raw=True)
    g, _ = input_gradient(model, input, least_likely(model, input))
    return project(input - epsilon * step_direction(g, norm, mask), input, mask, valid_range)


def noise(input, epsilon, *, norm=math.inf, mask=None, valid_range=None, generator=None):
    """Add random noise of size `epsilon`: uniform on the sphere for norm 2, ±ε for norm inf."""
    input, mask = check_input(input, norm, mask, valid_range)
    z = torch.randn(input.shape, generator=generator).to(input)
    return project(input + epsilon * step_direction(z, norm, mask), input, mask, valid_range)


def iterated(model, input, labels, epsilon, steps=10, *, radius=None, norm=None, mask=None,
             valid_range=None, fixed_target=False, stop=True):
    """Take `steps` steps of `one_shot`, each down the loss of the class that is now least likely.

    By default this is the assignment's iterated attack: every step picks the least likely class
    again, and without projection the whole perturbation may be `steps` times as large as a step.
    `stop` ends the steps of a sample once it is misclassified.

    Two options are not the assignment's. With `fixed_target` all steps have one target, the class
    least likely for `input` (Kurakin et al., arXiv:1607.02533, section 2.3). Its steps add up:
    the assignment's attack turns to another class once a step has made its target more likely.
    With `radius`, which needs a norm, the whole perturbation stays within `radius`.
    """
    input, mask = check_input(input, norm, mask, valid_range, allow_raw=radius is None)
    target = least_likely(model, input)
    x = input
    for _ in range(steps):
        g, logits = input_gradient(model, x, target if fixed_target else least_likely(model, x))
        step = epsilon * step_direction(g, norm, mask)
        new = project(x - step, input, mask, valid_range, norm, radius)
        x = update_if_correct(x, new, logits, labels) if stop else new
    return x


def cross_entropy(logits, classes):
    """Return the cross-entropy of each sample, [B]."""
    return F.cross_entropy(logits, classes, reduction='none')


def pgd(model, input, labels, epsilon, steps=20, step_size=None, *, norm=math.inf, mask=None,
        valid_range=None, generator=None, stop=True, loss=cross_entropy):
    """Projected gradient ascent on the loss of the true class (Madry et al., arXiv:1706.06083).

    `loss` maps float64 logits [B, C] and `labels` to values [B]; stronger.py has another one.
    The whole perturbation stays within `epsilon`; `step_size` is 2.5 epsilon / steps by default.
    With `generator` it starts at a random distance in a random direction. `stop` ends the steps of
    a sample once it is misclassified; one that is misclassified from the start does not change.
    """
    input, mask = check_input(input, norm, mask, valid_range)
    step_size = 2.5 * epsilon / max(steps, 1) if step_size is None else step_size
    x = input
    if generator is not None:
        offset = noise(input, 1, norm=norm, mask=mask, generator=generator) - input
        size = epsilon * expand(torch.rand(len(input), generator=generator).to(input), input)
        x = project(input + size * offset, input, mask, valid_range, norm, epsilon)
        if stop:
            x = update_if_correct(input, x, input_gradient(model, input, labels)[1], labels)
    for _ in range(steps):
        g, logits = input_gradient(model, x, labels, loss)
        step = step_size * step_direction(g, norm, mask)
        new = project(x + step, input, mask, valid_range, norm, epsilon)
        x = update_if_correct(x, new, logits, labels) if stop else new
    return x


def few_pixels(model, input, labels, pixels, *, valid_range, mask=None):
    """Set entries to an end of `valid_range`, one at a time, at most `pixels` (an L0 attack).

    Each time the entry that raises the loss most to first order, gradient times change, as in the
    saliency maps of Papernot et al., arXiv:1511.07528; until the sample is misclassified.
    """
    input, mask = check_input(input, 2, mask, valid_range)
    low, high = (torch.full_like(input, end) for end in valid_range)
    x = input
    for _ in range(pixels):
        g, logits = input_gradient(model, x, labels)
        end = torch.where(g > 0, high, low)
        gain = torch.where(mask, g * (end - x), -1).flatten(1)
        chosen = F.one_hot(gain.argmax(1), gain.shape[1]).bool().view_as(x) & mask
        x = update_if_correct(x, torch.where(chosen, end, x), logits, labels)
    return x


def check_input(input, norm, mask, valid_range, allow_raw=False):
    """Return `input` without its graph and `mask` in its shape; check the arguments."""
    if norm not in (2, math.inf) and not (allow_raw and norm is None):
        more = ', or None' if allow_raw else ''
        raise ValueError(f'norm is {norm!r}, expected 2 or math.inf{more}')
    input = input.detach()
    mask = torch.ones_like(input, dtype=torch.bool) if mask is None else mask.expand_as(input)
    if valid_range is not None:
        (low, high), values = valid_range, input[mask]
        if values.numel() and not (values.min() >= low and values.max() <= high):
            raise ValueError(f'valid_range is {low:g} to {high:g}, but the input goes from '
                             f'{values.min():g} to {values.max():g}')
    return input, mask


def least_likely(model, input):
    """Return the class of the smallest logit, int64 [B]."""
    with torch.no_grad():
        return model(input).argmin(1)


def input_gradient(model, input, classes, loss=cross_entropy):
    """Return the gradient of each sample's loss for `classes`, and the logits [B, C]."""
    x = input.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        # float64: in float32 the probability p of a confident sample's class rounds to 1, and the
        # gradient p − 1 of its logit to 0.
        total = loss(logits.double(), classes).sum()
    return torch.autograd.grad(total, x)[0], logits.detach()


def step_direction(g, norm, mask):
    """Return the step of size 1 in `norm` that follows g best within `mask`; g if norm is None."""
    g = torch.where(mask, g, 0)
    if norm != 2:
        return g if norm is None else g.sign()
    peak = expand(norms(g, math.inf), g)  # first, because squares of a small gradient underflow
    g = torch.where(peak > 0, g / peak, 0)
    return torch.where(peak > 0, g / expand(norms(g, 2), g), 0)


def norms(delta, norm):
    """Return the norm of each sample of delta [B, …], float [B]."""
    return torch.linalg.vector_norm(delta.flatten(1), norm, dim=1)


def expand(values, x):
    """Reshape values [B] to broadcast over x [B, …]."""
    return values.view(-1, *[1] * (x.dim() - 1))


def project(x, input, mask, valid_range, norm=None, radius=None):
    """Project x to within `radius` of `input` and into `valid_range`; undo it outside `mask`."""
    if radius is not None:
        delta = x - input
        if norm == math.inf:
            delta = delta.clamp(-radius, radius)
        else:
            delta = delta * expand((radius / norms(delta, norm).clamp(min=1e-30)).clamp(max=1), x)
        x = input + delta
    if valid_range is not None:
        x = x.clamp(*valid_range)
    return torch.where(mask, x, input)


def update_if_correct(x, new, logits, labels):
    """Return `new` for the samples that `logits`, those of x, still classify correctly, else x."""
    return torch.where(expand(logits.argmax(1) == labels, x), new, x)
