"""Cross-validation within the training set.

    python -m pytest tests/support/test_tuning.py
"""

import json

import numpy as np
import torch

from load_data import sequences_of, targets_of
from support.options import get_args
from support.sweep import HISTORY
from support.tuning import fold_batches, stratified_folds, tune, tuning_table


def test_folds_are_stratified_disjoint_and_cover_the_training_set(data):
    sequences, labels = sequences_of(data[0]), targets_of(data[0])
    whole = sorted(x.tobytes() for x in sequences)
    folds = list(stratified_folds(labels, 5, 2))
    assert len(folds) == 10
    for repeat in (folds[:5], folds[5:]):
        held_out = []
        for fold in repeat:
            train, test = fold_batches(data[0], fold, 27)
            trained, tested = ({x.tobytes() for x in sequences_of(part)} for part in (train, test))
            assert len(trained) == 216 and not trained & tested
            assert np.bincount(targets_of(test)).tolist() == [6] * 9
            held_out += [x.tobytes() for x in sequences_of(test)]
        assert sorted(held_out) == whole


def test_tuning_trains_each_epsilon_from_the_base_model_of_its_fold(data, tmp_path):
    starts = {}

    def train(run, args, data, start, saved, epochs):
        starts[run] = start and start['state_dict']['fold'].item()
        return {'arguments': {}, 'state_dict': {'fold': torch.tensor(run.fold)}, 'run': {
            'diverged': None, 'seconds': 0.0, 'history': dict.fromkeys(HISTORY, [0] * run.epochs) | {
                'averaged_test_accuracy': [0, 0, (run.epsilon + run.fold % 5) / 10]}}}

    args = get_args(['--tune', 'adv', '--grid', '1', '--repeats', '2', '--epochs', '3', '--jobs', '1',
                     '--output-dir', str(tmp_path)])
    (tmp_path / 'plots').mkdir()
    tune(train, args, data[0])
    assert len(starts) == 30 and all(fold == run.fold for run, fold in starts.items()
                                     if run.mode == 'AdvLSTM')
    records = json.loads((tmp_path / 'plots' / 'tune_adv.json').read_text())['runs']
    assert len(records) == 20 and (tmp_path / 'plots' / 'tune_adv.png').exists()
    table, best = tuning_table(records)
    assert best == 1 and '| 1 (best) | 30.0 ± 14.9 | +10.00 ± 0.00 |' in table


def test_tuning_table_names_the_best_mean_and_pairs_by_fold():
    records = [{'epsilon': e, 'repeat': 0, 'fold': fold, 'accuracy': a}
               for e, values in {0: (0.8, 0.9), 1: (0.85, 0.97), 2: (0.99, None)}.items() for fold, a in enumerate(values)]
    table, best = tuning_table(records[:2] + records[:1:-1])
    assert best == 1 and '| 1 (best) | 91.0 ± 8.5 | +6.00 ± 1.00 |' in table
    assert '| 2 | 99.0, 1 of 2 diverged | +19.00 |' in table
