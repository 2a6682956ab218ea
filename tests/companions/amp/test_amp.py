"""AMP perturbs, restores and steps as Algorithm 1 says."""

import copy
import io
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companions.amp.amp import AMP

OPTIMIZERS = [(torch.optim.SGD, {'momentum': 0.9, 'weight_decay': 0.1}),
              (torch.optim.Adam, {'weight_decay': 0.1})]


def network(seed=0, batch_norm=False):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), *([nn.BatchNorm1d(8)] if batch_norm else []), nn.Tanh(),
                         nn.Linear(8, 3))


def closure_of(model, optimizer, x, y, seen=None):
    """The usual closure; it appends the weights it finds to `seen`."""
    def closure():
        if seen is not None:
            seen.append([p.detach().clone() for p in model.parameters()])
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss
    return closure


def batch(k):
    generator = torch.Generator().manual_seed(k)
    return torch.randn(16, 4, generator=generator), torch.randint(3, (16,), generator=generator)


def equal(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize('base, settings', OPTIMIZERS)
def test_without_epsilon_it_is_the_base_optimizer(base, settings):
    a, b = network(), network()
    ours = AMP(a.parameters(), 0.1, epsilon=0, base_optimizer=base, **settings)
    theirs = base(b.parameters(), 0.1, **settings)
    for k in range(4):
        assert torch.equal(ours.step(closure_of(a, ours, *batch(k))),
                           theirs.step(closure_of(b, theirs, *batch(k))))
    assert equal(a, b)


@pytest.mark.parametrize('base, settings', OPTIMIZERS)
def test_one_ascent_to_the_sphere_is_sam(base, settings):
    """Against SAM as its paper states it (Foret et al., equations 2 and 3), written out here."""
    a, b = network(), network()
    ours = AMP(a.parameters(), 0.1, epsilon=0.3, inner_lr=math.inf, base_optimizer=base, **settings)
    theirs = base(b.parameters(), 0.1, **settings)
    for k in range(4):
        x, y = batch(k)
        ours.step(closure_of(a, ours, x, y))
        weights = list(b.parameters())
        g = torch.autograd.grad(F.cross_entropy(b(x), y), weights)
        norm = math.sqrt(sum(v.square().sum() for v in g))
        at = {name: p + 0.3 * v / norm for (name, p), v in zip(b.named_parameters(), g)}
        loss = F.cross_entropy(torch.func.functional_call(b, at, x), y)
        for p, v in zip(weights, torch.autograd.grad(loss, weights)):
            p.grad = v
        theirs.step()
    for p, q in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-5)


def test_an_infinite_inner_lr_is_the_limit_of_large_ones():
    perturbed = []
    for inner_lr in (1e9, math.inf, 'inf'):  # JSON has no infinity
        model, seen = network(), []
        optimizer = AMP(model.parameters(), 0.1, epsilon=0.3, inner_lr=inner_lr)
        optimizer.step(closure_of(model, optimizer, *batch(0), seen))
        perturbed.append(seen[1])
    for p, q, same in zip(*perturbed):
        torch.testing.assert_close(p, q)
        assert torch.equal(q, same)


def test_algorithm_1_by_hand():
    """Two steps of three ascents on a quadratic: some stay in the ball, some are projected."""
    A, theta = torch.tensor([1.0, 4.0]), nn.Parameter(torch.tensor([1.0, 0.2]))
    expected = np.array([1.0, 0.2])
    optimizer = AMP([theta], lr=0.1, epsilon=1.2, inner_lr=0.5, inner_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = (A * theta * theta).sum() / 2
        loss.backward()
        return loss

    projected = []
    for _ in range(2):
        value = optimizer.step(closure)
        assert value.item() == pytest.approx((A.numpy() * expected ** 2).sum() / 2)
        delta = np.zeros(2)
        for _ in range(3):
            delta = delta + 0.5 * A.numpy() * (expected + delta)
            norm = np.linalg.norm(delta)
            projected.append(norm > 1.2)
            delta = 1.2 * delta / norm if norm > 1.2 else delta
        expected = expected - 0.1 * A.numpy() * (expected + delta)
    assert theta.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert {*projected} == {True, False}


@pytest.mark.parametrize('inner_lr', [0.05, 100.0, math.inf])
@pytest.mark.parametrize('per_tensor', [False, True])
def test_the_ball_holds_all_parameters_together_or_each_alone(inner_lr, per_tensor):
    model, seen = network(), []
    groups = [{'params': model[0].parameters()}, {'params': model[2].parameters(), 'lr': 1.0}]
    optimizer = AMP(groups, 0.1, epsilon=0.3, inner_lr=inner_lr, inner_iter=3,
                    per_tensor=per_tensor)
    optimizer.step(closure_of(model, optimizer, *batch(0), seen))
    moved = torch.stack([torch.stack([(p - q).norm() for p, q in zip(weights, seen[0])])
                         for weights in seen[1:]])
    assert len(moved) == 3
    sizes = moved if per_tensor else moved.norm(dim=1)
    assert (sizes <= 0.3 * (1 + 1e-5)).all() and (sizes > 0).all()
    if inner_lr > 1:
        torch.testing.assert_close(sizes, torch.full_like(sizes, 0.3))


@pytest.mark.parametrize('scale, inner_lr', [(1e-25, math.inf), (1e-4, math.inf), (1e20, math.inf),
                                             (1e-25, 1e30), (1e20, 10)])
def test_the_ball_holds_for_gradients_of_any_size(scale, inner_lr):
    a, b, seen = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3)), []
    optimizer = AMP([a, b], 1.0, epsilon=0.5, inner_lr=inner_lr)

    def closure():
        seen.append(torch.cat([a.detach(), b.detach()]))
        optimizer.zero_grad()
        loss = scale * (3 * a.sum() + 4 * b.sum())
        loss.backward()
        return loss

    optimizer.step(closure)
    assert seen[1].norm() == pytest.approx(0.5)
    assert seen[1][2] / seen[1][0] == pytest.approx(4 / 3)


def test_weights_are_restored_bit_for_bit():
    model, seen, at_step = network(), [], []
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = AMP(model.parameters(), 0.1, epsilon=0.3, inner_lr=math.inf, inner_iter=2)
    optimizer.base_optimizer.register_step_pre_hook(
        lambda *_: at_step.extend(p.detach().clone() for p in model.parameters()))
    optimizer.step(closure_of(model, optimizer, *batch(0), seen))
    assert all(map(torch.equal, before, at_step)) and not torch.equal(seen[1][0], before[0])


def test_weights_are_restored_if_the_closure_fails():
    model = network(batch_norm=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = AMP(model.parameters(), 0.1, epsilon=0.3, model=model)
    calls, working = [], closure_of(model, optimizer, *batch(0))

    def failing():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError('out of memory')
        return working()

    with pytest.raises(RuntimeError, match='out of memory'):
        optimizer.step(failing)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert model[1].track_running_stats


def test_batch_norm_statistics_follow_the_unperturbed_pass_once_per_step():
    model, reference = network(batch_norm=True), network(batch_norm=True)
    optimizer = AMP(model.parameters(), 0.1, epsilon=0.5, inner_lr=math.inf, inner_iter=3,
                    model=model)
    for k in range(3):
        reference.load_state_dict({**reference.state_dict(), **dict(model.named_parameters())})
        reference(batch(k)[0])
        optimizer.step(closure_of(model, optimizer, *batch(k)))
        assert model[1].num_batches_tracked == k + 1
        assert torch.equal(model[1].running_mean, reference[1].running_mean)
        assert torch.equal(model[1].running_var, reference[1].running_var)


@pytest.mark.parametrize('base, settings', OPTIMIZERS)
def test_saved_and_loaded_it_continues_as_if_uninterrupted(base, settings):
    model = network()
    groups = [{'params': model[0].parameters(), 'lr': 0.2}, {'params': model[2].parameters()}]
    optimizer = AMP(groups, 0.1, epsilon=0.3, inner_lr=2.0, inner_iter=2, base_optimizer=base,
                    **settings)
    for k in range(3):
        optimizer.step(closure_of(model, optimizer, *batch(k)))
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], buffer)
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)
    again = network(1)
    again.load_state_dict(weights)
    groups = [{'params': again[0].parameters()}, {'params': again[2].parameters()}]
    loaded = AMP(groups, 0.7, base_optimizer=base, **settings)
    loaded.load_state_dict(state)
    assert [group['lr'] for group in loaded.param_groups] == [0.2, 0.1]
    for k in range(3, 6):
        optimizer.step(closure_of(model, optimizer, *batch(k)))
        loaded.step(closure_of(again, loaded, *batch(k)))
    assert equal(model, again)
    assert loaded.state_dict()['amp'] == optimizer.state_dict()['amp']


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_continues_like_the_original(copied):
    model = network()
    optimizer = AMP(model.parameters(), 0.1, epsilon=0.3, base_optimizer=torch.optim.Adam)
    optimizer.step(closure_of(model, optimizer, *batch(0)))
    again, other = copied((model, optimizer))
    for m, o in ((model, optimizer), (again, other)):
        o.step(closure_of(m, o, *batch(1)))
        assert o.state is o.base_optimizer.state
        assert o.param_groups is o.base_optimizer.param_groups
    assert equal(model, again)


def test_groups_and_schedules_reach_the_base_optimizer():
    model = network()
    optimizer = AMP(model[0].parameters(), 0.1, epsilon=0.3)
    optimizer.add_param_group({'params': model[2].parameters(), 'lr': 0.0})
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(closure_of(model, optimizer, *batch(0)))
    schedule.step()
    assert [group['lr'] for group in optimizer.base_optimizer.param_groups] == [0.05, 0.0]
    same = [torch.equal(p, q) for p, q in zip(model.parameters(), before)]
    assert same == [False, False, True, True]


def test_a_parameter_without_a_gradient_and_a_gradient_of_zero_are_left_alone():
    used, unused = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    optimizer = AMP([used, unused], 0.1, epsilon=0.5, inner_lr=math.inf)

    def closure():
        optimizer.zero_grad()
        loss = used.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert torch.equal(used, torch.zeros(2)) and torch.equal(unused, torch.ones(2))


def test_a_parameter_may_lose_its_gradient_during_a_step():
    always, sometimes, calls = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), []
    optimizer = AMP([always, sometimes], 0.1, epsilon=0.5, inner_iter=3)

    def closure():
        calls.append(1)
        optimizer.zero_grad()
        loss = always.sum() + (sometimes.sum() if len(calls) == 1 else 0)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert len(calls) == 4 and torch.equal(sometimes, torch.ones(2))


@pytest.mark.parametrize('arguments, words', [
    ({'epsilon': -1}, 'epsilon is -1'), ({'epsilon': math.inf}, 'epsilon is inf'),
    ({'inner_lr': 0}, 'inner_lr is 0'), ({'inner_iter': 0}, 'inner_iter is 0'),
    ({'inner_iter': 1.5}, 'inner_iter is 1.5')])
def test_settings_out_of_range_are_rejected(arguments, words):
    with pytest.raises(ValueError, match=words):
        AMP(network().parameters(), 0.1, **arguments)


def test_misuse_is_one_sentence():
    with pytest.raises(ValueError, match='epsilon: not an option of a parameter group'):
        AMP([{'params': network().parameters(), 'epsilon': 1.0}], 0.1)
    optimizer = AMP(network().parameters(), 0.1)
    with pytest.raises(ValueError, match='needs a closure'):
        optimizer.step()
    with pytest.raises(ValueError, match='expected the state of an AMP'):
        optimizer.load_state_dict(optimizer.base_optimizer.state_dict())
