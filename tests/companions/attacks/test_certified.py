"""The certificates of the sequence classifiers: where noise goes, what counts, and the table.

    python -m pytest tests/companions/attacks/test_certified.py
"""

import json

import pytest
import torch

from Classifier import LSTMClassifier
from companions.attacks import certified, sequences
from companions.common.models import NOISE
from load_data import UCI_PATH, load_data
from tests.companions.attacks.conftest import few_sequences

CERTIFICATE = {'selection': 2, 'samples': 20, 'alpha': 0.1}


def test_noise_is_added_to_raw_valid_steps_only(monkeypatch):
    inputs = []

    class Recorder(LSTMClassifier):
        def forward(self, input, *args, **kwargs):
            inputs.append(input)
            return super().forward(input, *args, **kwargs)

    monkeypatch.setattr(sequences, 'LSTMClassifier', Recorder)
    model = LSTMClassifier()
    records = certified.certify_sequences(
        'base', 0, {'arguments': {}, 'state_dict': model.state_dict()}, CERTIFICATE)
    (x, _, lengths), *_ = load_data(UCI_PATH, 128)[1]
    valid = torch.arange(x.shape[1]) < lengths[:, None]
    noise = inputs[0] - x
    assert not noise[~valid].any() and noise[valid].std() == pytest.approx(NOISE, rel=0.05)
    curve = [r['accuracy'] for r in records if r['attack'] == 'certified']
    assert curve == sorted(curve, reverse=True) and len(curve) == len(certified.RADII)
    assert curve[-1] == 0  # beyond what 20 samples can certify


def test_what_counts_is_right_and_not_an_abstention(monkeypatch):
    labels = torch.cat([batch.targets for batch in load_data(UCI_PATH, 128)[1]])
    answers = iter([(torch.where(torch.arange(len(y)) < 100, y, -1), torch.full((len(y),), 0.2))
                    for y in labels.split(128)])
    monkeypatch.setattr(certified, 'certify', lambda *_, **__: next(answers))
    model = LSTMClassifier()
    records = certified.certify_sequences(
        'base', 0, {'arguments': {}, 'state_dict': model.state_dict()}, CERTIFICATE)
    found = {(r['attack'], r['epsilon']): r['accuracy'] for r in records}
    assert found['certified', 0.1] == pytest.approx(300 / 370)
    assert found['certified', 0.25] == 0
    assert found['abstained', 0.0] == pytest.approx(70 / 370)


def test_dry_run(dry_run, monkeypatch, capsys):
    folder, _ = dry_run
    monkeypatch.setattr(certified, 'load_data', few_sequences)
    plots = folder / 'plots'
    certified.main(certified.get_args(['--dry-run', '--jobs', '1', '--output-dir', str(folder)]))
    runs, attacked = (json.loads((plots / f'attacks_{name}.json').read_text())['runs']
                      for name in ('certified', 'sequences'))
    assert certified.certified_table(runs, attacked) in capsys.readouterr().out
    assert {r['model'] for r in runs} == {name + suffix for name in certified.NOISY
                                          for suffix in ('', certified.WITH_NOISE)}
    assert (plots / 'attacks_certified.png').exists()


def test_without_the_attacks_it_says_what_to_run(tmp_path):
    with pytest.raises(OSError, match='attacks_sequences.json: no such file; run python -m'):
        certified.main(certified.get_args(['--dry-run', '--output-dir', str(tmp_path)]))
