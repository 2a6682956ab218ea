"""Models are loaded where they fit and trained again where something they depend on has changed."""

import argparse

import pytest
import torch

from Classifier import LSTMClassifier
from companions.amp.amp import AMP
from companions.common import models
from load_data import load_data
from support.checkpoints import load_checkpoint, save_checkpoint
from support.options import OPTIMIZER
from training import train_model


@pytest.fixture
def args(tmp_path):
    return argparse.Namespace(output_dir=tmp_path, jobs=1, seeds=1, dry_run=True)


def test_plain_training_is_that_of_proxlstms_control(data):
    """Bit for bit: so the comparison's control is ProxLSTM's own."""
    train, _ = data
    torch.manual_seed(3)
    model = LSTMClassifier()
    base = {'arguments': {}, 'state_dict': {k: x.clone() for k, x in model.state_dict().items()}}
    found = models.train_sequence_classifier(base, {'epsilon': 0.0}, 3, train[:3], 2, train[:1])
    optimizer = torch.optim.Adam(model.parameters(), **OPTIMIZER['ProxLSTM'])
    losses = [train_model(model, train[:3], optimizer, 'ProxLSTM', 0.0)[0] for _ in range(2)]
    assert all(torch.equal(found['state_dict'][key], x) for key, x in model.state_dict().items())
    assert len(found['history']) == 2 and found['losses'] == pytest.approx(losses)
    other = models.train_sequence_classifier(base, {'epsilon': 0.5, 'inner_lr': 'inf'}, 3,
                                             train[:3], 2, train[:1])
    assert not torch.equal(other['state_dict']['conv.weight'], model.conv.weight)


def test_only_the_gradient_that_updates_the_weights_is_clipped(data, monkeypatch):
    """An ascent along a clipped gradient would have another direction."""
    seen = []

    class Recorded(AMP):
        def _ascend(self, delta, gradients):
            seen.append(max(g.abs().max().item() for g in gradients))
            return super()._ascend(delta, gradients)

    monkeypatch.setattr(models, 'AMP', Recorded)
    torch.manual_seed(0)
    model = LSTMClassifier()
    for p in model.parameters():
        p.data *= 5
    base = {'arguments': {}, 'state_dict': model.state_dict()}
    models.train_sequence_classifier(base, {'epsilon': 0.1}, 0, data[0][:2], 1, data[1][:1])
    assert max(seen) > 0.1


def test_each_seed_starts_from_its_own_base_and_a_changed_base_is_noticed(args, monkeypatch):
    args.seeds = 2
    monkeypatch.setattr(models, 'train_sequence_classifier',
                        lambda base, *_: {'arguments': {}, 'history': [], **base})

    def weights(*values):
        bases = {('base', seed): {'state_dict': {'x': torch.tensor(value)}, 'config': value}
                 for seed, value in enumerate(values)}
        found = models.amp_models(args, bases, ('AMP',), epochs=1)
        return [found['AMP', seed]['state_dict']['x'].item() for seed in (0, 1)]

    assert weights(5, 6) == [5, 6] and weights(5, 7) == [5, 7]


def test_a_changed_base_changes_the_config_of_all_that_start_from_it(args, monkeypatch):
    """By the settings of the base alone."""
    first = models.assignment_models(args, ('Prox control',), epochs=1)
    again = models.assignment_models(args, ('Prox control',), epochs=1)
    assert again['Prox control', 0]['config'] == first['Prox control', 0]['config']
    original = models.get_args
    monkeypatch.setattr(models, 'get_args', lambda argv: argparse.Namespace(
        **{**vars(original(argv)), 'base_lr': 0.5}))
    changed = models.assignment_models(args, ('Prox control',), epochs=1)
    for name in ('base', 'Prox control'):
        assert not torch.equal(changed[name, 0]['state_dict']['conv.weight'],
                               first[name, 0]['state_dict']['conv.weight'])


def test_training_pys_checkpoints_are_used_if_they_fit(args):
    own = models.assignment_models(args, ('base',), epochs=1)['base', 0]
    saved = load_checkpoint(args.output_dir / 'checkpoints' / 'companions' / 'base_seed0.pt')
    state = LSTMClassifier().state_dict()

    def used(config=None, **run):
        (args.output_dir / 'checkpoints' / 'companions' / 'base_seed0.pt').unlink()
        save_checkpoint(args.output_dir / 'checkpoints' / 'base_seed0.pt', {
            **saved, 'state_dict': state, 'run': {**saved['run'], **run},
            'config': {**saved['config'], **(config or {})}})
        found = models.assignment_models(args, ('base',), epochs=1)['base', 0]['state_dict']
        assert torch.equal(found['conv.weight'], state['conv.weight']) or \
            torch.equal(found['conv.weight'], own['state_dict']['conv.weight'])
        return torch.equal(found['conv.weight'], state['conv.weight'])

    assert used()
    assert not used(config={'data_sha256': 'other'}) and not used(config={'lr': 0.1})
    assert not used(history={'train_loss': []})


def test_training_pys_own_configuration_is_the_expected_one(args, tmp_path, monkeypatch):
    """What training.py saves is what assignment_models looks for."""
    import training
    from support.sweep import Run, Sweep
    own = training.get_args(['--output-dir', str(tmp_path), '--jobs', '1'])
    train, test = load_data(batch_size=own.batch_size)
    unseen = torch.zeros(351, dtype=torch.bool)
    base = Run('plain', epochs=1)
    with Sweep(training.train, lambda run: (train, test, unseen), own) as sweep:
        sweep.train([base, Run('ProxLSTM', epochs=1, start=base)])
    monkeypatch.setattr(models, 'train', lambda *_: pytest.fail('a model was trained again'))
    models.assignment_models(args, ('Prox control',), epochs=1)


def test_a_diverged_model_is_one_sentence(args, monkeypatch):
    monkeypatch.setattr(models, 'train', lambda *_: {'run': {'diverged': 3}})
    with pytest.raises(ValueError, match='plain, .*seed 0: the loss was not finite in epoch 3'):
        models.assignment_models(args, ('base',), epochs=1)


def test_best_recipe_models_are_of_their_recipe(args, monkeypatch):
    def weights():
        return models.best_recipe_models(args)['best recipe', 0]['state_dict']['x']

    def train(value):
        monkeypatch.setattr(models, 'train_best_recipe', lambda *_: {
            'arguments': {}, 'state_dict': {'x': torch.tensor(value)}})

    train(0)
    assert weights() == 0
    train(9)
    assert weights() == 0
    monkeypatch.setattr(models.recipe, 'PEAK_LR', 1.0)
    assert weights() == 9
