"""Evaluation, analogies, bias directions and debiasing follow their definitions."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.optimize import minimize

from companions.word2vec import vectors
from tests.companions.word2vec.helpers import numerical


def test_the_measure_of_forms():
    words = ['cat', 'cats', 'dog', 'dogs', 'walk', 'walked', 'as', 'a']
    index = {word: row for row, word in enumerate(words)}
    pairs = vectors.find_form_pairs(index)
    assert pairs.tolist() == [[0, 1], [2, 3], [4, 5]]
    table = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0.1], [-0.8, -0.2], [-0.8, -0.2], [0.5, 0.5],
                      [0.1, 0.9]])
    ranks = vectors.rank_partners(table, pairs)
    cosine = vectors.normalize_rows(table) @ vectors.normalize_rows(table).T
    expected = [[sum(cosine[a, w] >= cosine[a, b] - 1e-7 for w in range(8) if w != a)
                 for a, b in way]
                for way in (pairs, pairs[:, ::-1])]
    assert ranks.tolist() == expected and ranks.max() > 3
    assert (vectors.rank_partners(np.ones((8, 2)), pairs) == 7).all()  # all rows equal: no credit
    assert (vectors.rank_partners(np.full((8, 2), np.nan), pairs) >= 7).all()
    counts = np.array([50, 7, 400, 300, 5, 1000, 1, 1])
    found = vectors.evaluate_forms(table, pairs, counts)
    assert found['mrr'] == pytest.approx((1 / ranks).mean())
    assert [row[:3] for row in found['by_count']] == [[5, 10, 2], [300, None, 1]]
    assert found['by_count'][1][3] == pytest.approx((1 / ranks[:, 1]).mean())


def test_an_analogy_is_none_of_its_three_words():
    unit = vectors.normalize_rows(np.array([[1.0, 0, 0.1], [1, 1, 0.1], [0.1, 0, 1], [0.1, 1, 1],
                                            [1, 0.5, 0.5]]))
    assert vectors.solve_analogy(unit, 0, 1, 2) == 3 and vectors.solve_analogy(unit, 3, 2, 1) == 0
    assert vectors.analogy_accuracy(unit, np.array([[0, 1], [2, 3]])) == 1
    assert vectors.analogy_accuracy(unit, np.array([[0, 1], [2, 4]])) == 0.5  # 3 comes before 4


def test_saved_vectors_are_read_exactly(tmp_path):
    table = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    table[0, 0] = 1e-30
    words = ['a', 'cæsar', 'well-known']
    vectors.save_vectors(tmp_path / 'vectors_0.2', words, table)
    with np.load(tmp_path / 'vectors_0.2.npz') as saved:
        assert saved['words'].tolist() == words and np.array_equal(saved['vectors'], table)
        assert saved['vectors'].dtype == np.float32
    first, *lines = (tmp_path / 'vectors_0.2.txt').read_text(encoding='utf-8').splitlines()
    assert first == '3 5' and [line.split(' ')[0] for line in lines] == words
    assert np.array_equal(np.array([line.split(' ')[1:] for line in lines], np.float32), table)


def test_the_nearest_are_never_those_left_out():
    unit = vectors.normalize_rows(np.array([[1.0, 0], [1, 0.1], [0, 1]]))
    assert vectors.find_nearest(unit, unit[0], 8, (0,)).tolist() == [1, 2]
    assert vectors.find_nearest(unit, unit[0], 1).tolist() == [0]


def biased(seed=0, V=40, d=8):
    """Words, of which four pairs differ by a common direction and noise."""
    generator = np.random.default_rng(seed)
    true = vectors.normalize_rows(generator.standard_normal((1, d)))[0]
    table = generator.standard_normal((V, d))
    pairs = np.arange(8).reshape(4, 2)
    common = generator.standard_normal((4, d))
    table[pairs[:, 0]] = common + true + 0.3 * generator.standard_normal((4, d))
    table[pairs[:, 1]] = common - true + 0.3 * generator.standard_normal((4, d))
    return vectors.normalize_rows(table), true, pairs, np.arange(8, V)


def test_several_pairs_find_the_direction_better_than_one():
    several, one = [], []
    for seed in range(10):
        unit, true, pairs, _ = biased(seed)
        g = vectors.find_bias_direction(unit, pairs)
        assert np.linalg.norm(g) == pytest.approx(1)
        several.append(g @ true)
        one.append(np.mean(vectors.normalize_rows(unit[pairs[:, 0]] - unit[pairs[:, 1]]) @ true))
        assert vectors.find_bias_direction(unit, pairs[:, ::-1]) == pytest.approx(-g)
    assert np.mean(several) > 0.02 + np.mean(one) and min(several) > 0.85
    others, single = vectors.direction_agreement(*biased()[::2])
    assert others > single > 0
    opposite = np.array([[1.0, 0], [-1, 0]] * 4 + [[-1, 0], [1, 0]])  # the last pair is reversed
    assert vectors.direction_agreement(opposite, np.arange(10).reshape(5, 2)) == (
        pytest.approx((0.6, 0.2)))


def test_hard_debiasing():
    unit, _, pairs, neutral = biased()
    g = vectors.find_bias_direction(unit, pairs)
    pairs[1] = pairs[1, ::-1].copy()  # a pair that lies the other way round stays so
    debiased = vectors.hard_debias(unit, g, neutral, pairs)
    np.testing.assert_allclose(np.linalg.norm(debiased, axis=1), 1)
    np.testing.assert_allclose(debiased[neutral] @ g, 0, atol=1e-12)
    first, second = (debiased[neutral] @ debiased[pairs[:, k]].T for k in (0, 1))
    np.testing.assert_allclose(first, second, atol=1e-12)
    kept = unit[neutral] - np.outer(unit[neutral] @ g, g)
    kept /= np.linalg.norm(kept, axis=1, keepdims=True)
    np.testing.assert_allclose(debiased[neutral], kept)
    apart = debiased[pairs[:, 0]] - debiased[pairs[:, 1]]
    np.testing.assert_allclose(apart, np.outer(apart @ g, g), atol=1e-12)
    assert (np.sign(apart @ g) == np.sign((unit[pairs[:, 0]] - unit[pairs[:, 1]]) @ g)).all()
    assert vectors.direct_bias(unit, g, neutral) > 0.1
    assert vectors.direct_bias(debiased, g, neutral) < 1e-12


def test_soft_debiasing_minimizes_the_objective_of_its_paper():
    unit, _, pairs, neutral = biased(V=20, d=4)
    g = vectors.find_bias_direction(unit, pairs)
    T = np.eye(4) + 0.2 * np.random.default_rng(1).standard_normal((4, 4))
    value, gradient = vectors.soft_objective(T, unit, g, neutral, 5.0)
    W, N, B = unit.T, unit[neutral].T, g[:, None]
    expected = np.sum(((T @ W).T @ (T @ W) - W.T @ W) ** 2) + 5 * np.sum(((T @ N).T @ (T @ B)) ** 2)
    assert value == pytest.approx(expected)
    estimated = numerical(lambda: vectors.soft_objective(T, unit, g, neutral, 5.0)[0], T)
    np.testing.assert_allclose(gradient, estimated, atol=1e-5)
    np.testing.assert_allclose(vectors.soft_debias(unit, g, neutral, 0.0)[0], unit, atol=1e-6)
    left = [vectors.direct_bias(*vectors.soft_debias(unit, g, neutral, strength), neutral)
            for strength in (0, 10, 1000)]
    assert left[0] > 1.2 * left[1] and left[1] > 2 * left[2]
    default, _ = vectors.soft_debias(unit, g, neutral)
    assert np.array_equal(default, vectors.soft_debias(unit, g, neutral, 0.2)[0])


@pytest.mark.parametrize('strength', [1.0, 1e3, 1e5])
def test_soft_debiasing_ends_at_a_minimum_and_mirrors_nothing(strength, monkeypatch):
    unit, _, pairs, neutral = biased(V=60, d=10)
    g = vectors.find_bias_direction(unit, pairs)
    found = []
    def spy(*args, **kwargs):
        found.append(minimize(*args, **kwargs))
        return found[0]

    monkeypatch.setattr(vectors, 'minimize', spy)
    debiased, along = vectors.soft_debias(unit, g, neutral, strength)
    T = found[0].x.reshape(10, 10)
    least, gradient = vectors.soft_objective(T, unit, g, neutral, strength)
    start, _ = vectors.soft_objective(np.eye(10), unit, g, neutral, strength)
    assert np.abs(gradient).max() < 1e-2 * start
    root = np.real(sqrtm(T.T @ T))
    assert vectors.soft_objective(root, unit, g, neutral, strength)[0] == pytest.approx(least)
    np.testing.assert_allclose(debiased, vectors.normalize_rows(unit @ root), atol=1e-6)
    np.testing.assert_allclose(along, root @ g / np.linalg.norm(root @ g), atol=1e-6)
    assert along @ g > 0
