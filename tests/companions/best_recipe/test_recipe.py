"""The best recipe: what its model reads, how its data is augmented, and that it is reproducible."""

import textwrap

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from companions.best_recipe import recipe
from companions.best_recipe.recipe import (CHOSEN, INGREDIENTS, BestClassifier, augment, fit,
                                           probabilities, recipe_of, soften, warp)
from load_data import UCI_PATH, load_data, make_batches, sequences_of, targets_of
from support.checkpoints import save_checkpoint


@pytest.fixture(scope='module')
def train():
    batches, _ = load_data(UCI_PATH)
    return sequences_of(batches), targets_of(batches)


def test_the_model_reads_each_step_normalized_and_as_it_is():
    x = torch.randn(3, 7, 12)
    features = BestClassifier().normalize(x)
    assert torch.equal(features, torch.cat([F.normalize(x, dim=2), x], 2))
    louder = BestClassifier().eval()
    lengths = torch.tensor([7, 6, 5])
    assert not torch.allclose(louder(x, lengths), louder(2 * x, lengths))
    single = x[:, :, :1]
    assert torch.equal(BestClassifier(1, raw=False).normalize(single), single)  # not only its sign
    plain = BestClassifier(raw=False).eval()
    torch.testing.assert_close(plain(x, lengths), plain(2 * x, lengths))


def test_the_backward_lstm_reads_each_sequence_from_its_own_end():
    model = BestClassifier(bidirectional=True, hidden_size=5).eval()
    v, lengths = torch.randn(3, 9, 64), torch.tensor([9, 4, 1])
    forward, backward = model.last_output(v, lengths, 0).split(5, dim=1)
    for i, n in enumerate(lengths):
        x = v[i:i + 1, :n]
        torch.testing.assert_close(forward[i], model.lstm(x, epsilon=0)[0][0, -1])
        torch.testing.assert_close(backward[i],
                                   model.backward_lstm(x.flip(1), epsilon=0)[0][0, -1])
    copy = BestClassifier.from_checkpoint({'arguments': model.arguments,
                                           'state_dict': model.state_dict()})
    inputs = torch.randn(3, 9, 12)
    lengths = torch.tensor([9, 4, 3])
    assert torch.equal(copy(inputs, lengths), model(inputs, lengths))


def test_a_warped_sequence_keeps_its_ends_and_changes_its_speed():
    x = np.column_stack([np.arange(21.0), np.zeros(21)])
    np.testing.assert_allclose(warp(x, 0, 0), x, atol=1e-12)
    slower = warp(x, np.log(2), 0)
    assert len(slower) == 42 and np.ptp(np.diff(slower[:, 0])) < 1e-9
    bent = warp(x, 0, np.log(2))[:, 0]  # t², so that it begins slowly
    np.testing.assert_allclose(bent[[0, 10, 20]], [0, 5, 20])
    assert len(warp(x[:4], -2, 0)) == 3  # the convolution's kernel


def test_targets_are_smoothed_or_those_of_the_teachers():
    batch, = make_batches([np.ones((5, 2), np.float32)] * 2, np.array([0, 2]), 2)
    models = [BestClassifier(2, output_size=3).eval() for _ in range(3)]
    smoothed = soften(batch, models[0], {'smoothing': 0.3}, []).targets
    torch.testing.assert_close(smoothed, torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]))
    taught = soften(batch, models[0], {'smoothing': 0}, models[1:]).targets
    expected = sum(model(batch.inputs, batch.lengths).softmax(1) for model in models[1:]) / 2
    torch.testing.assert_close(taught, expected)
    assert soften(batch, models[0], {'smoothing': 0}, []).targets is batch.targets


def test_an_augmented_sequence_is_a_contiguous_piece_plus_a_constant():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    deviation, generator = np.array([1.0, 10.0, 0.0]), np.random.default_rng(1)
    lengths, offsets = set(), []
    for _ in range(200):
        y = augment(x, deviation, recipe_of(['random crop', 'random offset']), generator)
        assert y.dtype == np.float32
        start = next(s for s in range(21 - len(y))
                     if np.allclose((y - x[s:s + len(y)]).std(0), 0, atol=1e-5))
        lengths.add(len(y))
        offsets.append((y - x[start:start + len(y)])[0])
    assert lengths == {16, 17, 18, 19, 20}
    np.testing.assert_allclose(np.std(offsets, 0), [0.4, 4, 0], rtol=0.15)
    assert np.array_equal(augment(x, deviation, recipe_of([]), generator), x)


def test_the_same_seed_gives_the_same_model_and_the_callers_generator_is_unchanged(train):
    a = fit(*train, 0, epochs=1)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    b, other = (fit(*train, seed, epochs=1) for seed in (0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))
    assert not torch.equal(a.conv.weight, other.conv.weight)
    p = probabilities(a, train[0])
    assert torch.allclose(p.sum(1), torch.ones(len(p))) and p.shape == (270, 9)


def test_the_docstring_loads_and_uses_a_model(train, tmp_path):
    model = fit(*train, epochs=1)
    save_checkpoint(tmp_path / 'best.pt',
                    {'arguments': model.arguments, 'state_dict': model.state_dict()})
    lines = recipe.__doc__.split('\n\n')[1].replace('checkpoints/companions/best_seed0.pt',
                                                    str(tmp_path / 'best.pt'))
    batch = load_data(UCI_PATH, 370)[1][0]
    names = {'BestClassifier': BestClassifier, 'inputs': batch.inputs, 'lengths': batch.lengths}
    exec(textwrap.dedent(lines), names)
    assert torch.equal(names['speaker'], model(batch.inputs, batch.lengths).argmax(1))


def test_twice_the_epochs():
    assert recipe_of(['twice the epochs'])['epochs'] == 2 * recipe_of([])['epochs']


@pytest.mark.parametrize('name', sorted(INGREDIENTS.keys() - {'twice the epochs'}))
def test_every_ingredient_changes_what_is_trained(name, train):
    few = [x[:60:2] for x in train]

    def weights(names):
        return fit(*few, 0, names, epochs=2).linear.weight

    base = ['shuffled batches'] if name != 'shuffled batches' else []
    one, other = weights(base), weights([*base, name])
    assert one.shape != other.shape or not torch.equal(one, other)


def test_an_unknown_setting_is_one_sentence(train):
    with pytest.raises(ValueError, match='no such setting: epoch; expected some of raw, '):
        fit(*train, epoch=1)


def fit_lengths(lengths, ingredients=CHOSEN):
    sequences = [np.ones((n, 2), dtype=np.float32) for n in lengths]
    return fit(sequences, np.arange(len(lengths)) % 2, ingredients=ingredients, epochs=1)


@pytest.mark.parametrize('lengths, words', [
    ([3] * 55, 'the last of 55 sequences of at most 3 steps may'), ([3], 'the last of 1 seq'),
    ([2, 9], "a sequence has 2 steps, fewer than the convolution kernel's 3")])
def test_sequences_that_are_too_short_are_one_sentence(lengths, words):
    with pytest.raises(ValueError, match=words):
        fit_lengths(lengths)


def test_sequences_as_short_as_the_kernel_are_refused_only_where_batch_norm_fails():
    """It fails on a minibatch of one step, which is what a kernel of 3 leaves of 3 steps."""
    for lengths in ([3] * 54, [3] * 54 + [5]):
        fit_lengths(lengths)
    fit_lengths([3] * 55, ['raw values'])


def test_noise_has_its_size_in_every_value():
    settings = recipe_of([]) | {'noise': 0.3}
    y = augment(np.zeros((500, 4), np.float32), np.zeros(4), settings, np.random.default_rng(0))
    assert y.std(0) == pytest.approx([0.3] * 4, rel=0.1)
