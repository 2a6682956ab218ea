"""The report says what its files say, and its statistics are what they claim to be.

    python -m pytest tests/test_report.py
"""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'report'))

import measure  # noqa: E402
import write  # noqa: E402
from Classifier import LSTMClassifier  # noqa: E402
from load_data import load_data  # noqa: E402
from ProxLSTM import ProxLSTMCell  # noqa: E402
from runs import Runs  # noqa: E402


@pytest.mark.parametrize('page', write.PAGES)
def test_the_page_is_what_the_files_give(page):
    assert write.render(page) == page.read_text(encoding='utf-8')


@pytest.mark.parametrize('page, least', zip(write.PAGES, (8, 12)))
def test_every_file_that_the_page_shows_is_there(page, least):
    names = re.findall(r'\]\(([^):]+)\)', page.read_text(encoding='utf-8'))
    assert len(names) >= least
    for name in names:
        assert (page.parent / name).exists(), name


@pytest.mark.parametrize('template', [template for template, _ in write.PAGES.values()])
def test_no_number_of_a_result_is_typed_into_the_text(template):
    """A decimal fraction or per cent in the template is a setting's value, of which there are few, or stands in {{ }}."""
    text = re.sub(r'{{.*?}}|{%.*?%}|`[^`]*`|\(https?:[^)]*\)|```.*?```', '', (ROOT / 'report' / template).read_text(
        encoding='utf-8'), flags=re.DOTALL)
    assert re.findall(r'\d+\.\d+ (?:points|%|±)|± ?\d|p [=<] ?\d', text) == []


def test_an_effect_is_paired_over_seeds():
    a, b = np.array([90.0, 92, 95, 91, 93]), np.array([89.0, 92, 93, 90, 90])
    effect = write.Effect('x', a, b)
    test = ttest_rel(a, b)
    interval = test.confidence_interval()
    assert (effect.mean, effect.low, effect.high, effect.p) == pytest.approx((1.4, interval.low, interval.high, test.pvalue))
    assert write.Effect('x', np.append(a, np.nan), np.append(b, 99)).p == effect.p  # a diverged run takes part in nothing


def test_control_and_method_are_compared_after_as_many_epochs():
    for mode, epochs in (('AdvLSTM', 50), ('ProxLSTM', 100)):
        key = write.BEST_EPSILON[mode]
        expected = np.mean([write.UCI[mode, '', key, epochs, seed] - write.UCI[mode, '', 0.0, epochs, seed]
                            for seed in range(8)])
        assert write.EFFECTS[mode][f'ε = {key:g}'].mean == pytest.approx(100 * expected)


def test_spikes_are_found_once_each_and_only_late():
    loss = np.full(300, 0.01)
    loss[50] = 9  # before epoch 100 nothing is counted
    loss[150:155] = [0.5, 0.4, 0.2, 0.1, 0.04]
    loss[220] = 0.029
    loss[290:] = 1
    assert write.find_spikes(loss) == [(150, 155), (290, 300)]


def test_the_look_inside_sees_what_the_cell_does(tmp_path):
    """Against the cell that forms G, sequence by sequence."""
    torch.manual_seed(0)
    model, epsilon = LSTMClassifier(epsilon=3.0), 3.0
    torch.nn.init.normal_(model.lstm.weight_ih_l0, std=0.3)
    runs = Runs(tmp_path, {})
    runs.save('model', {'arguments': {'epsilon': epsilon}, 'state_dict': model.state_dict(),
                        'run': {'epsilon': epsilon, 'seed': 4}})
    train, _ = load_data(ROOT / 'data' / 'JV_data.mat')
    seen = measure.look_inside(tmp_path / 'model.pt', train[:1])

    cell = ProxLSTMCell(64, 50, epsilon=epsilon)
    cell.load_state_dict({key.removesuffix('_l0'): value for key, value in model.lstm.state_dict().items()})
    moved, largest = [], []
    for inputs, _, lengths in train[:1]:
        for x, n in zip(inputs, lengths):
            v = torch.relu(model.conv(torch.nn.functional.normalize(x[:n], dim=1).T[None]))[0].T.detach()
            h, c = torch.zeros(2, 1, 50)
            for step in v[:-1]:
                def s(v):
                    return torch.lstm_cell(v[None], (h, c), *cell.parameters())[1][0]

                G = torch.autograd.functional.jacobian(s, step)
                largest.append(torch.linalg.matrix_norm(G, 2).item() ** 2)
                proposed, (h_next, c_next) = s(step), cell(step[None], (h, c))
                moved.append(((c_next[0] - proposed).norm() / proposed.norm()).item())
                h, c = h_next.detach(), c_next.detach()
    assert seen['moved'] == pytest.approx(np.mean(moved), rel=1e-3)
    assert seen['lambda_max'] == pytest.approx(np.mean(largest), rel=1e-3)
    assert seen['seed'] == 4 and 2 <= seen['iterations'] <= 20


def test_a_cure_changes_what_it_names_and_nothing_else():
    record = {cure: measure.train_long(cure, 0, epochs=2) for cure in measure.CURES}
    plain = record.pop('as in training.py')
    assert record['weights averaged']['moved'] == plain['moved'] and record['weights averaged']['loss'] != plain['loss']
    first = {cure: x['loss'][0] for cure, x in record.items()}
    assert first['cosine schedule to 0'] == plain['loss'][0] and record['cosine schedule to 0']['loss'] != plain['loss']
    assert plain['loss'][0] not in (first['gradient clipped by norm, to 1'], first['no weight decay'])
