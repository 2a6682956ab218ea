"""The costs are those of the equations, and the gradients those of the costs."""

import numpy as np
import pytest

from companions.word2vec.by_hand import (cbow, getNegativeSamples, negative_sampling_rows,
                                         negSamplingCostAndGradient, skipgram,
                                         softmaxCostAndGradient)
from companions.word2vec.fast import Noise
from tests.companions.word2vec.helpers import TOKENS, Fixed, numerical, tables


def softmax(v, target, U, dataset=None):
    return softmaxCostAndGradient(v, target, U, dataset)


def negative(v, target, U, dataset=None):
    return negSamplingCostAndGradient(v, target, U, Fixed(3, 1, 4, 3, 2), K=6)


@pytest.mark.parametrize('cost_and_gradient', [softmax, negative])
def test_the_costs_are_those_of_the_equations_and_the_gradients_theirs(cost_and_gradient):
    (v, *_), U = tables()
    cost, grad_v, grad_U = cost_and_gradient(v, 2, U)
    s = 1 / (1 + np.exp(-U @ v))
    drawn = [3, 1, 4, 3, 3, 1]  # 2 is the target
    if cost_and_gradient is softmax:
        expected = -np.log(np.exp(U[2] @ v) / np.exp(U @ v).sum())
    else:
        expected = -np.log(s[2]) - np.log(1 - s[drawn]).sum()
    assert cost == pytest.approx(expected)

    def f():
        return cost_and_gradient(v, 2, U)[0]

    np.testing.assert_allclose(grad_v, numerical(f, v), atol=1e-8)
    np.testing.assert_allclose(grad_U, numerical(f, U), atol=1e-8)
    assert U.shape == grad_U.shape and v.shape == grad_v.shape


@pytest.mark.parametrize('model', [skipgram, cbow])
@pytest.mark.parametrize('cost_and_gradient', [softmax, negative])
def test_whole_windows(model, cost_and_gradient):
    """With a word twice in the window, and the center in it too."""
    inputs, outputs = tables(seed=1)
    window = ['a', 'b', 'e', 'b', 'c']

    def run():
        return model('c', 3, window, TOKENS, inputs, outputs, None, cost_and_gradient)

    cost, grad_in, grad_out = run()
    np.testing.assert_allclose(grad_in, numerical(lambda: run()[0], inputs), atol=1e-7)
    np.testing.assert_allclose(grad_out, numerical(lambda: run()[0], outputs), atol=1e-7)
    rows = [TOKENS[word] for word in window]
    if model is skipgram:
        costs = [cost_and_gradient(inputs[2], row, outputs)[0] for row in rows]
        assert cost == pytest.approx(sum(costs))
    else:
        assert cost == pytest.approx(cost_and_gradient(inputs[rows].mean(0), 2, outputs)[0])


def test_a_repeated_negative_counts_twice():
    (v, *_), U = tables()
    cost_once, _, once = negSamplingCostAndGradient(v, 0, U, Fixed(1, 2), K=2)
    cost, _, twice = negSamplingCostAndGradient(v, 0, U, Fixed(1, 1, 2), K=3)
    np.testing.assert_allclose(twice[1], 2 * once[1])
    np.testing.assert_allclose(twice[[0, 2, 3, 4]], once[[0, 2, 3, 4]])
    assert cost == pytest.approx(cost_once - np.log(1 / (1 + np.exp(U[1] @ v))))


def test_scores_of_any_size_stay_finite():
    U = np.array([[1000.0], [0.0], [-1000.0]])
    cost, grad_v, grad_U = softmaxCostAndGradient(np.ones(1), 0, U)
    assert cost == 0 and grad_v == 0 and not grad_U.any()
    assert softmaxCostAndGradient(np.ones(1), 2, U)[0] == 2000
    with np.errstate(all='raise', under='ignore'):
        assert negative_sampling_rows(np.ones(1), U[[2, 0]])[0] == 2000
        assert negative_sampling_rows(np.ones(1), U[[0, 2]])[0] == 0


def test_the_target_is_never_a_negative():
    noise = Noise([1000, 1, 1], 0)
    assert 0 not in getNegativeSamples(0, noise, 50) and 0 in getNegativeSamples(1, noise, 5)
    (v, *_), U = tables(3)
    before = Fixed(0, 1)
    grad = negSamplingCostAndGradient(v, 0, U, before, K=4)[2]
    assert before.drawn == 8 and not grad[2].any()


def test_the_noise_is_the_counts_to_the_power_three_quarters():
    counts = np.array([81, 16, 1])
    drawn = np.bincount(Noise(counts, 0).draw(90_000), minlength=3)
    np.testing.assert_allclose(drawn / 90_000, np.array([27, 8, 1]) / 36, atol=0.006)
    a, b = Noise(counts, 1), Noise(counts, 1)
    assert [a.sampleTokenIdx() for _ in range(20)] == b.draw(20).tolist()
