"""Certified robustness by randomized smoothing (Cohen, Rosenfeld and Kolter, arXiv:1902.02918).

    classes, radii = certify(lambda x: model(x, lengths), x, sigma=0.5, mask=mask, seed=0)

The smoothed classifier returns the class that a classifier finds most often when Gaussian noise is
added to its input. Within `radii` in L2 of the input, no perturbation changes that class, with
probability 1 − alpha over the noise drawn here. It needs only torch and scipy; copy it to use it.
"""

import scipy.stats
import torch

ABSTAIN = -1


@torch.no_grad()
def certify(model, input, sigma, *, mask=None, selection=100, samples=1000, alpha=0.001, seed=0):
    """Return the smoothed classifier's classes, int64 [B], and their certified L2 radii, float [B].

    Algorithm CERTIFY of the paper: `selection` noisy copies of every sample choose its class, and
    `samples` others bound the probability p of that class from below with confidence 1 − `alpha`
    (Clopper and Pearson, one-sided). The radius is sigma Φ⁻¹(p); where the bound is 1/2 or less,
    the class is `ABSTAIN` and the radius 0.

    Args:
        model: input [B, …] -> logits [B, C], each sample on its own.
        sigma: standard deviation of the noise.
        mask: bool, broadcastable to `input`: the entries that get noise, and that a perturbation
            may change. Padding must be excluded.
        seed: of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = count_classes(model, input, sigma, mask, selection, generator).argmax(1)
    counts = count_classes(model, input, sigma, mask, samples, generator)
    hits = counts.gather(1, classes[:, None])[:, 0].double().numpy()
    bound = scipy.stats.beta.ppf(alpha, hits, samples - hits + 1)  # NaN for no hit
    radius = torch.tensor(sigma * scipy.stats.norm.ppf(bound)).nan_to_num(0).clamp(min=0)
    return torch.where(radius > 0, classes, ABSTAIN), radius


def count_classes(model, input, sigma, mask, samples, generator):
    """Return how often each class is found in `samples` noisy copies, int64 [B, C]."""
    counts = 0
    for _ in range(samples):
        z = sigma * torch.randn(input.shape, generator=generator).to(input)
        logits = model(input + (z if mask is None else torch.where(mask, z, 0)))
        counts = counts + torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1])
    return counts.cpu()


def certified_accuracy(classes, radii, labels, radius):
    """Return the fraction of samples whose class is right and certified up to `radius`."""
    return ((classes == labels) & (radii >= radius)).float().mean().item()
