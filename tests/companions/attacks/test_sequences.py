"""The experiment on sequences attacks the classifiers as they are and counts what is left.

    python -m pytest tests/companions/attacks
"""

import json

import numpy as np
import pytest
import torch
from torch import nn

from Classifier import LSTMClassifier
from companions.attacks import sequences
from companions.attacks.attacks import pgd
from load_data import UCI_PATH, load_data
from training import eval_model

EPSILON = sequences.MASKING_EPSILON
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
    correct = sequences.still_correct(test, model, lambda model, x, labels, mask: x)
    assert sum(len(y) for _, y, _ in correct) == eval_model(model, test)[2].sum().item()


def test_the_attack_sees_which_steps_are_valid():
    masks = []

    def attack(model, x, labels, mask):
        masks.append(mask)
        return x

    batch = torch.ones(2, 3, 4), torch.tensor([0, 0]), torch.tensor([1, 3])
    sequences.still_correct([batch], lambda x, lengths: torch.tensor([[1.0, 0]] * 2), attack)
    assert masks[0][:, :, 0].tolist() == [[True, False, False], [True, True, True]]


def test_the_records_count_what_the_attacks_leave():
    torch.manual_seed(0)
    one, other = LSTMClassifier(), LSTMClassifier()
    for model in (one, other):  # large weights: as confident and as sensitive as a trained model
        for p in model.parameters():
            p.data *= 4
    epsilons = 0.1, EPSILON, 2.0
    records = sequences.attack_sequences('Adv', 3, make_checkpoint(one), make_checkpoint(other),
                                         epsilons, 3, restarts=1, more_steps=3, noise_draws=2)
    found = {(r['input'], r['attack'], r['epsilon']): r['accuracy'] for r in records}
    assert {(r['model'], r['seed']) for r in records} == {('Adv', 3)}
    assert len(found) == len(records) == 2 * 7 + 3
    for attacked in sequences.INPUTS:
        curve = [found[attacked, 'none', 0.0], *(found[attacked, 'PGD', e] for e in epsilons)]
        assert curve == sorted(curve, reverse=True) and curve[-1] < curve[0]
        assert found[attacked, 'noise', 2.0] > curve[-1]
    left = transferred = 0
    one.eval(), other.eval()
    for x, y, lengths in load_data(UCI_PATH, 128)[1]:
        mask = (torch.arange(x.shape[1]) < lengths[:, None])[:, :, None]
        still = torch.ones(len(y), dtype=torch.bool)
        for e in (0, 0.1, EPSILON):
            perturbed = pgd(lambda x: one(x, lengths), x, y, e, 3, norm=2, mask=mask)
            still &= one(perturbed, lengths).argmax(1) == y
        left += still.sum().item()
        perturbed = pgd(lambda x: other(x, lengths), x, y, EPSILON, 3, norm=2, mask=mask,
                        stop=False)
        still = (one(x, lengths).argmax(1) == y) & (one(perturbed, lengths).argmax(1) == y)
        transferred += still.sum().item()
    assert found['raw', 'PGD', EPSILON] == left / 370
    assert found['raw', 'PGD, transferred', EPSILON] == transferred / 370
    stronger = [found['raw', f'PGD, {more}', EPSILON] for more in ('more steps', 'restarts')]
    assert stronger[0] <= stronger[1] <= left / 370


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('name', ['Adv', 'Prox', 'best recipe'])
def test_on_cuda_the_numbers_are_nearly_those_of_the_cpu(name):
    torch.manual_seed(0)
    cls = sequences.BestClassifier if name == 'best recipe' else LSTMClassifier
    model = cls()
    checkpoint = make_checkpoint(model, **getattr(model, 'arguments', {}))
    found = {device: [r['accuracy'] for r in sequences.attack_sequences(
        name, 0, checkpoint, make_checkpoint(LSTMClassifier()), (EPSILON,), 2, restarts=1,
        more_steps=2, noise_draws=1, device=device)] for device in ('cpu', 'cuda')}
    assert found['cuda'] == pytest.approx(found['cpu'], abs=0.05)


def test_the_stronger_attacks_are_what_their_names_say(monkeypatch):
    calls = []

    def record(model, x, labels, **settings):
        calls.append({key: settings.get(key) for key in ('steps', 'stop', 'generator', 'epsilon')})
        return x

    monkeypatch.setattr(sequences, 'pgd', record)
    checkpoint = make_checkpoint(LSTMClassifier())
    sequences.attack_sequences('Adv', 0, checkpoint, checkpoint, (EPSILON,), 3, restarts=2,
                               more_steps=7, noise_draws=1)
    raw = calls[-15:]  # of three batches each: PGD, two restarts, more steps, transferred
    assert [c['steps'] for c in raw] == [3] * 9 + [7] * 3 + [3] * 3
    assert [c['generator'] is not None for c in raw] == [False] * 3 + [True] * 6 + [False] * 6
    assert [c['stop'] for c in raw] == [None] * 12 + [False] * 3


def test_the_masking_table_has_its_columns_in_order():
    columns = {'PGD': 0.5, 'PGD, restarts': 0.4, 'PGD, more steps': 0.3, 'PGD, transferred': 0.7}
    records = [{'model': 'Adv', 'seed': seed, 'input': 'raw', 'attack': attack, 'epsilon': EPSILON,
                'accuracy': value} for seed in (0, 1) for attack, value in columns.items()]
    row = '| Adv | 50.0 ± 0.0 | 40.0 ± 0.0 | 30.0 ± 0.0 | 70.0 ± 0.0 |'
    assert row in sequences.accuracy_table(records, 'raw', sequences.MASKING)


def test_differences_are_paired_with_the_right_control():
    values = {'base': (90, 80), 'Adv control': (50, 60), 'Adv': (53, 61), 'Prox control': (10, 20),
              'Prox': (12, 20), 'AMP': (15, 21), 'SAM': (10, 20), 'best recipe': (99, 99)}
    records = [{'model': name, 'seed': seed, 'input': 'raw', 'attack': attack, 'epsilon': epsilon,
                'accuracy': pair[seed] / 100}
               for name, pair in values.items() for seed in (0, 1)
               for attack, epsilon in (('none', 0.0), ('noise', 0.5), ('PGD', 0.5))]
    np.random.default_rng(0).shuffle(records)  # whatever their order
    table = sequences.differences_table(records)
    assert '| Adv minus Adv control | raw | +2.0 ± 1.4 | +2.0 ± 1.4 | +2.0 ± 1.4, p = ' in table
    assert '| AMP minus Prox control | raw | +3.0 ± 2.8 |' in table
    assert '| best recipe minus base | raw | +14.0 ± 7.1 | +14.0 ± 7.1 | +14.0 ± 7.1 |' in table
    row = '| best recipe | 99.0 ± 0.0 | 99.0 ± 0.0 | 99.0 ± 0.0 |'
    assert row in sequences.accuracy_table(records, 'raw')


def test_dry_run(tmp_path, capsys):
    sequences.main(sequences.get_args(['--dry-run', '--jobs', '1', '--output-dir', str(tmp_path)]))
    out = capsys.readouterr().out
    records = json.loads((tmp_path / 'plots' / 'attacks_sequences.json').read_text())['runs']
    assert sequences.accuracy_table(records, 'raw', sequences.MASKING) in out
    assert sequences.differences_table(records) in out
    assert all(sequences.accuracy_table(records, attacked) in out for attacked in sequences.INPUTS)
    assert {r['model'] for r in records} == {*sequences.MODELS, *sequences.CONTROLS}
    assert {*sequences.STYLES} == {*sequences.MODELS, *sequences.CONTROLS}
    assert (tmp_path / 'plots' / 'attacks_sequences.png').exists()


def test_options_of_the_images_are_rejected(capsys):
    with pytest.raises(SystemExit) as end:
        sequences.get_args(['--cifar10', 'x'])
    assert end.value.code == 2 and '--cifar10' in capsys.readouterr().err
