"""The fast gradients are those by hand, and training takes the steps that it says."""

import numpy as np
import pytest

from companions.word2vec import fast, vectors
from companions.word2vec.by_hand import cbow, negSamplingCostAndGradient, skipgram
from tests.companions.word2vec.helpers import LITTLE, Fixed, sentences, tables, train_by_hand


def blocks(seed, V=7, G=3, L=4, X=8, S=4):
    generator = np.random.default_rng(seed)
    contexts = generator.integers(V, size=(G, X))
    mask = (generator.random((G, L, X)) < 0.5) * (np.arange(X) != 2 + np.arange(L)[:, None])
    mask[0, 1] = 0  # a position whose window is empty
    return contexts[:, 2:2 + L], contexts, mask.astype(float), generator.integers(V, size=(G, S))


def added_up(found, V, dim):
    """The gradients of both tables, [V, dim], and their curvatures, [V]."""
    totals = []
    for rows, gradients, curvatures in found:
        totals.append((np.zeros((V, dim)), np.zeros(V)))
        np.add.at(totals[-1][0], rows.ravel(), gradients.reshape(-1, dim))
        np.add.at(totals[-1][1], rows.ravel(), curvatures.ravel())
    return zip(*totals)


@pytest.mark.parametrize('method', ['skip-gram', 'CBOW'])
def test_the_fast_gradients_are_those_by_hand(method):
    """K = 12 and 4 draws: a draw weighs 3, 4, 6 or 12 if 0, 1, 2 or 3 of them are the target."""
    left_out = set()
    for seed in range(4):
        inputs, outputs = tables(7, 3, seed)
        centers, contexts, mask, negatives = blocks(seed)
        words = {row: row for row in range(7)}
        expected = np.zeros((2, 7, 3))
        for g in range(3):
            def by_hand(v, target, U, _):
                free = [int(n) for n in negatives[g] if n != target]
                left_out.add(4 - len(free))
                return negSamplingCostAndGradient(v, target, U, Fixed(*free), K=12)

            for position in range(4):
                window = contexts[g][mask[g, position] > 0].tolist()
                if window:
                    model = skipgram if method == 'skip-gram' else cbow
                    expected += model(int(centers[g, position]), 8, window, words, inputs, outputs,
                                      None, by_hand)[1:]
        found = fast.GRADIENTS[method](inputs, outputs, centers, contexts, mask, negatives, 12)
        gradients, _ = added_up(found, 7, 3)
        np.testing.assert_allclose(list(gradients), expected, atol=1e-12)
    assert {0, 1, 2} <= left_out


@pytest.mark.parametrize('method', ['skip-gram', 'CBOW'])
def test_the_curvatures_are_those_of_the_cost(method):
    """The Hessian's trace, if no word is twice in a window; of CBOW's inputs m times that."""
    inputs, outputs = tables(9, 3)
    # Centers 3, 4 and 5 with their neighbors, in one block; no word is an input in two places.
    contexts, negatives = np.arange(1, 8)[None], np.array([[0, 8, 8]])
    centers = contexts[:, 2:5]
    mask = (np.abs(np.arange(3)[:, None] + 2 - np.arange(7)) == 1)[None].astype(float)
    call = fast.GRADIENTS[method]

    def both():
        return added_up(call(inputs, outputs, centers, contexts, mask, negatives, 5), 9, 3)

    _, curvatures = both()

    def gradient(table, row):
        return list(both())[0][table][row].copy()

    for k, (table, found) in enumerate(zip((inputs, outputs), curvatures)):
        for row in range(9):
            if method == 'CBOW' and k == 0 and row in (2, 4, 6):
                continue  # in a window beside
            trace = 0
            for dim in range(3):
                kept = table[row, dim]
                table[row, dim] = kept + 1e-5
                above = gradient(k, row)
                table[row, dim] = kept - 1e-5
                trace += (above - gradient(k, row))[dim] / 2e-5
                table[row, dim] = kept
            times = 2 if method == 'CBOW' and k == 0 else 1
            assert found[row] == pytest.approx(times * trace, abs=1e-8), (k, row)
    assert (curvatures[1] > 0).sum() > 3


def test_a_negative_is_never_the_target_in_blocks_either():
    weights = fast.negative_weights(np.array([[0, 1, 2]]), np.array([[0, 1, 1, 3]]), 6)
    assert weights.tolist() == [[[0, 2, 2, 2], [3, 0, 0, 3], [1.5] * 4]]
    assert not fast.negative_weights(np.array([[5]]), np.array([[5, 5]]), 6).any()


@pytest.mark.parametrize('method', ['skip-gram', 'CBOW'])
def test_training_tells_the_kinds_apart_and_is_the_same_each_time(method):
    text = fast.text_of(sentences())
    settings = {**LITTLE, 'epochs': 60, 'learning_rate': 0.05 if method == 'skip-gram' else 0.2}
    inputs, outputs = fast.train(text, method, 0, **settings)
    again = fast.train(text, method, 0, **settings)
    assert np.array_equal(inputs, again[0]) and np.array_equal(outputs, again[1])
    assert not np.array_equal(inputs, fast.train(text, method, 1, **settings)[0])
    rows = [row for row, word in enumerate(text.words) if word != 'the']
    cosines = vectors.normalize_rows(inputs[rows]) @ vectors.normalize_rows(inputs[rows]).T
    same = np.array([[text.words[a][0] == text.words[b][0] for a in rows] for b in rows])
    assert cosines[same].min() > cosines[~same].max()


@pytest.mark.parametrize('method', ['skip-gram', 'CBOW'])
def test_training_by_hand_finds_the_same_vectors(method, monkeypatch):
    """Every word is kept and no step is shortened; 12 negatives are a multiple of 1 to 4 draws."""
    monkeypatch.setattr(fast, 'SUBSAMPLING', 1e9)
    monkeypatch.setattr(fast, 'DAMPING', np.inf)
    text = fast.text_of(sentences(20), 1)
    settings = {'dim': 8, 'window': 3, 'negatives': 12, 'epochs': 2, 'learning_rate': 0.03,
                'block': 4, 'blocks': 2, 'drawn': 4}
    found = np.stack(fast.train(text, method, 0, **settings))
    np.testing.assert_allclose(found, train_by_hand(text, method, 0, **settings), atol=1e-5)
    assert np.abs(found).max(axis=(1, 2)).min() > 0.07  # inputs start below 0.0625, outputs at 0


def nothing(rows):
    return rows, np.zeros((*rows.shape, 8), np.float32), np.zeros(rows.shape, np.float32)


def test_training_makes_the_steps_that_it_says(monkeypatch):
    """Windows lie in sentences and have the size drawn; the rate falls; curved rows move less."""
    monkeypatch.setattr(fast, 'SUBSAMPLING', 1e9)  # keeps every word
    text = fast.text_of([[f'w{10 * s + k}' for k in range(10)] for s in range(5)], 1)
    pairs, reaches = [], {}

    def recorded(inputs, outputs, centers, contexts, mask, negatives, K):
        assert negatives.shape == (len(centers), 32) and K == 3
        for g, position, x in np.argwhere(mask):
            pairs.append((centers[g, position], contexts[g, x]))
        ones = np.repeat(mask.any(2)[:, :, None], 8, 2).astype(np.float32)
        bent = np.where(centers % 2, 10 * fast.DAMPING, 0).astype(np.float32)
        return (centers, ones, bent), nothing(contexts)

    monkeypatch.setitem(fast.GRADIENTS, 'skip-gram', recorded)
    inputs, _ = fast.train(text, 'skip-gram', 0, **LITTLE, epochs=1, blocks=1)
    number = [int(word[1:]) for word in text.words]
    assert len(set(pairs)) == len(pairs)
    for c, o in pairs:
        assert number[c] // 10 == number[o] // 10 and 0 < abs(number[c] - number[o]) <= 3
        reaches.setdefault(number[c], set()).add(number[o] - number[c])
    assert len(reaches) == 50
    for n, offsets in reaches.items():  # 1, 2 or 3 words on either side, if the sentence has them
        reach = max(map(abs, offsets))
        assert offsets == {k for k in range(-reach, reach + 1)
                           if k and (n + k) // 10 == n // 10 and 0 <= n + k}
    assert {max(map(abs, offsets)) for offsets in reaches.values()} == {1, 2, 3}
    start = (np.random.default_rng([0, 0]).random((50, 8)) - 0.5) / 8
    moved = {text.words[row]: (start - inputs).mean(1)[row] for row in range(50)}
    rates = 0.05 - (0.05 - 1e-4) * np.arange(4) / 4
    steps = [rates[n // 16] / (1 + 10 * rates[n // 16] * (text.tokens[n] % 2)) for n in range(50)]
    assert [moved[text.words[row]] for row in text.tokens] == pytest.approx(steps, rel=1e-3)


def test_a_step_is_shortened_by_the_curvatures_of_all_its_parts_and_of_no_other_step(monkeypatch):
    monkeypatch.setattr(fast, 'SUBSAMPLING', 1e9)
    rows = np.zeros((1, 2), dtype=np.int64)  # one word twice
    found = rows, np.ones((1, 2, 8), np.float32), np.full((1, 2), 5 * fast.DAMPING, np.float32)
    monkeypatch.setitem(fast.GRADIENTS, 'skip-gram', lambda *_: (found, nothing(rows)))
    text = fast.text_of([['a', 'b'] * 16], 1)
    inputs, _ = fast.train(text, 'skip-gram', 0, **LITTLE, epochs=1, blocks=1)
    start = (np.random.default_rng([0, 0]).random((2, 8)) - 0.5) / 8
    rates = np.array([0.05, (0.05 + 1e-4) / 2])
    np.testing.assert_allclose((start - inputs)[0], (2 * rates / (1 + 10 * rates)).sum(), rtol=1e-4)
    settings = {**LITTLE, 'learning_rate': 1e-5, 'epochs': 1}  # below min_learning_rate
    inputs, _ = fast.train(text, 'skip-gram', 0, **settings, blocks=1)
    np.testing.assert_allclose((start - inputs)[0], 4e-5, rtol=1e-2)


def test_frequent_words_are_subsampled(monkeypatch):
    text = fast.text_of([['the'] * 9 + [f'w{k % 40}'] for k in range(400)], 1)
    seen = np.zeros(len(text.words))

    def recorded(inputs, outputs, centers, contexts, mask, negatives, K):
        np.add.at(seen, centers[mask.any(2)], 1)
        return nothing(centers), nothing(contexts)

    monkeypatch.setitem(fast.GRADIENTS, 'skip-gram', recorded)
    monkeypatch.setattr(fast, 'SUBSAMPLING', 0.01)
    fast.train(text, 'skip-gram', 0, **LITTLE, epochs=20)
    expected = np.sqrt(0.01 / 0.9) + 0.01 / 0.9
    assert text.words[0] == 'the' and seen[0] / (20 * 3600) < 1.1 * expected
    assert seen[1:].sum() / (20 * 400) > 0.5 > 3 * expected


def test_vectors_that_are_not_finite_are_an_error():
    wanted = 'no longer finite in epoch .*smaller --learning-rate than 1e.40'
    with pytest.raises(ValueError, match=wanted):
        fast.train(fast.text_of(sentences()), 'skip-gram', 0,
                   **{**LITTLE, 'learning_rate': 1e40}, epochs=40)


def test_gensim_is_given_the_same_words_and_settings():
    pytest.importorskip('gensim')
    text = fast.text_of(sentences())
    table, seconds = fast.train_gensim(text, 0, **LITTLE, epochs=30)
    again, _ = fast.train_gensim(text, 0, **LITTLE, epochs=30)
    assert table.shape == (13, 8) and np.array_equal(table, again) and seconds > 0
    animal, other, number = (text.index[word] for word in ('animal0', 'animal1', 'number0'))
    unit = vectors.normalize_rows(table)
    assert unit[animal] @ unit[other] > unit[animal] @ unit[number]
