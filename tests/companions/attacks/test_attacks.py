"""The attacks change what they may, as far as they may, in the right direction.

    python -m pytest tests/companions/attacks
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companions.attacks.attacks import few_pixels, fgsm, iterated, noise, norms, one_shot, pgd
from companions.common.images import SmallCNN

NORMS = 2, math.inf


@pytest.fixture
def classifier():
    """(model, x [B, T, F], labels that it predicts, mask): a recurrent model that reads padding."""
    torch.manual_seed(0)
    lstm, linear = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 4)
    x = torch.rand(6, 5, 3)
    lengths = torch.tensor([1, 2, 3, 5, 5, 5])

    def model(x):
        return 5 * linear(lstm(x)[0].mean(1))

    mask = (torch.arange(5) < lengths[:, None])[:, :, None]
    with torch.no_grad():
        return model, x, model(x).argmax(1), mask


def every_attack(model, x, y, epsilon, norm, **limits):
    def generator():
        return torch.Generator().manual_seed(0)

    limits['norm'] = norm
    yield fgsm(model, x, y, epsilon, **limits)
    yield one_shot(model, x, epsilon, **limits)
    for fixed_target in (False, True):
        yield iterated(model, x, y, epsilon / 2, 7, radius=epsilon, stop=False,
                       fixed_target=fixed_target, **limits)
    yield pgd(model, x, y, epsilon, 7, stop=False, **limits)
    yield pgd(model, x, y, epsilon, 7, generator=generator(), **limits)
    yield pgd(model, x, y, epsilon, 0, 1, generator=generator(), stop=False, **limits)
    yield noise(x, epsilon, generator=generator(), **limits)


@pytest.mark.parametrize('norm', [2, math.inf, None])
def test_the_first_step_of_the_iterated_attack_is_the_one_shot_attack(classifier, norm):
    model, x, y, mask = classifier
    limits = {'norm': norm, 'mask': mask, 'valid_range': (0, 1)}
    perturbed = one_shot(model, x, 0.1, **limits)
    assert torch.equal(iterated(model, x, y, 0.1, 1, **limits), perturbed)
    assert not torch.equal(perturbed, x)


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('epsilon', [0.01, 0.3])
def test_every_attack_stays_in_the_ball_the_range_and_the_mask(classifier, norm, epsilon):
    model, x, y, mask = classifier
    x = torch.where(mask, x, -7)  # padding outside the range stays as it is, too
    off = ~mask.expand_as(x)
    for perturbed in every_attack(model, x, y, epsilon, norm, mask=mask, valid_range=(0, 1)):
        assert (norms(perturbed - x, norm) <= epsilon * (1 + 1e-5)).all()
        assert not torch.equal(perturbed, x) and torch.equal(perturbed[off], x[off])
        assert perturbed[~off].min() >= 0 and perturbed.max() <= 1
    for perturbed in every_attack(model, x, y, epsilon, norm, mask=mask):
        assert (norms(perturbed - x, norm) <= epsilon * (1 + 1e-5)).all()
    perturbed = pgd(model, x, y, epsilon, 7, norm=norm, mask=mask, stop=False)
    assert norms(perturbed - x, norm) == pytest.approx(epsilon, rel=1e-4)


@pytest.mark.parametrize('norm', NORMS)
def test_epsilon_zero_changes_nothing(classifier, norm):
    model, x, y, mask = classifier
    for perturbed in every_attack(model, x, y, 0.0, norm, mask=mask):
        assert torch.equal(perturbed, x)
    assert torch.equal(few_pixels(model, x, y, 0, valid_range=(0, 1)), x)
    assert torch.equal(one_shot(model, x, 0.0), x)


def linear_model(scale=1.0):
    torch.manual_seed(1)
    W = scale * torch.randn(3, 5)
    return W, lambda x: x @ W.T


def test_steps_follow_the_gradients_computed_by_hand():
    W, model = linear_model()
    x = torch.randn(4, 5)
    y, p = torch.tensor([0, 1, 2, 0]), model(x).softmax(1)
    away = (p - F.one_hot(y, 3)) @ W  # gradient of the loss of the true class
    torch.testing.assert_close(fgsm(model, x, y, 0.1), x + 0.1 * away.sign())
    torch.testing.assert_close(fgsm(model, x, y, 0.1, norm=2),
                               x + 0.1 * away / away.norm(dim=1, keepdim=True))
    towards = (p - F.one_hot(p.argmin(1), 3)) @ W
    torch.testing.assert_close(one_shot(model, x, 0.1), x - 0.1 * towards)
    torch.testing.assert_close(one_shot(model, x, 0.1, norm=math.inf), x - 0.1 * towards.sign())


def test_the_iterated_attack_is_the_assignments_loop_around_the_one_shot_attack():
    """One sample at a time, until it is misclassified."""
    _, model = linear_model()
    torch.manual_seed(2)
    x = torch.rand(20, 5)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 3  # misclassified to begin with: stays as it is
    perturbed = iterated(model, x, y, 0.1, valid_range=(0, 1))
    assert torch.equal(perturbed[0], x[0])
    taken, changed = [], 0
    for i in range(1, len(x)):
        z = x[i:i + 1]
        for step in range(1, 11):
            z = one_shot(model, z, 0.1, valid_range=(0, 1))
            if model(z).argmax(1) != y[i]:
                break
        taken.append(step)
        changed += (model(z).argmin(1) != model(x[i:i + 1]).argmin(1)).item()
        torch.testing.assert_close(perturbed[i:i + 1], z)
    assert min(taken) < max(taken) and changed > 2
    fixed = iterated(model, x, y, 0.1, valid_range=(0, 1), fixed_target=True)
    assert not torch.allclose(perturbed, fixed, atol=0.01)


def test_a_fixed_target_is_the_least_likely_class_of_the_input():
    _, model = linear_model()
    torch.manual_seed(2)
    x = torch.randn(8, 5)
    target, y = model(x).argmin(1), model(x).argmax(1)
    found = {}
    for fixed in (False, True):
        z = x
        for _ in range(6):
            z = z.detach().requires_grad_()
            classes = target if fixed else model(z).argmin(1)
            F.cross_entropy(model(z), classes, reduction='sum').backward()
            z = z - 0.5 * z.grad
        found[fixed] = z.detach()
        perturbed = iterated(model, x, y, 0.5, 6, stop=False, fixed_target=fixed)
        torch.testing.assert_close(perturbed, found[fixed])
    assert not torch.allclose(found[False], found[True], atol=0.1)
    assert (model(found[True]).argmax(1) == target).all()
    assert not (model(found[False]).argmax(1) == target).all()


@pytest.mark.parametrize('attack', [
    lambda model, x, y, steps: pgd(model, x, y, 2.0, steps, 0.1, norm=2),
    lambda model, x, y, steps: iterated(model, x, y, 0.1, steps, norm=2, fixed_target=True)])
def test_each_sample_stops_on_its_own(attack):
    _, model = linear_model()
    torch.manual_seed(2)
    x = torch.randn(8, 5)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 3  # misclassified to begin with: stays as it is
    perturbed = attack(model, x, y, 40)
    change = norms(perturbed - x, 2)
    assert change[0] == 0 and (model(perturbed).argmax(1) != y).all()
    steps = (change / 0.1).round()
    assert len(steps.unique()) > 3
    for i in range(1, 8):  # as if it were alone; and one step earlier it is still correct
        alone = attack(model, x[i:i + 1], y[i:i + 1], 40)
        torch.testing.assert_close(alone[0], perturbed[i])
        earlier = attack(model, x[i:i + 1], y[i:i + 1], int(steps[i]) - 1)
        assert model(earlier).argmax(1) == y[i]


def test_a_confident_model_has_a_gradient():
    W, model = linear_model(scale=8)  # in float32, p of the true class is 1 and its gradient 0
    torch.manual_seed(2)
    x = torch.randn(50, 5)
    y = model(x).argmax(1)
    top = model(x).topk(2, dim=1).values
    margin = top[:, 0] - top[:, 1]
    confident = (margin > 18) & (margin < 28)
    x, y = x[confident], y[confident]
    assert len(x) > 5
    assert (model(x).softmax(1).amax(1) == 1).all()
    away = fgsm(model, x, y, 1.0, norm=2) - x
    logits = x.double() @ W.double().T
    g = (logits.softmax(1) - F.one_hot(y, 3)) @ W.double()
    torch.testing.assert_close(away.double(), F.normalize(g, dim=1), atol=1e-3, rtol=0)


def test_few_pixels_changes_those_that_raise_the_loss_most():
    W = torch.tensor([[0.0, 0, 0, 0], [3, -2, 1, 0.5]])
    x = torch.tensor([[0.5, 0.9, 0.0, 0.0], [0.9, 0.1, 0.2, 0.0]])

    def model(x):
        return torch.cat([torch.full((len(x), 1), 9.0), x @ W[1:].T], 1)

    y = torch.tensor([0, 0])
    # Gains 1.5, 1.8, 1, 0.5 and 0.3, 0.2, 0.8, 0.5.

    def perturb(pixels, **mask):
        return few_pixels(model, x, y, pixels, valid_range=(0, 1), **mask).flatten().tolist()

    assert perturb(1) == pytest.approx([0.5, 0, 0, 0, 0.9, 0.1, 1, 0])
    assert perturb(2) == pytest.approx([1, 0, 0, 0, 0.9, 0.1, 1, 1])
    mask = torch.tensor([[False, True, True, True]])
    assert perturb(4, mask=mask) == pytest.approx([0.5, 0, 1, 1, 0.9, 0, 1, 1])


@pytest.mark.parametrize('norm', NORMS)
def test_noise_has_its_size_and_depends_on_its_generator_alone(norm):
    x = torch.zeros(500, 4, 3)
    one, same = (noise(x, 0.7, norm=norm, generator=torch.Generator().manual_seed(3))
                 for _ in range(2))
    torch.testing.assert_close(norms(one, norm), torch.full((500,), 0.7))
    assert torch.equal(one, same) and one.mean(0).abs().max() < 0.1


def test_invalid_arguments_raise(classifier):
    model, x, y, _ = classifier
    with pytest.raises(ValueError, match='valid_range is 0 to 0.5, but the input goes from'):
        pgd(model, x, y, 0.1, valid_range=(0, 0.5))
    with pytest.raises(ValueError, match='valid_range is 0 to 1, but the input goes from nan'):
        fgsm(model, x * math.nan, y, 0.1, valid_range=(0, 1))
    for norm in (None, 'inf', 1):
        for attack, settings in ((fgsm, {}), (pgd, {}), (iterated, {'radius': 1.0})):
            with pytest.raises(ValueError, match='norm is .* expected 2 or math.inf$'):
                attack(model, x, y, 0.1, norm=norm, **settings)


def test_the_result_has_no_graph_and_the_weights_no_gradient():
    model = nn.Linear(5, 3)
    x, y = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 1, 2, 0])
    found = [*every_attack(model, x, y, 0.1, 2, valid_range=(-9, 9)),
             few_pixels(model, x, y, 2, valid_range=(-9, 9))]
    assert not any(perturbed.requires_grad for perturbed in found)
    assert model.weight.grad is None and x.grad is None
    with torch.no_grad():  # as in an evaluation loop
        perturbed = pgd(model, x, y, 0.1, 7, norm=2, stop=False)
    assert torch.equal(perturbed, pgd(model, x.detach(), y, 0.1, 7, norm=2, stop=False))


def test_every_attack_computes_on_the_device_of_its_input():
    """On 'meta', an operation that involves a tensor on the CPU fails."""
    model = SmallCNN(1, 10, 4).eval().to('meta')
    x = torch.zeros(3, 1, 8, 8, device='meta')
    y, mask = torch.zeros(3, dtype=torch.long, device='meta'), torch.ones(8, 8, device='meta') > 0
    for norm in NORMS:
        for perturbed in every_attack(model, x, y, 0.1, norm, mask=mask):
            assert perturbed.shape == x.shape and perturbed.device.type == 'meta'


def test_an_empty_batch_and_other_floating_types():
    model = nn.Linear(5, 3)
    x, y = torch.zeros(0, 5), torch.zeros(0, dtype=torch.long)
    for perturbed in every_attack(model, x, y, 0.1, 2, valid_range=(0, 1)):
        assert perturbed.shape == (0, 5)
    for dtype in (torch.float64, torch.bfloat16):
        x, y = torch.full((4, 5), 0.25, dtype=dtype), torch.tensor([0, 1, 2, 0])
        model = nn.Linear(5, 3).to(dtype)
        for perturbed in (*every_attack(model, x, y, 0.1, 2, valid_range=(0.1, 0.3)),
                          few_pixels(model, x, y, 3, valid_range=(0.1, 0.3))):
            assert perturbed.dtype == dtype and perturbed.max() <= torch.tensor(0.3, dtype=dtype)


def test_the_default_step_size_reaches_the_other_side_of_the_ball():
    """2.5 epsilon / steps, from wherever it starts (Madry et al.)."""
    _, model = linear_model()
    x, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    default = pgd(model, x, y, 1.0, 10, norm=2, stop=False)
    assert torch.equal(default, pgd(model, x, y, 1.0, 10, 0.25, norm=2, stop=False))
    assert (norms(pgd(model, x, y, 1.0, 10, 1e9, norm=2, stop=False) - x, 2) > 0.99).all()


def test_a_random_start_moves_only_correct_samples():
    _, model = linear_model()
    x = torch.randn(8, 5)
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 3
    perturbed = pgd(model, x, y, 0.1, 0, norm=2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(perturbed[:4], x[:4]) and (norms(perturbed - x, 2)[4:] > 0).all()


@pytest.mark.parametrize('norm', NORMS)
def test_foolbox_agrees(norm):
    foolbox = pytest.importorskip('foolbox')
    torch.manual_seed(0)
    model = SmallCNN(1, 10, 4).eval()
    x = torch.rand(20, 1, 8, 8)
    y = model(x).argmax(1)
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1), device='cpu')
    names = {2: ('FGM', 'L2PGD'), math.inf: ('FGSM', 'LinfPGD')}
    one, many = (getattr(foolbox.attacks, name) for name in names[norm])
    expected, _, _ = one(random_start=False)(theirs, x, y, epsilons=0.1)
    perturbed = fgsm(model, x, y, 0.1, norm=norm, valid_range=(0, 1))
    torch.testing.assert_close(perturbed, expected, atol=1e-5, rtol=0)
    expected, _, _ = many(abs_stepsize=0.02, steps=15, random_start=False)(theirs, x, y,
                                                                           epsilons=0.1)
    perturbed = pgd(model, x, y, 0.1, 15, 0.02, norm=norm, valid_range=(0, 1), stop=False)
    torch.testing.assert_close(perturbed, expected, atol=1e-5, rtol=0)
    assert (norms(perturbed - x, norm) > 0.05).all()
