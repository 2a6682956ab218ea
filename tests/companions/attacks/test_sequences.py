"""The experiment on sequences attacks the classifiers as they are and counts what is left.

    python -m pytest tests/companions/attacks
"""

import json
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from Classifier import LSTMClassifier
from companions.attacks import sequences
from companions.attacks.attacks import norms, pgd
from companions.common import images
from load_data import UCI_PATH, load_data
from training import eval_model

EPSILON = sequences.STRENGTH_EPSILON
_, PROX_EPSILON = sequences.MODELS['Prox']


def make_checkpoint(model, **arguments):
    return {'arguments': arguments, 'state_dict': model.state_dict()}


def test_both_inputs_give_the_logits_of_the_classifier():
    torch.manual_seed(0)
    model = LSTMClassifier(epsilon=PROX_EPSILON)
    nn.init.normal_(model.lstm.weight_ih_l0, std=0.5)
    checkpoint = make_checkpoint(model, epsilon=PROX_EPSILON)
    _, test = load_data(UCI_PATH, 128)
    x, _, lengths = test[0]
    model.eval()
    expected = {'Prox': model(x, lengths, mode='ProxLSTM', epsilon=PROX_EPSILON),
                'Prox control': model(x, lengths)}
    assert not torch.allclose(*expected.values(), atol=1e-3)  # the proximal mapping takes part
    for name, logits in expected.items():
        for attacked in ('raw', 'normalized'):
            classify, prepare = sequences.load_classifier(name, checkpoint, attacked)
            torch.testing.assert_close(classify(prepare(x), lengths), logits, atol=1e-5, rtol=0)
    classify, prepare = sequences.load_classifier('base', checkpoint, 'normalized')
    z = prepare(x)
    # It is not normalized again.
    assert not torch.allclose(classify(2 * z, lengths), classify(z, lengths))
    everything = [torch.ones(len(batch.targets), dtype=torch.bool) for batch in test]
    correct = sequences.still_correct(test, everything, model, lambda model, x, labels, mask: x)
    assert torch.equal(torch.cat(correct), eval_model(model, test)[2])


def test_the_attack_sees_the_chosen_samples_and_which_steps_are_valid():
    seen = []

    def attack(model, x, labels, mask):
        seen.append((labels.tolist(), mask[:, :, 0].tolist()))
        return x

    batch = torch.ones(3, 3, 4), torch.tensor([0, 0, 1]), torch.tensor([1, 3, 2])
    chosen = torch.tensor([True, False, True])
    left, none = sequences.still_correct(
        [batch, batch], [chosen, ~chosen & chosen],
        lambda x, lengths: torch.tensor([[1.0, 0]] * len(x)), attack)
    assert seen == [([0, 1], [[True, False, False], [True, True, False]])]
    assert left.tolist() == [True, False, False] and not none.any()
    assert chosen.tolist() == [True, False, True]


def make_sensitive(model):
    """Make the weights large: as confident and as sensitive as a trained model's."""
    for p in model.parameters():
        p.data *= 4
    return model


def test_the_records_count_what_the_attacks_leave():
    torch.manual_seed(0)
    model = make_sensitive(LSTMClassifier())
    epsilons = 0.05, 0.1, EPSILON, 2.0
    records = sequences.attack_sequences('Adv', 3, make_checkpoint(model), epsilons, 3, 5, 2)
    found = {(r['input'], r['attack'], r['epsilon']): r['accuracy'] for r in records}
    assert {(r['model'], r['seed']) for r in records} == {('Adv', 3)}
    attacks = ['PGD', *sequences.stronger_attacks(1, 1, 1, None), sequences.ALL]
    assert len(found) == len(records) == 2 * (1 + 4 * (1 + len(attacks)))
    for attacked in sequences.INPUTS:
        curve = [found[attacked, 'none', 0.0], *(found[attacked, 'PGD', e] for e in epsilons)]
        assert curve == sorted(curve, reverse=True) and curve[-1] < curve[0]
        assert found[attacked, 'noise', 2.0] > curve[-1]
        for e in epsilons:
            chain = [found[attacked, attack, e] for attack in attacks]
            assert chain == sorted(chain, reverse=True)
        robust = [found[attacked, sequences.ALL, e] for e in (0.05, 0.1, EPSILON)]
        assert robust == sorted(robust, reverse=True)
        assert robust[1] < found[attacked, 'PGD', 0.1]
    left = 0
    model.eval()
    for x, y, lengths in load_data(UCI_PATH, 128)[1]:
        mask = (torch.arange(x.shape[1]) < lengths[:, None])[:, :, None]
        still = torch.ones(len(y), dtype=torch.bool)
        for e in (0, 0.05, 0.1, EPSILON):
            perturbed = pgd(lambda x: model(x, lengths), x, y, e, 3, norm=2, mask=mask)
            still &= model(perturbed, lengths).argmax(1) == y
        left += still.sum().item()
    assert found['raw', 'PGD', EPSILON] == left / 370


def test_what_is_lost_at_a_smaller_epsilon_is_not_robust_at_a_larger(monkeypatch):
    def attack_once(epsilon, *_):  # it succeeds at 0.1 only
        return {'once': [lambda model, x, labels, mask: x + 100 * mask * (epsilon == 0.1)]}

    monkeypatch.setattr(sequences, 'stronger_attacks', attack_once)
    monkeypatch.setattr(sequences, 'pgd', lambda model, x, labels, **_: x)
    torch.manual_seed(0)
    records = sequences.attack_sequences('base', 0, make_checkpoint(make_sensitive(
        LSTMClassifier())), (0.1, 0.2), 1, 1, 1)
    found = {(r['attack'], r['epsilon']): r['accuracy'] for r in records if r['input'] == 'raw'}
    assert found['once', 0.1] < found['once', 0.2] == found['PGD', 0.2] == found['none', 0.0]
    assert found[sequences.ALL, 0.2] == found[sequences.ALL, 0.1] == found['once', 0.1]


def test_the_stronger_attacks_respect_the_ball_the_mask_and_the_lengths():
    torch.manual_seed(0)
    model = make_sensitive(LSTMClassifier()).eval()
    x, y, lengths = load_data(UCI_PATH, 128)[1][0]
    mask = (torch.arange(x.shape[1]) < lengths[:, None])[:, :, None]
    attacks = sequences.stronger_attacks(0.7, 5, 10, torch.Generator().manual_seed(0))
    for title, functions in attacks.items():
        for attack in functions:
            perturbed = attack(lambda x: model(x, lengths), x, y, mask=mask)
            assert norms(perturbed - x, 2).max() <= 0.7 * (1 + 1e-5), title
            assert (perturbed != x).any() and not ((perturbed != x) & ~mask).any(), title


def test_each_target_is_a_wrong_class_in_order_of_likelihood(monkeypatch):
    targets = []
    monkeypatch.setattr(sequences, 'pgd', lambda *_, loss, **__: targets.append(
        loss.keywords['targets'].tolist()))
    logits, labels = torch.tensor([[5.0, 1, 4, 2, 3], [1, 2, 3, 4, 5]]), torch.tensor([0, 3])
    for attack in sequences.stronger_attacks(1, 1, 1, None)['+ DLR, targets']:
        attack(lambda x: logits, None, labels, mask=None)
    assert targets == [[2, 4], [4, 2], [3, 1]]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('name', ['Adv', 'Prox', 'best recipe'])
def test_on_cuda_the_numbers_are_nearly_those_of_the_cpu(name):
    torch.manual_seed(0)
    cls = sequences.BestClassifier if name == 'best recipe' else LSTMClassifier
    model = cls()
    checkpoint = make_checkpoint(model, **getattr(model, 'arguments', {}))
    found = {device: [r['accuracy'] for r in sequences.attack_sequences(
        name, 0, checkpoint, (EPSILON,), 2, 5, 1, device)] for device in ('cpu', 'cuda')}
    assert found['cuda'] == pytest.approx(found['cpu'], abs=0.05)


def test_the_attacks_are_compared_in_their_order():
    columns = {'PGD': 0.5, '+ DLR': 0.4, '+ Square': 0.3, sequences.ALL: 0.2}
    records = [{'model': 'Adv', 'seed': seed, 'input': 'raw', 'attack': attack, 'epsilon': EPSILON,
                'accuracy': value} for seed in (0, 1) for attack, value in columns.items()]
    table = sequences.accuracy_table(records, 'raw', sequences.strength_columns(records))
    assert '| PGD | + DLR | + Square |\n' in table
    assert '| Adv | 50.0 ± 0.0 | 40.0 ± 0.0 | 30.0 ± 0.0 |' in table


def test_differences_are_paired_with_the_right_control():
    values = {'base': (90, 80), 'Adv control': (50, 60), 'Adv': (53, 61), 'Prox control': (10, 20),
              'Prox': (12, 20), 'AMP': (15, 21), 'SAM': (10, 20), 'best recipe': (99, 99)}
    records = [{'model': name, 'seed': seed, 'input': 'raw', 'attack': attack, 'epsilon': epsilon,
                'accuracy': pair[seed] / 100}
               for name, pair in values.items() for seed in (0, 1)
               for attack, epsilon in (('none', 0.0), ('noise', 0.5), (sequences.ALL, 0.5))]
    np.random.default_rng(0).shuffle(records)  # whatever their order
    table = sequences.differences_table(records)
    assert '| Adv minus Adv control | raw | +2.0 ± 1.4 | +2.0 ± 1.4 | +2.0 ± 1.4, p = ' in table
    assert '| AMP minus Prox control | raw | +3.0 ± 2.8 |' in table
    assert '| best recipe minus base | raw | +14.0 ± 7.1 | +14.0 ± 7.1 | +14.0 ± 7.1 |' in table
    row = '| best recipe | 99.0 ± 0.0 | 99.0 ± 0.0 | 99.0 ± 0.0 |'
    assert row in sequences.accuracy_table(records, 'raw')


def test_dry_run(dry_run):
    folder, out = dry_run
    records = json.loads((folder / 'plots' / 'attacks_sequences.json').read_text())['runs']
    columns = sequences.strength_columns(records)
    assert sequences.accuracy_table(records, 'raw', columns) in out
    assert sequences.differences_table(records) in out
    assert all(sequences.accuracy_table(records, attacked) in out for attacked in sequences.INPUTS)
    noisy = {name + sequences.WITH_NOISE for name in sequences.NOISY}
    assert {r['model'] for r in records} == {*sequences.MODELS, *sequences.CONTROLS, *noisy}
    assert {*sequences.STYLES} == {*sequences.MODELS, *sequences.CONTROLS}
    assert (folder / 'plots' / 'attacks_sequences.png').exists()


def test_options_of_the_images_are_rejected(capsys):
    with pytest.raises(SystemExit) as end:
        sequences.get_args(['--cifar10', 'x'])
    assert end.value.code == 2 and '--cifar10' in capsys.readouterr().err


def test_on_the_digits_a_librarys_autoattack_finds_about_as_much():
    torchattacks = pytest.importorskip('torchattacks')
    pytest.importorskip('sklearn')
    data = images.digits()
    model = images.fit(data, lambda model: torch.optim.Adam(model.parameters(), 2e-3), 20, seed=0)
    model.requires_grad_(False)
    x, y, epsilon = data.test[:150], data.test_labels[:150], 0.75
    library = torchattacks.AutoAttack(model, norm='L2', eps=epsilon, n_classes=10, seed=0)
    expected = (model(library(x, y)).argmax(1) == y).sum().item()

    def classify(rows, lengths):  # as sequences of rows; outside the pixels' range nothing changes
        return model(rows.clamp(0, 1)[:, None])

    batch, left = (x[:, 0], y, torch.full_like(y, 8)), [torch.ones_like(y, dtype=torch.bool)]
    left = sequences.still_correct([batch], left, classify,
                                   partial(pgd, epsilon=epsilon, steps=10, norm=2))
    attacks = sequences.stronger_attacks(epsilon, 10, 300, torch.Generator().manual_seed(0))
    for attack in sum(attacks.values(), []):
        left = sequences.still_correct([batch], left, classify, attack)
    assert 0 < expected < 75 and left[0].sum().item() <= expected + 3
