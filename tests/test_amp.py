"""AMP perturbs, restores and steps as Algorithm 1 says; its jobs train and compare what they say.

    python -m pytest tests/test_amp.py
"""

import argparse
import copy
import io
import math
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'companions'))

import amp  # noqa: E402
import images  # noqa: E402
from amp import AMP  # noqa: E402
from Classifier import LSTMClassifier  # noqa: E402
from load_data import load_data  # noqa: E402
from training import OPTIMISER, train_model  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')
OPTIMIZERS = [(torch.optim.SGD, {'momentum': 0.9, 'weight_decay': 0.1}), (torch.optim.Adam, {'weight_decay': 0.1})]


def network(seed=0, batch_norm=False):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), *([nn.BatchNorm1d(8)] if batch_norm else []), nn.Tanh(), nn.Linear(8, 3))


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
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def distances(seen):
    """Of each tensor, from the first weights seen to the later ones."""
    return [torch.stack([(p - q).norm() for p, q in zip(weights, seen[0])]) for weights in seen[1:]]


@pytest.mark.parametrize('base, settings', OPTIMIZERS)
def test_without_epsilon_it_is_the_base_optimizer(base, settings):
    a, b = network(), network()
    ours, theirs = AMP(a.parameters(), 0.1, epsilon=0, base_optimizer=base, **settings), base(b.parameters(), 0.1, **settings)
    for k in range(4):
        assert torch.equal(ours.step(closure_of(a, ours, *batch(k))), theirs.step(closure_of(b, theirs, *batch(k))))
    assert equal(a, b)


@pytest.mark.parametrize('base, settings', OPTIMIZERS)
def test_one_ascent_to_the_sphere_is_sam(base, settings):
    """Against SAM as its paper states it (Foret et al., equations 2 and 3), written here on its own."""
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
    model = network()
    huge = AMP(model.parameters(), 0.1, epsilon=0.3, inner_lr=1e9)
    first, limit = [], []
    huge.step(closure_of(model, huge, *batch(0), first))
    model = network()
    infinite = AMP(model.parameters(), 0.1, epsilon=0.3, inner_lr=math.inf)
    infinite.step(closure_of(model, infinite, *batch(0), limit))
    for p, q in zip(first[1], limit[1]):
        torch.testing.assert_close(p, q)


def test_algorithm_1_by_hand():
    """Two steps of three ascents on a quadratic, of which some stay within the ball and some are brought back."""
    A, theta, expected = torch.tensor([1.0, 4.0]), nn.Parameter(torch.tensor([1.0, 0.2])), np.array([1.0, 0.2])
    optimizer = AMP([theta], lr=0.1, epsilon=1.2, inner_lr=0.5, inner_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = (A * theta * theta).sum() / 2
        loss.backward()
        return loss

    clipped = []
    for _ in range(2):
        value = optimizer.step(closure)
        assert value.item() == pytest.approx((A.numpy() * expected ** 2).sum() / 2)
        delta = np.zeros(2)
        for _ in range(3):
            delta = delta + 0.5 * A.numpy() * (expected + delta)
            norm = np.linalg.norm(delta)
            clipped.append(norm > 1.2)
            delta = 1.2 * delta / norm if norm > 1.2 else delta
        expected = expected - 0.1 * A.numpy() * (expected + delta)
    assert theta.tolist() == pytest.approx(expected.tolist(), rel=1e-5) and {*clipped} == {True, False}


@pytest.mark.parametrize('inner_lr', [0.05, 100.0, math.inf])
def test_the_ball_is_taken_over_all_parameters_together_or_each_alone(inner_lr):
    for per_tensor in (False, True):
        model, seen = network(), []
        optimizer = AMP([{'params': model[0].parameters()}, {'params': model[2].parameters(), 'lr': 1.0}], 0.1, epsilon=0.3,
                        inner_lr=inner_lr, inner_iter=3, per_tensor=per_tensor)
        optimizer.step(closure_of(model, optimizer, *batch(0), seen))
        moved = distances(seen)
        assert len(moved) == 3
        sizes = torch.stack(moved) if per_tensor else torch.stack([m.norm() for m in moved])
        assert (sizes <= 0.3 * (1 + 1e-5)).all() and (sizes > 0).all()
        if inner_lr > 1:
            torch.testing.assert_close(sizes, torch.full_like(sizes, 0.3))


def test_weights_are_restored_bit_for_bit_even_if_the_closure_fails():
    model, seen = network(), []
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = AMP(model.parameters(), 0.1, epsilon=0.3, inner_lr=math.inf, inner_iter=2, model=model)
    at_step = []
    optimizer.base_optimizer.register_step_pre_hook(lambda *_: at_step.extend(p.detach().clone() for p in model.parameters()))
    optimizer.step(closure_of(model, optimizer, *batch(0), seen))
    assert all(map(torch.equal, before, at_step)) and not torch.equal(seen[1][0], before[0])

    model = network(batch_norm=True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = AMP(model.parameters(), 0.1, epsilon=0.3, model=model)
    seen, working = [], closure_of(model, optimizer, *batch(0))

    def failing():
        seen.append(1)
        if len(seen) == 2:
            raise RuntimeError('out of memory')
        return working()

    with pytest.raises(RuntimeError, match='out of memory'):
        optimizer.step(failing)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert model[1].track_running_stats


def test_batch_norm_statistics_follow_the_unperturbed_pass_once_a_step():
    model, reference = network(batch_norm=True), network(batch_norm=True)
    optimizer = AMP(model.parameters(), 0.1, epsilon=0.5, inner_lr=math.inf, inner_iter=3, model=model)
    for k in range(3):
        reference.load_state_dict({**reference.state_dict(), **dict(model.named_parameters())})
        reference(batch(k)[0])
        optimizer.step(closure_of(model, optimizer, *batch(k)))
        assert model[1].num_batches_tracked == k + 1
        assert torch.equal(model[1].running_mean, reference[1].running_mean)
        assert torch.equal(model[1].running_var, reference[1].running_var)


@pytest.mark.parametrize('base, settings', OPTIMIZERS)
def test_saved_and_loaded_it_goes_on_as_if_nothing_had_happened(base, settings):
    def make(model):
        groups = [{'params': model[0].parameters(), 'lr': 0.2}, {'params': model[2].parameters()}]
        return AMP(groups, 0.1, epsilon=0.3, inner_lr=2.0, inner_iter=2, base_optimizer=base, **settings)

    model = network()
    optimizer = make(model)
    for k in range(3):
        optimizer.step(closure_of(model, optimizer, *batch(k)))
    buffer = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], buffer)
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)
    again = network(1)
    again.load_state_dict(weights)
    loaded = AMP([{'params': again[0].parameters()}, {'params': again[2].parameters()}], 0.7, base_optimizer=base, **settings)
    loaded.load_state_dict(state)
    assert [group['lr'] for group in loaded.param_groups] == [0.2, 0.1]
    for k in range(3, 6):
        optimizer.step(closure_of(model, optimizer, *batch(k)))
        loaded.step(closure_of(again, loaded, *batch(k)))
    assert equal(model, again) and loaded.state_dict()['amp'] == optimizer.state_dict()['amp']


def test_groups_and_schedules_reach_the_base_optimizer():
    model = network()
    optimizer = AMP(model[0].parameters(), 0.1, epsilon=0.3)
    optimizer.add_param_group({'params': model[2].parameters(), 'lr': 0.0})
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.step(closure_of(model, optimizer, *batch(0)))
    schedule.step()
    assert [group['lr'] for group in optimizer.base_optimizer.param_groups] == [0.05, 0.0]
    assert [torch.equal(p, q) for p, q in zip(model.parameters(), before)] == [False, False, True, True]


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


@pytest.mark.parametrize('arguments, words', [
    ({'epsilon': -1}, 'epsilon is -1'), ({'epsilon': math.inf}, 'epsilon is inf'), ({'inner_lr': 0}, 'inner_lr is 0'),
    ({'inner_iter': 0}, 'inner_iter is 0'), ({'inner_iter': 1.5}, 'inner_iter is 1.5')])
def test_settings_out_of_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        AMP(network().parameters(), 0.1, **arguments)


def test_a_group_cannot_have_a_ball_of_its_own_nor_a_step_be_without_closure():
    with pytest.raises(ValueError, match='epsilon: the same for all parameter groups'):
        AMP([{'params': network().parameters(), 'epsilon': 1.0}], 0.1)
    with pytest.raises(ValueError, match='needs a closure'):
        AMP(network().parameters(), 0.1).step()


# ---------------------------------------------------------------------------------------------- the jobs

def test_plain_training_is_that_of_the_main_run():
    """Bit for bit: so the comparison's control is the ProxLSTM's own."""
    train, _ = load_data()
    torch.manual_seed(3)
    model = LSTMClassifier()
    base = {'arguments': {}, 'state_dict': {key: value.clone() for key, value in model.state_dict().items()}}
    found = amp.train_sequence_classifier(base, {'epsilon': 0.0}, 3, train[:3], 2, train[:1])
    optimizer = torch.optim.Adam(model.parameters(), **OPTIMISER['ProxLSTM'])
    for _ in range(2):
        train_model(model, train[:3], optimizer, 'ProxLSTM', 0.0)
    assert all(torch.equal(found['state_dict'][key], value) for key, value in model.state_dict().items())
    assert len(found['history']) == 2
    other = amp.train_sequence_classifier(base, {'epsilon': 0.5, 'inner_lr': math.inf}, 3, train[:3], 2)
    assert not torch.equal(other['state_dict']['conv.weight'], model.conv.weight)


def test_only_the_gradient_that_moves_the_weights_is_clipped(monkeypatch):
    """An ascent along a clipped gradient would have another direction."""
    train, _ = load_data()
    seen = []

    class Recorded(AMP):
        def _ascended(self, delta, gradients):
            seen.append(max(g.abs().max().item() for g in gradients))
            return super()._ascended(delta, gradients)

    monkeypatch.setattr(amp, 'AMP', Recorded)
    torch.manual_seed(0)
    model = LSTMClassifier()
    for p in model.parameters():
        p.data *= 5
    amp.train_sequence_classifier({'arguments': {}, 'state_dict': model.state_dict()}, {'epsilon': 0.1}, 0, train[:2], 1)
    assert max(seen) > 0.1


@pytest.mark.parametrize('scale, inner_lr', [(1e-25, math.inf), (1e-4, math.inf), (1e20, math.inf), (1e-25, 1e30), (1e20, 10)])
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
    assert seen[1].norm() == pytest.approx(0.5) and seen[1][2] / seen[1][0] == pytest.approx(4 / 3)


def test_a_parameter_may_lose_its_gradient_on_the_way():
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


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_goes_on_as_the_original(copied):
    model = network()
    optimizer = AMP(model.parameters(), 0.1, epsilon=0.3, base_optimizer=torch.optim.Adam)
    optimizer.step(closure_of(model, optimizer, *batch(0)))
    again, other = copied((model, optimizer))
    for m, o in ((model, optimizer), (again, other)):
        o.step(closure_of(m, o, *batch(1)))
    assert equal(model, again)
    with pytest.raises(ValueError, match='expected a state of AMP'):
        optimizer.load_state_dict(optimizer.base_optimizer.state_dict())


def test_each_seed_goes_on_from_its_own_base_and_from_no_other(tmp_path, monkeypatch):
    (tmp_path / 'checkpoints' / 'companions').mkdir(parents=True)
    args = argparse.Namespace(output_dir=tmp_path, jobs=1, seeds=2)
    monkeypatch.setattr(amp, 'train_sequence_classifier', lambda base, **_: {'arguments': {}, 'history': [], **base})

    def models(*values):
        bases = {('base', seed): {'state_dict': {'x': torch.tensor(value)}} for seed, value in enumerate(values)}
        made = amp.amp_models(args, bases, ('AMP',), epochs=1)
        return [made['AMP', seed]['state_dict']['x'].item() for seed in (0, 1)]

    assert models(5, 6) == [5, 6] and models(5, 7) == [5, 7]


def compared(method, seed, accuracy, loss):
    return {'job': 'sequences', 'method': method, 'seed': seed, 'history': [0.1] * 5 + [accuracy] * 10, 'loss': loss,
            'loss_around': [2 * loss] * len(amp.RADII)}


def test_the_comparison_is_paired_by_seed_and_its_losses_are_medians():
    records = [compared('plain', 0, 0.9, 1.0), compared('plain', 1, 0.8, 2.0), compared('plain', 2, 0.7, 9.0),
               compared('AMP', 2, 0.71, 3.0), compared('AMP', 1, 0.82, 1.0), compared('AMP', 0, 0.93, 1.0),
               *(compared('SAM', seed, 0.5, 1.0) for seed in (0, 1, 2))]
    table = amp.comparison_table(records, 'sequences')
    assert '| plain | 80.0 ± 10.0 |  | 80.0 ± 10.0 |  | 2.000 | 4.000 |' in table
    assert '| AMP | 82.0 ± 11.0 | +2.0 ± 1.0 | 82.0 ± 11.0 | +2.0 ± 1.0 | 1.000 | 2.000 |' in table


def test_the_search_is_paired_by_fold():
    records = [{'job': 'digits', 'epsilon': epsilon, 'inner_lr': zeta, 'fold': fold, 'accuracy': accuracy}
               for epsilon, zeta, values in ((0.0, None, (0.9, 0.8, 0.7)), (0.1, 'inf', (0.93, 0.82, 0.71)))
               for fold, accuracy in enumerate(values)]
    table = amp.tuning_table(records[:3] + records[:2:-1], 'digits')
    assert '| SAM | 0.1 | ∞ | 82.0 ± 11.0 | +2.00 ± 0.58 |' in table


def test_images_count_if_right_before_and_after_the_attack(monkeypatch):
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return torch.cat([1 - x.flatten(1)[:, :1], x.flatten(1)[:, :1]], 1) + self.w

    x, y = torch.tensor([0.0, 0.0, 1.0, 1.0])[:, None, None, None], torch.tensor([0, 1, 1, 0])
    monkeypatch.setattr(images, 'load', lambda *_: images.Images('digits', x, y, x, y))
    monkeypatch.setattr(images, 'fit', lambda *_, **__: Constant())
    monkeypatch.setattr(amp, 'pgd', lambda model, x, *_, **__: 1 - x)  # makes the wrong ones right
    record = amp.train_on_images(('digits', None), 'plain', 0, 1, 1)
    assert record['accuracy'] == 0.5 and record['attacked'] == 0


def test_the_loss_around_the_weights():
    w = nn.Linear(2, 1, bias=False)
    w.weight.data = torch.tensor([[3.0, 4.0]])
    found = amp.loss_around(w, lambda: w.weight.square().sum())  # its gradient points outwards
    assert found['loss'] == pytest.approx(25) and found['loss_around'] == pytest.approx([(5 + r) ** 2 for r in amp.RADII])
    assert w.weight.tolist() == [[3.0, 4.0]]
    assert amp.loss_around(w, lambda: 0 * w.weight.sum())['loss_around'] == [0.0] * len(amp.RADII)


def test_held_out_images_are_not_trained_on(monkeypatch):
    x = torch.arange(20.0)[:, None, None, None]
    data = images.Images('digits', x, torch.arange(20) % 2, x, torch.arange(20) % 2)
    held_out = np.arange(20) % 5 == 0

    def fit(part, *_, **__):
        assert part.train.flatten().tolist() == [k for k in range(20) if k % 5] and len(part.train_labels) == 16
        return None

    monkeypatch.setattr(images, 'fit', fit)
    monkeypatch.setattr(images, 'accuracy', lambda _, x, labels: x.flatten().tolist() == [0, 5, 10, 15] and labels.tolist())
    monkeypatch.setattr(images, 'load', lambda *_: data)
    assert amp.validate_images(('digits', None), held_out, 0, {}, 1, 4) == [0, 1, 0, 1]


def program(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['amp.py', *map(str, arguments)])
    amp.main()


@pytest.mark.parametrize('given, words', [
    (['images', '--gtsrb', 'nowhere'], 'nowhere: no images, expected'),
    (['sequences', '--tune', '--folds', '31'], '--folds is 31, but the smallest class has 30'), (['--folds', '1'], 'argument --folds'),
    (['sequences', '--gtsrb', 'x'], 'argument --gtsrb'), (['--cifar10', 'a', '--gtsrb', 'b'], 'not allowed with')])
def test_bad_input_is_one_sentence(given, words, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        program(monkeypatch, *given)
    assert end.value.code == 2 and words in capsys.readouterr().err
