"""The attacks move what they may, as far as they may, in the right direction; the jobs count what they say.

    python -m pytest tests/test_attacks.py
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'companions'))

import attacks  # noqa: E402
import common  # noqa: E402
import images  # noqa: E402
from attacks import few_pixels, fgsm, iterated, noise, one_shot, pgd, size  # noqa: E402
from Classifier import LSTMClassifier  # noqa: E402
from load_data import load_data  # noqa: E402
from runs import Runs  # noqa: E402
from training import eval_model, get_args, hyperparameters, model_arguments, run_name  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')
NORMS = 2, math.inf


@pytest.fixture
def classifier():
    """(model, x [B, T, F], labels as it gives them, mask): a recurrent classifier that also reads its padding."""
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
    yield fgsm(model, x, y, epsilon, norm=norm, **limits)
    yield one_shot(model, x, epsilon, norm=norm, **limits)
    yield iterated(model, x, y, epsilon / 2, 7, radius=epsilon, norm=norm, stop=False, **limits)
    yield pgd(model, x, y, epsilon, 7, norm=norm, stop=False, **limits)
    yield pgd(model, x, y, epsilon, 7, norm=norm, generator=torch.Generator().manual_seed(0), **limits)
    yield pgd(model, x, y, epsilon, 0, 1, norm=norm, generator=torch.Generator().manual_seed(0), stop=False, **limits)
    yield noise(x, epsilon, norm=norm, generator=torch.Generator().manual_seed(0), **limits)


@pytest.mark.parametrize('norm', [2, math.inf, None])
def test_the_first_step_of_the_iterated_attack_is_the_one_shot_attack(classifier, norm):
    model, x, y, mask = classifier
    a = one_shot(model, x, 0.1, norm=norm, mask=mask, valid_range=(0, 1))
    assert torch.equal(iterated(model, x, y, 0.1, 1, norm=norm, mask=mask, valid_range=(0, 1)), a) and not torch.equal(a, x)


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('epsilon', [0.01, 0.3])
def test_nothing_leaves_the_ball_the_range_or_the_mask(classifier, norm, epsilon):
    model, x, y, mask = classifier
    x = torch.where(mask, x, -7)  # padding that is out of the range stays what it is, too
    for changed in every_attack(model, x, y, epsilon, norm, mask=mask, valid_range=(0, 1)):
        assert (size(changed - x, norm) <= epsilon * (1 + 1e-5)).all() and not torch.equal(changed, x)
        assert torch.equal(changed[~mask.expand_as(x)], x[~mask.expand_as(x)])
        assert changed[mask.expand_as(x)].min() >= 0 and changed.max() <= 1
    for changed in every_attack(model, x, y, epsilon, norm, mask=mask):
        assert (size(changed - x, norm) <= epsilon * (1 + 1e-5)).all()
    assert size(pgd(model, x, y, epsilon, 7, norm=norm, mask=mask, stop=False) - x, norm) == pytest.approx(epsilon, rel=1e-4)


@pytest.mark.parametrize('norm', NORMS)
def test_without_epsilon_nothing_moves(classifier, norm):
    model, x, y, mask = classifier
    for changed in every_attack(model, x, y, 0.0, norm, mask=mask):
        assert torch.equal(changed, x)
    assert torch.equal(few_pixels(model, x, y, 0, valid_range=(0, 1)), x)
    assert torch.equal(one_shot(model, x, 0.0), x)


def linear_model(scale=1.0):
    torch.manual_seed(1)
    W = scale * torch.randn(3, 5)
    return W, lambda x: x @ W.T


def test_the_directions_are_those_of_the_gradients_by_hand():
    W, model = linear_model()
    x = torch.randn(4, 5)
    y, p = torch.tensor([0, 1, 2, 0]), model(x).softmax(1)
    away = (p - F.one_hot(y, 3)) @ W  # gradient of the loss of the true class
    torch.testing.assert_close(fgsm(model, x, y, 0.1), x + 0.1 * away.sign())
    torch.testing.assert_close(fgsm(model, x, y, 0.1, norm=2), x + 0.1 * away / away.norm(dim=1, keepdim=True))
    towards = (p - F.one_hot(p.argmin(1), 3)) @ W
    torch.testing.assert_close(one_shot(model, x, 0.1), x - 0.1 * towards)
    torch.testing.assert_close(one_shot(model, x, 0.1, norm=math.inf), x - 0.1 * towards.sign())


def test_the_iterated_attack_keeps_its_class_unless_told_to_look_it_up_anew():
    _, model = linear_model()
    torch.manual_seed(2)
    x = torch.randn(8, 5)
    target, y = model(x).argmin(1), model(x).argmax(1)
    found = {}
    for retarget in (False, True):
        z = x
        for _ in range(6):
            z = z.detach().requires_grad_()
            F.cross_entropy(model(z), model(z).argmin(1) if retarget else target, reduction='sum').backward()
            z = z - 0.5 * z.grad
        found[retarget] = z.detach()
        torch.testing.assert_close(iterated(model, x, y, 0.5, 6, stop=False, retarget=retarget), found[retarget])
    assert not torch.allclose(found[False], found[True], atol=0.1)
    assert (model(found[False]).argmax(1) == target).all() and not (model(found[True]).argmax(1) == target).all()


@pytest.mark.parametrize('attack', [lambda m, x, y, n: pgd(m, x, y, 2.0, n, 0.1, norm=2),
                                    lambda m, x, y, n: iterated(m, x, y, 0.1, n, norm=2)])
def test_each_sample_stops_on_its_own(attack):
    W, model = linear_model()
    torch.manual_seed(2)
    x = torch.randn(8, 5)
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 3  # never right: not moved
    changed = attack(model, x, y, 40)
    moved = size(changed - x, 2)
    assert moved[0] == 0 and (model(changed).argmax(1) != y).all()
    steps = (moved / 0.1).round()
    assert len(steps.unique()) > 3
    for i in range(1, 8):  # as if it were alone, and a step before it still stood
        alone = attack(model, x[i:i + 1], y[i:i + 1], 40)
        torch.testing.assert_close(alone[0], changed[i])
        assert model(attack(model, x[i:i + 1], y[i:i + 1], int(steps[i]) - 1)).argmax(1) == y[i]


def test_a_confident_model_is_no_refuge():
    W, model = linear_model(scale=8)  # margins of 20 to 50: in float32 p of the true class is 1, its gradient not there
    torch.manual_seed(2)
    x = torch.randn(50, 5)
    y = model(x).argmax(1)
    top = model(x).topk(2, dim=1).values
    margin = top[:, 0] - top[:, 1]
    confident = (margin > 18) & (margin < 28)
    x, y = x[confident], y[confident]
    assert len(x) > 5
    away = fgsm(model, x, y, 1.0, norm=2) - x
    assert ((model(x).softmax(1).amax(1)) == 1).all()
    logits = x.double() @ W.double().T
    g = (logits.softmax(1) - F.one_hot(y, 3)) @ W.double()
    torch.testing.assert_close(away.double(), F.normalize(g, dim=1), atol=1e-3, rtol=0)


def test_few_pixels_change_the_most_promising_ones():
    W = torch.tensor([[0.0, 0, 0, 0], [3, -2, 1, 0.5]])
    x = torch.tensor([[0.5, 0.9, 0.0, 0.0], [0.9, 0.1, 0.2, 0.0]])

    def model(x):
        return torch.cat([torch.full((len(x), 1), 9.0), x @ W[1:].T], 1)

    y = torch.tensor([0, 0])
    # Promises 1.5, 1.8, 1, 0.5 and 0.3, 0.2, 0.8, 0.5.
    def changed(pixels, **mask):
        return few_pixels(model, x, y, pixels, valid_range=(0, 1), **mask).flatten().tolist()

    assert changed(1) == pytest.approx([0.5, 0, 0, 0, 0.9, 0.1, 1, 0])
    assert changed(2) == pytest.approx([1, 0, 0, 0, 0.9, 0.1, 1, 1])
    assert changed(4, mask=torch.tensor([[False, True, True, True]])) == pytest.approx([0.5, 0, 1, 1, 0.9, 0, 1, 1])


def test_noise_is_of_its_size_and_of_its_seed():
    x = torch.zeros(500, 4, 3)
    draw = lambda norm: noise(x, 0.7, norm=norm, generator=torch.Generator().manual_seed(3))  # noqa: E731
    for norm in NORMS:
        torch.testing.assert_close(size(draw(norm), norm), torch.full((500,), 0.7))
        assert torch.equal(draw(norm), draw(norm)) and draw(norm).mean(0).abs().max() < 0.1


def test_what_an_attack_cannot_take_is_refused(classifier):
    model, x, y, _ = classifier
    with pytest.raises(ValueError, match='valid_range is 0 to 0.5, but the input goes from'):
        pgd(model, x, y, 0.1, valid_range=(0, 0.5))
    with pytest.raises(ValueError, match='valid_range is 0 to 1, but the input goes from nan'):
        fgsm(model, x * math.nan, y, 0.1, valid_range=(0, 1))
    for attack in (lambda norm: fgsm(model, x, y, 0.1, norm=norm), lambda norm: pgd(model, x, y, 0.1, norm=norm),
                   lambda norm: iterated(model, x, y, 0.1, radius=1.0, norm=norm)):
        for norm in (None, 'inf', 1):
            with pytest.raises(ValueError, match='norm is .* expected 2 or math.inf$'):
                attack(norm)


def test_what_comes_back_is_a_constant_and_the_weights_get_no_gradient():
    model = nn.Linear(5, 3)
    x, y = torch.randn(4, 5, requires_grad=True), torch.tensor([0, 1, 2, 0])
    found = [*every_attack(model, x, y, 0.1, 2, valid_range=(-9, 9)), few_pixels(model, x, y, 2, valid_range=(-9, 9))]
    assert not any(changed.requires_grad for changed in found) and model.weight.grad is None and x.grad is None
    with torch.no_grad():  # as an evaluation loop has it
        assert torch.equal(pgd(model, x, y, 0.1, 7, norm=2, stop=False), pgd(model, x.detach(), y, 0.1, 7, norm=2, stop=False))


def test_an_empty_batch_and_other_floats_pass_through():
    model = nn.Linear(5, 3)
    for changed in every_attack(model, torch.zeros(0, 5), torch.zeros(0, dtype=torch.long), 0.1, 2, valid_range=(0, 1)):
        assert changed.shape == (0, 5)
    for dtype in (torch.float64, torch.bfloat16):
        x, y = torch.full((4, 5), 0.25, dtype=dtype), torch.tensor([0, 1, 2, 0])
        model = nn.Linear(5, 3).to(dtype)
        found = [*every_attack(model, x, y, 0.1, 2, valid_range=(0.1, 0.3)), few_pixels(model, x, y, 3, valid_range=(0.1, 0.3))]
        assert all(changed.dtype == dtype and changed.max() <= torch.tensor(0.3, dtype=dtype) for changed in found)


def test_the_default_step_reaches_past_the_radius():
    """2.5 epsilon / steps, so that the ball's far side is within reach of any start (Madry et al.)."""
    W, model = linear_model()
    x, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    one = pgd(model, x, y, 1.0, 10, 1e9, norm=2, stop=False)
    assert torch.equal(pgd(model, x, y, 1.0, 10, norm=2, stop=False), pgd(model, x, y, 1.0, 10, 0.25, norm=2, stop=False))
    assert (size(one - x, 2) > 0.99).all()


def test_a_random_start_moves_only_what_still_stands():
    W, model = linear_model()
    x = torch.randn(8, 5)
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 3
    changed = pgd(model, x, y, 0.1, 0, norm=2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(changed[:4], x[:4]) and (size(changed - x, 2)[4:] > 0).all()


@pytest.mark.parametrize('norm', NORMS)
def test_foolbox_agrees(norm):
    foolbox = pytest.importorskip('foolbox')
    torch.manual_seed(0)
    model = images.SmallCNN(1, 10, 4).eval()
    x = torch.rand(20, 1, 8, 8)
    y = model(x).argmax(1)
    theirs = foolbox.PyTorchModel(model, bounds=(0, 1), device='cpu')
    names = {2: ('FGM', 'L2PGD'), math.inf: ('FGSM', 'LinfPGD')}
    one, many = (getattr(foolbox.attacks, name) for name in names[norm])
    raw, _, _ = one(random_start=False)(theirs, x, y, epsilons=0.1)
    torch.testing.assert_close(fgsm(model, x, y, 0.1, norm=norm, valid_range=(0, 1)), raw, atol=1e-5, rtol=0)
    raw, _, _ = many(abs_stepsize=0.02, steps=15, random_start=False)(theirs, x, y, epsilons=0.1)
    ours = pgd(model, x, y, 0.1, 15, 0.02, norm=norm, valid_range=(0, 1), stop=False)
    torch.testing.assert_close(ours, raw, atol=1e-5, rtol=0)
    assert (size(ours - x, norm) > 0.05).all()


# ---------------------------------------------------------------------------------------------- the jobs

def checkpoint_of(model, **arguments):
    return {'arguments': arguments, 'state_dict': model.state_dict()}


def test_both_inputs_are_the_classifiers_own():
    """Unattacked, either way of feeding it gives what training.py's evaluation gives; the proximal map takes part."""
    torch.manual_seed(0)
    model = LSTMClassifier(epsilon=5.0)
    nn.init.normal_(model.lstm.weight_ih_l0, std=0.5)
    _, test = load_data(ROOT / 'data' / 'JV_uci.mat', 128)
    x, _, lengths = test[0]
    model.eval()
    expected = {'Prox': model(x, lengths, mode='ProxLSTM', epsilon=5.0), 'Prox control': model(x, lengths)}
    assert not torch.allclose(*expected.values(), atol=1e-3)
    for name, logits in expected.items():
        for on in ('raw', 'normalised'):
            f, given = attacks.classifier(name, checkpoint_of(model, epsilon=5.0), on)
            torch.testing.assert_close(f(given(x), lengths), logits, atol=1e-5, rtol=0)
    f, given = attacks.classifier('base', checkpoint_of(model, epsilon=5.0), 'normalised')
    assert not torch.allclose(f(2 * given(x), lengths), f(given(x), lengths))  # it is not normalised once more
    right = eval_model(model, test)[2].sum().item()
    assert attacks.count(attacks.survivors([(x, y, n) for x, y, n in test], model, lambda f, x, y, mask: x)) == right


def test_the_sequence_job_counts_what_its_attacks_leave():
    torch.manual_seed(0)
    one, other = LSTMClassifier(), LSTMClassifier()
    for model in (one, other):  # large weights: as sure and as touchy as a trained one
        for p in model.parameters():
            p.data *= 4
    records = attacks.attack_sequences('Adv', 3, checkpoint_of(one), checkpoint_of(other), (0.1, attacks.CHECKED, 2.0), 3,
                                       restarts=1, more_steps=3, draws=2)
    found = {(r['input'], r['attack'], r['epsilon']): r['accuracy'] for r in records}
    assert {(r['model'], r['seed']) for r in records} == {('Adv', 3)} and len(found) == len(records) == 2 * 7 + 3
    for on in ('raw', 'normalised'):
        pgd_curve = [found[on, 'none', 0.0], *(found[on, 'PGD', e] for e in (0.1, attacks.CHECKED, 2.0))]
        assert pgd_curve == sorted(pgd_curve, reverse=True) and pgd_curve[-1] < pgd_curve[0]
        assert found[on, 'noise', 2.0] > pgd_curve[-1]
    _, test = load_data(ROOT / 'data' / 'JV_uci.mat', 128)
    left = transfer = 0
    for x, y, lengths in test:
        mask = attacks.valid_steps(x, lengths)
        still = torch.ones(len(y), dtype=torch.bool)
        for e in (0, 0.1, attacks.CHECKED):
            changed = pgd(lambda x: one.eval()(x, lengths), x, y, e, 3, norm=2, mask=mask)
            still &= one(changed, lengths).argmax(1) == y
        left += still.sum().item()
        made = pgd(lambda x: other.eval()(x, lengths), x, y, attacks.CHECKED, 3, norm=2, mask=mask, stop=False)
        transfer += ((one(x, lengths).argmax(1) == y) & (one(made, lengths).argmax(1) == y)).sum().item()
    assert found['raw', 'PGD', attacks.CHECKED] == left / 370
    assert found['raw', 'PGD, transferred', attacks.CHECKED] == transfer / 370
    mask = attacks.valid_steps(torch.ones(2, 3, 4), torch.tensor([1, 3]))
    assert mask[:, :, 0].tolist() == [[True, False, False], [True, True, True]]
    assert found['raw', 'PGD, more steps', attacks.CHECKED] <= found['raw', 'PGD, restarts', attacks.CHECKED] <= left / 370


def test_the_random_starts_and_the_further_steps_are_what_they_are_called(monkeypatch):
    calls = []

    def recorded(model, x, labels, **settings):
        calls.append({key: settings.get(key) for key in ('steps', 'stop', 'generator', 'epsilon')})
        return x

    monkeypatch.setattr(attacks, 'pgd', recorded)
    model = LSTMClassifier()
    attacks.attack_sequences('Adv', 0, checkpoint_of(model), checkpoint_of(model), (attacks.CHECKED,), 3, restarts=2,
                             more_steps=7, draws=1)
    raw = calls[-15:]  # of three batches each: PGD, two restarts, more steps, transferred
    assert [c['steps'] for c in raw] == [3] * 9 + [7] * 3 + [3] * 3
    assert [c['generator'] is not None for c in raw] == [False] * 3 + [True] * 6 + [False] * 6
    assert [c['stop'] for c in raw] == [None] * 12 + [False] * 3


def picture_records(curves):
    """{(meaning, attack): {ε: [(accuracy, moved, readable) of each seed]}} as records."""
    return [{'seed': seed, 'meaning': meaning, 'attack': attack, 'epsilon': epsilon, 'accuracy': a, 'moved': m, 'readable': r}
            for (meaning, attack), curve in curves.items() for epsilon, seeds in curve.items()
            for seed, (a, m, r) in enumerate(seeds)]


def test_the_table_of_pictures_says_what_it_takes():
    nothing = {(meaning, name): {1: [(0.9, 9, 0.1)] * 2} for meaning, group in attacks.ATTACKS.items() for name in group}
    curve = {0.1: [(0.8, 1, 1.0), (0.9, 3, 0.98)], 0.2: [(0.4, 2, 0.97), (0.58, 4, 0.95)], 0.3: [(0.04, 5, 0.9), (0.02, 7, 0.8)]}
    table = attacks.images_table(picture_records({('', 'none'): {0: [(0.98, 0, 1.0), (1.0, 0, 0.98)]}, **nothing,
                                                  ('L2', 'PGD'): curve}))
    assert '| L2 | PGD | 0.2 | 0.3 | 6.00 | 85 | 0.2 | 49.0 ± 12.7 |' in table
    assert '| L2 | noise |  |  |  |  |  |  |' in table
    assert table.endswith('Unattacked: accuracy 99.0 ± 1.4 %, readable 99.0 %.')


def test_pictures_count_if_right_before_and_after(monkeypatch):
    """A model that reads the first pixel, and an attack that sets it."""
    x = torch.zeros(4, 1, 2, 2)
    x[:, 0, 0, 0] = torch.tensor([0.0, 0.0, 1.0, 1.0])
    x[:, 0, 1, 1] = torch.tensor([0.0, 0.0, 0.9, 0.9])
    data = images.Images('digits', x[[0, 2]], torch.tensor([0, 1]), x, torch.tensor([0, 1, 1, 0]))

    def model(x):
        return torch.stack([1 - x[:, 0, 0, 0], x[:, 0, 0, 0]], 1)

    def attack(model, x, y, epsilon):
        x = x.clone()
        x[0, 0, 0, 0] = x[1, 0, 0, 0] = 1  # of the two 0s, of which the second was taken wrongly to begin with
        return x

    monkeypatch.setattr(attacks, 'ATTACKS', {'L2': {'PGD': attack}})
    monkeypatch.setattr(attacks, 'GRIDS', {'digits': {'L2': (0.5,)}})
    clean, attacked = attacks.attack_images(data, model, 3, 4)
    assert clean['accuracy'] == 0.5 and clean['readable'] == 0.5 and clean['moved'] == 0
    assert attacked['accuracy'] == 0.25 and attacked['moved'] == 0.5  # of 0 and 2, those right before: one moved by 1
    assert attacked['readable'] == 0.75 - 0.25 and attacked['seed'] == 3


def test_the_table_on_masking_has_its_columns_in_order():
    columns = {'PGD': 0.5, 'PGD, restarts': 0.4, 'PGD, more steps': 0.3, 'PGD, transferred': 0.7}
    records = [{'model': 'Adv', 'seed': seed, 'input': 'raw', 'attack': attack, 'epsilon': attacks.CHECKED, 'accuracy': value}
               for seed in (0, 1) for attack, value in columns.items()]
    assert '| Adv | 50.0 ± 0.0 | 40.0 ± 0.0 | 30.0 ± 0.0 | 70.0 ± 0.0 |' in attacks.masking_table(records)


def test_differences_are_paired_with_their_own_control():
    values = {'base': (90, 80), 'Adv control': (50, 60), 'Adv': (53, 61), 'Prox control': (10, 20), 'Prox': (12, 20),
              'AMP': (15, 21), 'SAM': (10, 20), 'best recipe': (99, 99)}
    records = [{'model': name, 'seed': seed, 'input': 'raw', 'attack': attack, 'epsilon': epsilon,
                'accuracy': pair[seed] / 100}
               for name, pair in values.items() for seed in (0, 1)
               for attack, epsilon in (('none', 0.0), ('noise', 0.5), ('PGD', 0.5))]
    np.random.default_rng(0).shuffle(records)  # whatever their order
    table = attacks.sequences_table(records, 'raw')
    assert '| *Adv minus Adv control* | +2.0 ± 1.4 |' in table and '| *AMP minus Prox control* | +3.0 ± 2.8 |' in table
    assert '| best recipe | 99.0 ± 0.0 | 99.0 ± 0.0 | 99.0 ± 0.0 |' in table


def arguments(tmp_path, **settings):
    (tmp_path / 'checkpoints' / 'companions').mkdir(parents=True)
    return argparse.Namespace(output_dir=tmp_path, jobs=1, seeds=1, **settings)


def test_what_is_there_is_read_and_what_is_of_another_config_made_anew(tmp_path):
    args, calls = arguments(tmp_path), []

    def make(value):
        calls.append(value)
        return {'arguments': {}, 'state_dict': {'x': torch.tensor(value)}}

    def obtain(epochs, value):
        return common.obtained(args, {'a': ({'epochs': epochs}, make, {'value': value})}, '')['a']['state_dict']['x']

    assert obtain(1, 5) == 5 and obtain(1, 6) == 5 and obtain(2, 7) == 7 and calls == [5, 7]
    path = tmp_path / 'checkpoints' / 'companions' / 'a.pt'
    path.write_bytes(path.read_bytes()[:-9])
    assert obtain(2, 8) == 8


def test_best_models_are_of_their_recipe(tmp_path, monkeypatch):
    args = arguments(tmp_path, dry_run=True)
    monkeypatch.setattr(attacks, 'train_best', lambda train, seed, epochs: {'arguments': {}, 'state_dict': {'x': torch.tensor(seed)}})
    assert attacks.best_models(args)['best recipe', 0]['state_dict']['x'] == 0
    monkeypatch.setattr(attacks, 'train_best', lambda **_: {'arguments': {}, 'state_dict': {'x': torch.tensor(9)}})
    assert attacks.best_models(args)['best recipe', 0]['state_dict']['x'] == 0
    monkeypatch.setattr(attacks.best, 'PEAK_LR', 1.0)
    assert attacks.best_models(args)['best recipe', 0]['state_dict']['x'] == 9


def test_jobs_run_on_one_thread_and_leave_the_callers_alone():
    torch.set_num_threads(2)
    assert common.in_parallel(1, torch.get_num_threads, [{}, {}], '') == [1, 1] and torch.get_num_threads() == 2


def test_training_pys_models_are_taken_where_they_fit(tmp_path):
    args = arguments(tmp_path)
    _, settings = get_args([])
    train, _ = load_data()
    own = common.assignment_models(args, ('base',), epochs=1)['base', 0]
    run = {'mode': 'plain', 'epsilon': 0.0, 'seed': 0, 'variant': '', 'hyperparameters': hyperparameters(settings, 'plain', 1)}
    entry = {**run, 'history': {'train_loss': [1.0]}, 'diverged': None}
    config = {'data_sha256': common.data_digests()['JV_data.mat'], 'torch': torch.__version__, 'seeds': 8}
    model = LSTMClassifier()
    saved = {'arguments': {**model_arguments(settings, train), 'epsilon': 0.0}, 'state_dict': model.state_dict(), 'run': entry}

    def taken(**changed):
        Runs(tmp_path / 'checkpoints', {**config, **changed.pop('config', {})}).save(
            run_name(run), {**saved, 'run': {**entry, **changed}})
        weight = common.assignment_models(args, ('base',), epochs=1)['base', 0]['state_dict']['conv.weight']
        assert torch.equal(weight, model.conv.weight) or torch.equal(weight, own['state_dict']['conv.weight'])
        return torch.equal(weight, model.conv.weight)

    assert taken()
    assert not taken(config={'data_sha256': 'other'}) and not taken(history={'train_loss': []})
    assert not taken(hyperparameters={**run['hyperparameters'], 'lr': 0.1})


def program(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['attacks.py', *map(str, arguments)])
    attacks.main()


@pytest.mark.parametrize('given, words', [
    (['images', '--cifar10', 'nowhere'], 'data_batch_1.bin: no such file'), (['--seeds', '0'], 'argument --seeds'),
    (['sequences', '--cifar10', 'x'], 'argument --cifar10'), (['--output-dir', ROOT / 'README.md'], 'README.md')])
def test_bad_input_is_one_sentence(given, words, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        program(monkeypatch, *given)
    assert end.value.code == 2 and words in capsys.readouterr().err
