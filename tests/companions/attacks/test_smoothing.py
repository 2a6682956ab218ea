"""The certificate is right where the truth is known.

    python -m pytest tests/companions/attacks/test_smoothing.py
"""

import pytest
import torch

from companions.attacks.smoothing import ABSTAIN, certified_accuracy, certify


def half_space(x):
    """Two classes, parted by x₀ = 0: the true radius of a point's class is |x₀|."""
    return torch.stack([-x[:, 0], x[:, 0]], 1)


def test_the_radius_approaches_the_distance_from_below():
    x = torch.tensor([[0.3, 5.0], [-0.6, -1.0], [0.0, 0.0]])
    classes, radii = certify(half_space, x, 0.5, samples=20000)
    assert classes.tolist() == [1, 0, ABSTAIN] and radii[2] == 0
    for radius, distance in zip(radii, (0.3, 0.6)):
        assert 0.95 * distance < radius <= distance


def test_the_certificate_fails_as_often_as_alpha_says():
    """A bound on the same samples that choose the class, or a normal one, fails more often."""
    x = torch.tensor([[0.4, 0.0]]).repeat(4000, 1)
    classes, radii = certify(half_space, x, 0.5, selection=20, samples=50, alpha=0.1)
    failed = ((classes != 1) & (classes != ABSTAIN) | (radii > 0.4)).double().mean().item()
    assert 0.03 < failed < 0.1 + 3 * (0.1 * 0.9 / 4000) ** 0.5


def test_with_few_samples_it_abstains_near_the_boundary():
    x = torch.linspace(-0.05, 0.05, 200)[:, None]
    classes, radii = certify(half_space, x, 0.5, samples=100)
    assert (classes == ABSTAIN).float().mean() > 0.95
    assert (radii[classes == ABSTAIN] == 0).all()


def test_a_certain_class_has_the_radius_of_all_samples_agreeing():
    _, radius = certify(half_space, torch.tensor([[100.0]]), 0.5, samples=1000, alpha=0.001)
    expected = 0.5 * torch.special.ndtri(torch.tensor(0.001).double() ** (1 / 1000))
    assert radius.item() == pytest.approx(expected.item())


def test_noise_is_added_where_the_mask_allows_only():
    seen = []

    def model(x):
        seen.append(x.clone())
        return half_space(x.flatten(1))

    x, mask = torch.ones(2, 4, 3), torch.tensor([4, 2])[:, None] > torch.arange(4)
    certify(model, x, 0.5, mask=mask[:, :, None], selection=2, samples=3)
    assert len(seen) == 5
    for z in seen:
        assert torch.equal((z != x).all(2), mask) and torch.equal((z != x).any(2), mask)
    assert not torch.equal(seen[0], seen[1])


def test_certified_accuracy_counts_the_right_classes_only_and_no_abstention():
    classes, radii = torch.tensor([1, 0, ABSTAIN, 1]), torch.tensor([0.5, 0.9, 0.0, 0.2])
    labels = torch.tensor([1, 1, 1, 1])
    assert [certified_accuracy(classes, radii, labels, r) for r in (0, 0.2, 0.3, 0.6)] == [
        0.5, 0.5, 0.25, 0]
