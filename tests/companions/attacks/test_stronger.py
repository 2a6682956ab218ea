"""The stronger attacks stay within their bounds and find what a closed form says is there.

    python -m pytest tests/companions/attacks/test_stronger.py
"""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from companions.attacks.attacks import norms, pgd
from companions.attacks.stronger import ddn, dlr_loss, square
from companions.common.images import SmallCNN

B, T, FEATURES, CLASSES = 12, 7, 4, 5
LENGTHS = torch.arange(B) % 5 + 3
MASK = (torch.arange(T) < LENGTHS[:, None])[:, :, None]


@pytest.fixture
def problem():
    """A linear model that reads valid steps only, its inputs, labels and distances [B]."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(T * FEATURES, CLASSES, generator=generator)
    x = torch.randn(B, T, FEATURES, generator=generator)

    def model(x):
        return torch.where(MASK, x, 0).flatten(1) @ W

    labels = model(x).argmax(1)
    labels[0] = (labels[0] + 1) % CLASSES  # misclassified from the start
    logits, distances = model(x), []
    for z, y, mask in zip(logits, labels, MASK.expand_as(x).flatten(1)):
        to_class = (z[y] - z) / (W[mask] - W[mask][:, y, None]).norm(dim=0)
        distances.append(to_class[torch.arange(CLASSES) != y].min().clamp(min=0))
    return model, x, labels, torch.stack(distances)


def attacks():
    generator = torch.Generator().manual_seed(0)
    return {'PGD on the margin': partial(pgd, norm=2, loss=dlr_loss),
            'square': partial(square, steps=200, generator=generator)}


@pytest.mark.parametrize('name', attacks())
def test_the_perturbation_stays_in_the_ball_and_the_mask(problem, name):
    model, x, labels, _ = problem
    perturbed = attacks()[name](model, x, labels, 0.7, mask=MASK)
    assert (norms(perturbed - x, 2) <= 0.7 * (1 + 1e-5)).all()
    assert not ((perturbed != x) & ~MASK).any() and not perturbed.requires_grad


def test_ddn_finds_the_distance_to_the_nearest_other_class(problem):
    model, x, labels, distances = problem
    perturbed = ddn(model, x, labels, 200, mask=MASK)
    assert (model(perturbed).argmax(1) != labels).all()
    found = norms(perturbed - x, 2)
    assert found[0] == distances[0] == 0  # misclassified already
    assert (found >= distances * (1 - 1e-5)).all()
    assert found == pytest.approx(distances, rel=0.15)
    assert not ((perturbed != x) & ~MASK).any()
    within = ddn(model, x, labels, 200, mask=MASK, valid_range=(x.min().item(), x.max().item()))
    assert within.min() >= x.min() and within.max() <= x.max()


def test_ddn_returns_the_input_where_it_finds_nothing(problem):
    model, x, labels, _ = problem
    perturbed = ddn(lambda x: F.one_hot(labels, CLASSES) + 0 * model(x), x, labels, 5, mask=MASK)
    assert torch.equal(perturbed, x)


@pytest.mark.parametrize('attack, enough', [
    (partial(pgd, norm=2, steps=20, loss=dlr_loss), 1.1),
    (partial(square, steps=300, generator=torch.Generator().manual_seed(1)), 2)])
def test_an_attack_succeeds_beyond_the_distance_and_never_within(problem, attack, enough):
    model, x, labels, distances = problem
    for k in range(1, B):
        def one(x_k):
            return model(x_k.expand(B, -1, -1))[k:k + 1]

        mask = MASK[k:k + 1]
        for size, fooled in ((0.99, False), (enough, True)):
            perturbed = attack(one, x[k:k + 1], labels[k:k + 1], size * distances[k].item(), mask=mask)
            assert (one(perturbed).argmax(1) != labels[k]).item() is fooled


def test_square_uses_no_gradient(problem):
    model, x, labels, distances = problem
    perturbed = square(lambda x: model(x).detach(), x, labels, 2 * distances.max().item(),
                       mask=MASK, generator=torch.Generator().manual_seed(0))
    assert (model(perturbed).argmax(1) != labels).all()


def test_the_dlr_loss_is_the_formula_and_ignores_the_scale_of_the_logits():
    logits, y, t = torch.tensor([[3.0, 7.0, 1.0, 2.0, -1.0]]).double(), torch.tensor([1]), torch.tensor([4])
    assert dlr_loss(logits, y).item() == pytest.approx((3 - 7) / (7 - 2))
    assert dlr_loss(logits, y - 1).item() == pytest.approx((7 - 3) / (7 - 2))
    assert dlr_loss(logits, y, t).item() == pytest.approx((-1 - 7) / (7 - (2 + 1) / 2))
    assert dlr_loss(1e6 * logits, y, t) == pytest.approx(dlr_loss(logits, y, t))
    with pytest.raises(ValueError, match='2 classes, expected 3 or more'):
        dlr_loss(logits[:, :2], y)
    with pytest.raises(ValueError, match='3 classes, expected 4 or more'):
        dlr_loss(logits[:, :3], y, t - 2)


def test_on_the_margin_a_confident_model_has_a_gradient(problem):
    """That of its cross-entropy is 0, even in float64."""
    model, x, labels, distances = problem
    fooled = [(model(pgd(lambda x: 1e5 * model(x), x, labels, 2 * distances.max().item(), norm=2,
                         mask=MASK, **settings)).argmax(1) != labels).sum().item()
              for settings in ({}, {'loss': dlr_loss})]
    assert fooled[0] < B / 2 and fooled[1] == B


def test_ddn_finds_what_foolboxs_does():
    foolbox = pytest.importorskip('foolbox')
    torch.manual_seed(0)
    model = SmallCNN(1, 10, 4).eval()
    for p in model.parameters():
        p.data *= 2
    x = torch.rand(30, 1, 8, 8)
    y = model(x).argmax(1)
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1), device='cpu')
    expected, _, found = foolbox.attacks.DDNAttack(steps=100)(theirs, x, y, epsilons=None)
    perturbed = ddn(model, x, y, 100, valid_range=(0, 1))
    assert found.all() and (model(perturbed).argmax(1) != y).all()
    assert norms(perturbed - x, 2) == pytest.approx(norms(expected - x, 2), rel=0.1)
