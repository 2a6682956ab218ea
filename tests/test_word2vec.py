"""word2vec's gradients are those of its costs, by hand and fast alike; the vectors are looked up, judged and debiased as said.

    pip install -r requirements.txt -r requirements-companions.txt
    python -m pytest tests/test_word2vec.py
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import minimize

pytest.importorskip('gensim')
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'companions'))

import corpus as corpora  # noqa: E402
import vectors  # noqa: E402
import word2vec  # noqa: E402
from word2vec import (Noise, cbow, negative_sampling_rows, negSamplingCostAndGradient, skipgram,  # noqa: E402
                      softmaxCostAndGradient)

pytestmark = pytest.mark.usefixtures('one_thread')
TOKENS = {word: row for row, word in enumerate('abcde')}


class Fixed:
    """Draws these rows, over and over."""

    def __init__(self, *rows):
        self.rows, self.drawn = rows, 0

    def sampleTokenIdx(self):
        self.drawn += 1
        return self.rows[(self.drawn - 1) % len(self.rows)]


def tables(size=5, dim=3, seed=0):
    return np.random.default_rng(seed).standard_normal((2, size, dim))


def numerical(f, x, step=1e-6):
    """The gradient of f() with respect to the array x, which f reads, by central differences."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        before = x[at]
        x[at] = before + step
        above = f()
        x[at] = before - step
        gradient[at] = (above - f()) / (2 * step)
        x[at] = before
    return gradient


# ---------------------------------------------------------------------------------------------- by hand

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
    expected = -np.log(np.exp(U[2] @ v) / np.exp(U @ v).sum()) if cost_and_gradient is softmax else \
        -np.log(s[2]) - np.log(1 - s[drawn]).sum()
    assert cost == pytest.approx(expected)
    f = lambda: cost_and_gradient(v, 2, U)[0]  # noqa: E731
    np.testing.assert_allclose(grad_v, numerical(f, v), atol=1e-8)
    np.testing.assert_allclose(grad_U, numerical(f, U), atol=1e-8)
    assert U.shape == grad_U.shape and v.shape == grad_v.shape


@pytest.mark.parametrize('model', [skipgram, cbow])
@pytest.mark.parametrize('cost_and_gradient', [softmax, negative])
def test_whole_windows(model, cost_and_gradient):
    """With a word twice in the window, and the centre in it too."""
    inputs, outputs = tables(seed=1)
    window = ['a', 'b', 'e', 'b', 'c']
    f = lambda: model('c', 3, window, TOKENS, inputs, outputs, None, cost_and_gradient)[0]  # noqa: E731
    cost, grad_in, grad_out = model('c', 3, window, TOKENS, inputs, outputs, None, cost_and_gradient)
    np.testing.assert_allclose(grad_in, numerical(f, inputs), atol=1e-7)
    np.testing.assert_allclose(grad_out, numerical(f, outputs), atol=1e-7)
    rows = [TOKENS[word] for word in window]
    if model is skipgram:
        assert cost == pytest.approx(sum(cost_and_gradient(inputs[2], row, outputs)[0] for row in rows))
    else:
        assert cost == pytest.approx(cost_and_gradient(inputs[rows].mean(0), 2, outputs)[0])


def test_a_repeated_negative_counts_twice():
    (v, *_), U = tables()
    _, _, once = negSamplingCostAndGradient(v, 0, U, Fixed(1, 2), K=2)
    cost, _, twice = negSamplingCostAndGradient(v, 0, U, Fixed(1, 1, 2), K=3)
    np.testing.assert_allclose(twice[1], 2 * once[1])
    np.testing.assert_allclose(twice[[0, 2, 3, 4]], once[[0, 2, 3, 4]])
    assert cost == pytest.approx(negSamplingCostAndGradient(v, 0, U, Fixed(1, 2), K=2)[0] - np.log(1 / (1 + np.exp(U[1] @ v))))


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
    assert 0 not in word2vec.getNegativeSamples(0, noise, 50) and 0 in word2vec.getNegativeSamples(1, noise, 5)
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


# ---------------------------------------------------------------------------------------------- fast

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
    """K = 12 and 4 draws, so that a draw counts 3, 4, 6 or 12 times as 0, 1, 2 or 3 of them are the target."""
    left_out = set()
    for seed in range(4):
        inputs, outputs = tables(7, 3, seed)
        centres, contexts, mask, negatives = blocks(seed)
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
                    expected += model(int(centres[g, position]), 8, window, words, inputs, outputs, None, by_hand)[1:]
        found = word2vec.GRADIENTS[method](inputs, outputs, centres, contexts, mask, negatives, 12)
        gradients, _ = added_up(found, 7, 3)
        np.testing.assert_allclose(list(gradients), expected, atol=1e-12)
    assert {0, 1, 2} <= left_out


@pytest.mark.parametrize('method', ['skip-gram', 'CBOW'])
def test_the_curvatures_are_those_of_the_cost(method):
    """The trace of the second derivatives, where no word stands twice in a window; of CBOW's inputs m times that."""
    inputs, outputs = tables(9, 3)
    # Centres 3, 4 and 5 with their neighbours, in one block, where no word is an input in two places.
    contexts, negatives = np.arange(1, 8)[None], np.array([[0, 8, 8]])
    centres = contexts[:, 2:5]
    mask = (np.abs(np.arange(3)[:, None] + 2 - np.arange(7)) == 1)[None].astype(float)
    call = word2vec.GRADIENTS[method]
    curvatures = list(added_up(call(inputs, outputs, centres, contexts, mask, negatives, 5), 9, 3))[1]

    def gradient(table, row):
        return list(added_up(call(inputs, outputs, centres, contexts, mask, negatives, 5), 9, 3))[0][table][row].copy()

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
            assert found[row] == pytest.approx((2 if method == 'CBOW' and k == 0 else 1) * trace, abs=1e-8), (k, row)
    assert (curvatures[1] > 0).sum() > 3


def test_a_negative_is_never_the_target_in_blocks_either():
    weights = word2vec.shares(np.array([[0, 1, 2]]), np.array([[0, 1, 1, 3]]), 6)
    assert weights.tolist() == [[[0, 2, 2, 2], [3, 0, 0, 3], [1.5] * 4]]
    assert not word2vec.shares(np.array([[5]]), np.array([[5, 5]]), 6).any()


def sentences(count=300, seed=0):
    """Two kinds of sentences that share no word but 'the', which is in all of them."""
    generator = np.random.default_rng(seed)
    kinds = [f'animal{k}' for k in range(6)], [f'number{k}' for k in range(6)]
    return [['the', *generator.choice(kinds[k % 2], 6).tolist()] for k in range(count)]


LITTLE = {'dim': 8, 'window': 3, 'negatives': 3, 'learning_rate': 0.05}


@pytest.mark.parametrize('method', ['skip-gram', 'CBOW'])
def test_training_tells_the_kinds_apart_and_is_the_same_each_time(method):
    text = word2vec.text_of(sentences())
    settings = {**LITTLE, 'epochs': 60, 'learning_rate': 0.05 if method == 'skip-gram' else 0.2}
    inputs, outputs = word2vec.train(text, method, 0, **settings)
    again = word2vec.train(text, method, 0, **settings)
    assert np.array_equal(inputs, again[0]) and np.array_equal(outputs, again[1])
    assert not np.array_equal(inputs, word2vec.train(text, method, 1, **settings)[0])
    rows = [row for row, word in enumerate(text.words) if word != 'the']
    cosines = vectors.unit_rows(inputs[rows]) @ vectors.unit_rows(inputs[rows]).T
    same = np.array([[text.words[a][0] == text.words[b][0] for a in rows] for b in rows])
    assert cosines[same].min() > cosines[~same].max()


def nothing(rows):
    return rows, np.zeros((*rows.shape, 8), np.float32), np.zeros(rows.shape, np.float32)


def test_training_makes_the_steps_that_it_says(monkeypatch):
    """Every window in its sentence, of the size drawn, each pair once an epoch; the rate falls, and curved rows move less."""
    monkeypatch.setattr(word2vec, 'SUBSAMPLING', 1e9)  # keeps every word
    text = word2vec.text_of([[f'w{10 * s + k}' for k in range(10)] for s in range(5)], 1)
    pairs, reaches = [], {}

    def recorded(inputs, outputs, centres, contexts, mask, negatives, K):
        assert negatives.shape == (len(centres), 32) and K == 3
        for g, position, x in np.argwhere(mask):
            pairs.append((centres[g, position], contexts[g, x]))
        ones = np.repeat(mask.any(2)[:, :, None], 8, 2).astype(np.float32)
        bent = np.where(centres % 2, 10 * word2vec.DAMPING, 0).astype(np.float32)
        return (centres, ones, bent), nothing(contexts)

    monkeypatch.setitem(word2vec.GRADIENTS, 'skip-gram', recorded)
    inputs, _ = word2vec.train(text, 'skip-gram', 0, **LITTLE, epochs=1, blocks=1)
    number = [int(word[1:]) for word in text.words]
    assert len(set(pairs)) == len(pairs)
    for c, o in pairs:
        assert number[c] // 10 == number[o] // 10 and 0 < abs(number[c] - number[o]) <= 3
        reaches.setdefault(number[c], set()).add(number[o] - number[c])
    assert len(reaches) == 50
    for n, offsets in reaches.items():  # a full window of 1, 2 or 3 to either side, cut off at the sentence's ends
        reach = max(map(abs, offsets))
        assert offsets == {k for k in range(-reach, reach + 1) if k and (n + k) // 10 == n // 10 and 0 <= n + k}
    assert {max(map(abs, offsets)) for offsets in reaches.values()} == {1, 2, 3}
    start = (np.random.default_rng([0, 0]).random((50, 8)) - 0.5) / 8
    moved = {text.words[row]: (start - inputs).mean(1)[row] for row in range(50)}
    rates = 0.05 - (0.05 - 1e-4) * np.arange(4) / 4
    steps = [rates[n // 16] / (1 + 10 * rates[n // 16] * (text.tokens[n] % 2)) for n in range(50)]
    assert [moved[text.words[row]] for row in text.tokens] == pytest.approx(steps, rel=1e-3)


def test_a_step_is_shortened_by_the_curvatures_of_all_its_parts_and_of_no_other_step(monkeypatch):
    monkeypatch.setattr(word2vec, 'SUBSAMPLING', 1e9)
    rows = np.zeros((1, 2), dtype=np.int64)  # one word twice
    found = rows, np.ones((1, 2, 8), np.float32), np.full((1, 2), 5 * word2vec.DAMPING, np.float32)
    monkeypatch.setitem(word2vec.GRADIENTS, 'skip-gram', lambda *_: (found, nothing(rows)))
    inputs, _ = word2vec.train(word2vec.text_of([['a', 'b'] * 16], 1), 'skip-gram', 0, **LITTLE, epochs=1, blocks=1)
    start = (np.random.default_rng([0, 0]).random((2, 8)) - 0.5) / 8
    rates = np.array([0.05, (0.05 + 1e-4) / 2])
    np.testing.assert_allclose((start - inputs)[0], (2 * rates / (1 + 10 * rates)).sum(), rtol=1e-4)
    settings = {**LITTLE, 'learning_rate': 1e-5, 'epochs': 1}  # below the least rate to which others fall
    inputs, _ = word2vec.train(word2vec.text_of([['a', 'b'] * 16], 1), 'skip-gram', 0, **settings, blocks=1)
    np.testing.assert_allclose((start - inputs)[0], 4e-5, rtol=1e-2)


def test_frequent_words_are_thinned(monkeypatch):
    text = word2vec.text_of([['the'] * 9 + [f'w{k % 40}'] for k in range(400)], 1)
    seen = np.zeros(len(text.words))

    def recorded(inputs, outputs, centres, contexts, mask, negatives, K):
        np.add.at(seen, centres[mask.any(2)], 1)
        return nothing(centres), nothing(contexts)

    monkeypatch.setitem(word2vec.GRADIENTS, 'skip-gram', recorded)
    monkeypatch.setattr(word2vec, 'SUBSAMPLING', 0.01)
    word2vec.train(text, 'skip-gram', 0, **LITTLE, epochs=20)
    expected = np.sqrt(0.01 / 0.9) + 0.01 / 0.9
    assert text.words[0] == 'the' and seen[0] / (20 * 3600) < 1.1 * expected
    assert seen[1:].sum() / (20 * 400) > 0.5 > 3 * expected


def test_vectors_that_diverge_are_refused():
    wanted = 'no longer finite in epoch .*smaller --learning-rate: 1e.40 is'
    with pytest.raises(ValueError, match=wanted):
        word2vec.train(word2vec.text_of(sentences()), 'skip-gram', 0, **{**LITTLE, 'learning_rate': 1e40}, epochs=40)


def test_gensim_is_given_the_same_words_and_settings():
    text = word2vec.text_of(sentences())
    table, seconds = word2vec.train_gensim(text, 0, **LITTLE, epochs=30)
    again, _ = word2vec.train_gensim(text, 0, **LITTLE, epochs=30)
    assert table.shape == (13, 8) and np.array_equal(table, again) and seconds > 0
    animal, other, number = (text.index[word] for word in ('animal0', 'animal1', 'number0'))
    unit = vectors.unit_rows(table)
    assert unit[animal] @ unit[other] > unit[animal] @ unit[number]


# ---------------------------------------------------------------------------------------------- SkipGram and CBOW

def test_an_embedding_is_the_row_of_its_word():
    torch.manual_seed(0)
    model = word2vec.SkipGram(2, 5, 11)
    assert torch.equal(model.vector(7), model.embeddings(torch.tensor(7))) and model.vector(7).shape == (5,)
    out = model(torch.tensor([7, 3, 7]))
    assert out.shape == (3, 4, 11) and not torch.allclose(out[0], out[1])
    torch.testing.assert_close(out[0], out[2])
    torch.testing.assert_close(out.exp().sum(2), torch.ones(3, 4))
    x = torch.relu(model.linear1(model.vector(7)))
    torch.testing.assert_close(out[0], torch.log_softmax(model.linear2(x).view(4, 11), 1))


def test_cbow_reads_its_window_in_any_order():
    torch.manual_seed(0)
    model = word2vec.CBOW(2, 5, 11)
    out = model(torch.tensor([[1, 2, 3, 4], [4, 2, 1, 3], [1, 2, 3, 5]]))
    assert out.shape == (3, 1, 11)
    torch.testing.assert_close(out[0], out[1])
    assert not torch.allclose(out[0], out[2])
    torch.testing.assert_close(out.exp().sum(2), torch.ones(3, 1))


def by_the_text(predicted, target):
    """The assignment's own count."""
    left, right = list(predicted), 0
    for word in target:
        if word in left:
            right += 1
            left.remove(word)
    return right


def test_the_accuracy_uses_each_prediction_once():
    predicted, targets = np.random.default_rng(0).integers(4, size=(2, 200, 4))
    found = word2vec.matches(predicted, targets)
    assert found.tolist() == [by_the_text(p, t) for p, t in zip(predicted, targets)] and len({*found.tolist()}) > 3
    assert word2vec.matches(np.array([[1, 1, 2, 3]]), np.array([[1, 2, 2, 1]])).tolist() == [3]


def test_windows_lie_in_one_sentence():
    text = word2vec.text_of([list('abcde'), list('fghi'), list('jklmno')], 1)
    centres, contexts = word2vec.windows(text, 2)
    words = [(text.words[c], ''.join(text.words[row] for row in row)) for c, row in zip(centres, contexts)]
    assert words == [('c', 'abde'), ('l', 'jkmn'), ('m', 'klno')]
    assert word2vec.windows(word2vec.text_of([['a', 'b']], 1), 2)[1].shape == (0, 4)


def test_the_ceilings_are_the_best_of_all_answers():
    generator = np.random.default_rng(0)
    centres, contexts = generator.integers(2, size=30), generator.integers(3, size=(30, 2))
    contexts[:8], centres[:8] = [1, 1], 0  # where one word twice is the best answer
    found = word2vec.ceilings(centres, contexts)
    best = 0
    for c in range(2):
        mine = contexts[centres == c]
        best += max(sum(by_the_text(answer, t) for t in mine) for answer in np.ndindex(3, 3))
    assert found['SkipGram'] == pytest.approx(best / 60)
    groups = {}
    for c, t in zip(centres, contexts):
        groups.setdefault(tuple(sorted(t)), []).append(c)
    assert found['CBOW'] == pytest.approx(sum(max(np.bincount(group)) for group in groups.values()) / 30)


@pytest.mark.parametrize('name', ['SkipGram', 'CBOW'])
def test_the_predictors_learn_up_to_their_ceiling(name):
    generator = np.random.default_rng(0)
    text = word2vec.text_of([[f'w{(start + k) % 9}' for k in range(7)] for start in generator.integers(9, size=60)], 1)
    record = word2vec.fit_predictor(text, name, 0, 15)
    assert record['accuracy'][-1] == 1 == word2vec.ceilings(*word2vec.windows(text, 2))[name] and record['accuracy'][0] < 1
    assert record == word2vec.fit_predictor(text, name, 0, 15) and record['loss'][-1] < record['loss'][0]


# ---------------------------------------------------------------------------------------------- the vectors

def test_the_measure_of_forms():
    index = {word: row for row, word in enumerate(['cat', 'cats', 'dog', 'dogs', 'walk', 'walked', 'as', 'a'])}
    pairs = vectors.form_pairs(index)
    assert pairs.tolist() == [[0, 1], [2, 3], [4, 5]]
    table = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0.1], [-0.8, -0.2], [-0.8, -0.2], [0.5, 0.5], [0.1, 0.9]])
    ranks = vectors.partner_ranks(table, pairs)
    cosine = vectors.unit_rows(table) @ vectors.unit_rows(table).T
    expected = [[sum(cosine[a, w] >= cosine[a, b] - 1e-7 for w in range(8) if w != a) for a, b in way]
                for way in (pairs, pairs[:, ::-1])]
    assert ranks.tolist() == expected and ranks.max() > 3
    assert (vectors.partner_ranks(np.ones((8, 2)), pairs) == 7).all()  # a table that tells nothing apart gets nothing
    assert (vectors.partner_ranks(np.full((8, 2), np.nan), pairs) >= 7).all()
    counts = np.array([50, 7, 400, 300, 5, 1000, 1, 1])
    found = vectors.form_measure(table, pairs, counts)
    assert found['mrr'] == pytest.approx((1 / ranks).mean())
    assert [row[:3] for row in found['by_count']] == [[5, 10, 2], [300, None, 1]]
    assert found['by_count'][1][3] == pytest.approx((1 / ranks[:, 1]).mean())


def test_what_is_chosen_on_some_pairs_is_reported_on_others(monkeypatch):
    stems = [f'{a}{b}{c}' for a in 'bcd' for b in 'aeiou' for c in 'lmn']
    text = word2vec.text_of([stems, [f'{word}s' for word in stems], [f'{word}ing' for word in stems[:7]]], 1)
    chosen, reported = ({*map(tuple, word2vec.judged_pairs(text, tuning=tuning))} for tuning in (True, False))
    assert not chosen & reported and chosen | reported == {*map(tuple, vectors.form_pairs(text.index))}
    plurals = {*map(tuple, word2vec.judged_pairs(text, ('s',)))}
    assert plurals < reported and len(chosen) == len(reported) == 26
    seen = []

    def look(table, pairs, counts=None):
        seen.append({*map(tuple, pairs)})
        return {'mrr': 0.5}

    monkeypatch.setattr(word2vec, 'form_measure', look)
    monkeypatch.setattr(word2vec, 'analogy_accuracy', look)
    word2vec.measure(text, 'skip-gram', 0, {**LITTLE, 'epochs': 1})
    word2vec.measure_rate(text, 'CBOW', 0, {**LITTLE, 'epochs': 1})
    assert seen[0] == reported and seen[1] <= plurals and seen[2] == chosen and seen[3] <= chosen
    words = 'value function array number list'.split()
    text, seen[:] = word2vec.text_of([words + stems, [f'{word}s' for word in words]], 1), []
    word2vec.study_bias(text, np.random.default_rng(0).standard_normal((len(text.words), 8)), 'plural')
    assert len(seen) == 5 and all(pairs == {*map(tuple, word2vec.judged_pairs(text))} for pairs in seen)


def test_an_analogy_is_none_of_its_three_words():
    unit = vectors.unit_rows(np.array([[1.0, 0, 0.1], [1, 1, 0.1], [0.1, 0, 1], [0.1, 1, 1], [1, 0.5, 0.5]]))
    assert vectors.analogy(unit, 0, 1, 2) == 3 and vectors.analogy(unit, 3, 2, 1) == 0
    assert vectors.analogy_accuracy(unit, np.array([[0, 1], [2, 3]])) == 1
    assert vectors.analogy_accuracy(unit, np.array([[0, 1], [2, 4]])) == 0.5  # 3 comes before 4


def test_the_nearest_are_never_those_left_out():
    unit = vectors.unit_rows(np.array([[1.0, 0], [1, 0.1], [0, 1]]))
    assert vectors.nearest(unit, unit[0], 8, (0,)).tolist() == [1, 2] and vectors.nearest(unit, unit[0], 1).tolist() == [0]


def biased(seed=0, V=40, d=8):
    """Words, of which four pairs differ by a common direction and noise."""
    generator = np.random.default_rng(seed)
    true = vectors.unit_rows(generator.standard_normal((1, d)))[0]
    table = generator.standard_normal((V, d))
    pairs = np.arange(8).reshape(4, 2)
    common = generator.standard_normal((4, d))
    table[pairs[:, 0]] = common + true + 0.3 * generator.standard_normal((4, d))
    table[pairs[:, 1]] = common - true + 0.3 * generator.standard_normal((4, d))
    return vectors.unit_rows(table), true, pairs, np.arange(8, V)


def test_several_pairs_find_the_direction_better_than_one():
    several, one = [], []
    for seed in range(10):
        unit, true, pairs, _ = biased(seed)
        g, share = vectors.bias_direction(unit, pairs)
        assert np.linalg.norm(g) == pytest.approx(1) and 0.25 < share <= 1
        several.append(g @ true)
        one.append(np.mean(vectors.unit_rows(unit[pairs[:, 0]] - unit[pairs[:, 1]]) @ true))
        assert vectors.bias_direction(unit, pairs[:, ::-1])[0] == pytest.approx(-g)
    assert np.mean(several) > 0.02 + np.mean(one) and min(several) > 0.85
    (others, right), (single, _) = vectors.agreement(*biased()[::2])
    assert others > single > 0 and right == 1
    opposite = np.array([[1.0, 0], [-1, 0]] * 4 + [[-1, 0], [1, 0]])  # five pairs, the last the other way round
    np.testing.assert_allclose(vectors.agreement(opposite, np.arange(10).reshape(5, 2)), [[0.6, 0.8], [0.2, 0.6]])


def test_hard_debiasing():
    unit, _, pairs, neutral = biased()
    g, _ = vectors.bias_direction(unit, pairs)
    pairs[1] = pairs[1, ::-1].copy()  # a pair that lies the other way round stays so
    debiased = vectors.hard_debias(unit, g, neutral, pairs)
    np.testing.assert_allclose(np.linalg.norm(debiased, axis=1), 1)
    np.testing.assert_allclose(debiased[neutral] @ g, 0, atol=1e-12)
    first, second = (debiased[neutral] @ debiased[pairs[:, k]].T for k in (0, 1))
    np.testing.assert_allclose(first, second, atol=1e-12)
    kept = unit[neutral] - np.outer(unit[neutral] @ g, g)
    np.testing.assert_allclose(debiased[neutral], kept / np.linalg.norm(kept, axis=1, keepdims=True))
    apart = debiased[pairs[:, 0]] - debiased[pairs[:, 1]]
    np.testing.assert_allclose(apart, np.outer(apart @ g, g), atol=1e-12)
    assert (np.sign(apart @ g) == np.sign((unit[pairs[:, 0]] - unit[pairs[:, 1]]) @ g)).all()
    assert vectors.bias(unit, g, neutral) > 0.1 and vectors.bias(debiased, g, neutral) < 1e-12


def test_soft_debiasing_minimises_the_objective_of_its_paper():
    unit, _, pairs, neutral = biased(V=20, d=4)
    g, _ = vectors.bias_direction(unit, pairs)
    T = np.eye(4) + 0.2 * np.random.default_rng(1).standard_normal((4, 4))
    value, gradient = vectors.soft_objective(T, unit, g, neutral, 5.0)
    W, N, B = unit.T, unit[neutral].T, g[:, None]
    assert value == pytest.approx(np.sum(((T @ W).T @ (T @ W) - W.T @ W) ** 2) + 5 * np.sum(((T @ N).T @ (T @ B)) ** 2))
    np.testing.assert_allclose(gradient, numerical(lambda: vectors.soft_objective(T, unit, g, neutral, 5.0)[0], T), atol=1e-5)
    np.testing.assert_allclose(vectors.soft_debias(unit, g, neutral, 0.0)[0], unit, atol=1e-6)
    left = [vectors.bias(*vectors.soft_debias(unit, g, neutral, strength), neutral) for strength in (0, 10, 1000)]
    assert left[0] > 1.2 * left[1] and left[1] > 2 * left[2]
    assert np.array_equal(vectors.soft_debias(unit, g, neutral)[0], vectors.soft_debias(unit, g, neutral, 0.2)[0])


@pytest.mark.parametrize('strength', [1.0, 1e3, 1e5])
def test_soft_debiasing_ends_at_a_minimum_and_mirrors_nothing(strength, monkeypatch):
    unit, _, pairs, neutral = biased(V=60, d=10)
    g, _ = vectors.bias_direction(unit, pairs)
    found = []
    monkeypatch.setattr(vectors, 'minimize', lambda *args, **kwargs: found.append(minimize(*args, **kwargs)) or found[0])
    debiased, along = vectors.soft_debias(unit, g, neutral, strength)
    T = found[0].x.reshape(10, 10)
    least, gradient = vectors.soft_objective(T, unit, g, neutral, strength)
    assert np.abs(gradient).max() < 1e-2 * vectors.soft_objective(np.eye(10), unit, g, neutral, strength)[0]
    root = np.real(sqrtm(T.T @ T))
    assert vectors.soft_objective(root, unit, g, neutral, strength)[0] == pytest.approx(least)
    np.testing.assert_allclose(debiased, vectors.unit_rows(unit @ root), atol=1e-6)
    np.testing.assert_allclose(along, root @ g / np.linalg.norm(root @ g), atol=1e-6)
    assert along @ g > 0


# ---------------------------------------------------------------------------------------------- corpora

SOURCE = '''"""A module. It has  two sentences!

    literal text stays:

Example::

    drop this block

back again here
---------------
>>> dropped(doctest)
dropped output

.. code-block:: python

    drop that too

See :func:`some.thing` and n_samples or x2, the well-known user's words.
"""

def f():
    r"""A module. It has \\d escapes."""

def g():
    "Another one here"
    "not a docstring here"
'''


def test_what_is_kept_of_docstrings(tmp_path):
    (tmp_path / 'a.py').write_text(SOURCE)
    (tmp_path / 'b.py').write_text('print "another version of the language"')
    first, *_ = found = corpora.docstrings_of(tmp_path / 'a.py')
    assert len(found) == 3 and found[2] == 'Another one here' and corpora.docstrings_of(tmp_path / 'b.py') == []
    assert [' '.join(words) for words in corpora.split(corpora.without_code(first))] == [
        'a module', 'it has two sentences', 'literal text stays', 'back again here', "see and or the well-known user's words"]


@pytest.fixture(scope='module')
def numpys():
    return corpora.docstrings(libraries=('numpy',))


def test_the_corpus_is_thinned_evenly(numpys):
    part = corpora.thinned(numpys.sentences, 20_000)
    assert numpys.sources == {'numpy': np.__version__}
    assert 19_900 < sum(map(len, part)) <= 20_000 < sum(map(len, numpys.sentences))
    assert len({*map(tuple, numpys.sentences)}) == len(numpys.sentences)
    places = {tuple(sentence): place / len(numpys.sentences) for place, sentence in enumerate(numpys.sentences)}
    assert np.mean([places[tuple(sentence)] for sentence in part]) == pytest.approx(0.5, abs=0.05)
    assert corpora.thinned(part, 20_000) is part


def test_private_folders_and_tests_are_left_out_and_a_library_may_be_missing(tmp_path, monkeypatch):
    for name in ('__init__.py', 'b.py', '_private.py', 'tests/c.py', '_core/d.py', 'a/e.py'):
        (tmp_path / 'some_library' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'some_library' / name).write_text(f'"""This is {Path(name).stem.strip("_")}."""')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(corpora, 'LIBRARIES', {'some_library': 'numpy', 'no_such_library': 'nothing'})
    found = corpora.docstrings(libraries=('some_library', 'no_such_library'))
    assert [sentence[2] for sentence in found.sentences] == ['init', 'private', 'e', 'b'] and set(found.sources) == {'numpy'}
    with pytest.raises(ValueError, match='docstrings: no sentence'):
        corpora.docstrings(libraries=('no_such_library',))


def test_a_text_file_and_the_treebank(tmp_path):
    (tmp_path / 'book.txt').write_text('The Cat sat; a DOG ran. Yes!\n\nNo end\nof line', encoding='utf-8-sig')
    corpus = corpora.text_file(tmp_path / 'book.txt')
    assert corpus.sentences == [['the', 'cat', 'sat'], ['a', 'dog', 'ran'], ['no', 'end', 'of', 'line']]
    assert corpus.name == 'book.txt' and set(corpus.sources) == {'book.txt'}
    (tmp_path / 'bare.txt').write_text('no full stop ' * 1000)
    assert [len(sentence) for sentence in corpora.text_file(tmp_path / 'bare.txt').sentences] == [1000] * 3
    (tmp_path / 'datasetSentences.txt').write_text(
        "sentence_index\tsentence\r\n1\tThe Rock is n't here . No .\r\n2\tOh\n3\tA caf\u00e9 scene\n"
        '4\tThe -LRB- next -RRB- clich\u00c3\u00a9\n5\tNo line\x85 ends here\n', encoding='utf-8')
    corpus = corpora.treebank(tmp_path)
    assert corpus.sentences == [['the', 'rock', 'is', "n't", 'here', 'no'], ['a', 'café', 'scene'], ['the', 'next', 'cliché'],
                                ['no', 'line', 'ends', 'here']]
    assert corpora.treebank(tmp_path).sha256 == corpus.sha256


# ---------------------------------------------------------------------------------------------- the program

def program(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['word2vec.py', *map(str, arguments)])
    word2vec.main()


def strip_times(record):
    timed = 'seconds', 'microseconds', 'factor', 'ours_words_a_second', 'ours_cores'
    return {key: value for key, value in record.items() if key not in timed}


def test_the_program_in_little(numpys, tmp_path, monkeypatch, capsys):
    program(monkeypatch, '--dry-run', '--jobs', 1, '--output-dir', tmp_path)
    out = capsys.readouterr().out
    found = json.loads((tmp_path / 'plots' / 'word2vec.json').read_text())
    assert found['corpus'] == 'docstrings' and found['sources'] == {'numpy': np.__version__}
    assert word2vec.methods(word2vec.of_job(found['runs'], 'vectors')) == ['skip-gram', 'CBOW', 'gensim skip-gram']
    jobs = {'vectors', 'accuracy', 'ceilings', 'speed', 'steps', 'examples', 'bias'}
    assert {record['job'] for record in found['runs']} == jobs
    again = corpora.make('docstrings', corpora.thinned(numpys.sentences, 20_000), {})
    assert found['sha256'] == again.sha256  # read anew, and the same
    assert word2vec.report(found['runs']) in out and "times gensim's" in out
    assert 'gender: 0 of 10 pairs are in the vocabulary' in out
    for name in ('word2vec.png', 'word2vec_vectors.png'):
        assert (tmp_path / 'plots' / name).read_bytes()[:4] == b'\x89PNG'


def test_the_program_on_other_corpora_without_gensim_gives_the_same_twice(tmp_path, monkeypatch, capsys):
    """The same sentences as a text file and as the Treebank, so the same numbers."""
    monkeypatch.setattr(word2vec, 'has_gensim', lambda: False)
    monkeypatch.setattr(word2vec, 'save_figure', lambda *_: None)  # the other test draws them
    lines = [' '.join(sentence).translate(str.maketrans('0123456789', 'abcdefghij')) for sentence in sentences(120)]
    (tmp_path / 'book.txt').write_text('.\n'.join(lines))
    rows = ''.join(f'{k}\t{line}\n' for k, line in enumerate(lines, 1))
    (tmp_path / 'datasetSentences.txt').write_text('sentence_index\tsentence\n' + rows)
    results = []
    for source, path in (('--text', tmp_path / 'book.txt'), ('--sst', tmp_path)):
        program(monkeypatch, '--dry-run', '--jobs', 1, source, path, '--output-dir', tmp_path / source)
        assert 'gensim is not installed, so there is no comparison' in capsys.readouterr().out
        results.append(json.loads((tmp_path / source / 'plots' / 'word2vec.json').read_text()))
    for result in results:
        assert result['vocabulary'] == 13 and result['words'] == 120 * 7
    assert list(map(strip_times, results[0]['runs'])) == list(map(strip_times, results[1]['runs']))
    assert results[0]['sha256'] == results[1]['sha256'] and set(results[1]['sources']) == {'datasetSentences.txt'}


def test_odd_corpora_and_options_come_to_an_end(tmp_path, monkeypatch, capsys):
    """Short words only; nothing but words of pairs; a window far beyond every sentence."""
    monkeypatch.setattr(word2vec, 'has_gensim', lambda: False)
    for name, text in (('short', 'The cat sat on a mat. ' * 20),
                       ('pairs', 'Value values array arrays list lists file files. ' * 20)):
        (tmp_path / f'{name}.txt').write_text(text)
        program(monkeypatch, '--dry-run', '--jobs', 1, '--text', tmp_path / f'{name}.txt', '--window', 10 ** 9, '--output-dir',
                tmp_path / name)
        assert (tmp_path / name / 'plots' / 'word2vec_vectors.png').exists()
    assert 'plural: 4 of 10 pairs are in the vocabulary' in capsys.readouterr().out


def test_a_word_asked_for_is_shown_as_such(monkeypatch, tmp_path):
    """Also where it is the nearest to another one; and no word is shown twice."""
    figures = []
    monkeypatch.setattr(word2vec, 'save_figure', lambda path, figure: figures.append(figure))
    words = ['film', 'actor', 'story', *(f'other{k}' for k in range(40))]
    text = word2vec.Text(words, np.full(43, 9), np.arange(43), np.zeros(43, int))
    table = np.random.default_rng(0).standard_normal((43, 5))
    table[:3] = 1 + 0.01 * table[:3]
    word2vec.plot_vectors(tmp_path / 'x.png', text, table)
    shown = [(label.get_text(), label.get_weight()) for label in figures[0].axes[0].texts]
    assert len({word for word, _ in shown}) == len(shown) > 20
    assert {'film', 'actor', 'story'} <= {word for word, weight in shown if weight == 'bold'}
    assert sum(weight == 'bold' for _, weight in shown) == 8


def test_tuning_in_little(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(word2vec, 'has_gensim', lambda: False)
    monkeypatch.setattr(word2vec, 'RATES', (0.05, 1e40))
    (tmp_path / 'book.txt').write_text('A cat and cats sat. ' * 200 + 'A dog and dogs ran. ' * 200)
    program(monkeypatch, '--tune', '--dry-run', '--jobs', 1, '--text', tmp_path / 'book.txt', '--output-dir', tmp_path)
    runs = json.loads((tmp_path / 'plots' / 'tune_word2vec.json').read_text())['runs']
    rates = [(method, rate) for method in word2vec.GRADIENTS for rate in (0.05, 1e40)]
    assert [(r['method'], r['learning_rate']) for r in runs] == rates
    assert [r['mrr'] is None for r in runs] == 2 * [False, True]
    out = capsys.readouterr().out
    assert word2vec.rate_table(runs) in out and '| 1 of 1 diverged |' in out


def test_labels_do_not_overlap():
    points = np.random.default_rng(0).normal(200, 40, (40, 2))
    labels = ['word' * (1 + k % 3) for k in range(40)]
    middles = points + word2vec.spread_labels(points, labels, 9)
    half = np.array([[0.31 * 9 * len(label), 0.65 * 9] for label in labels])
    apart = (np.abs(middles[:, None] - middles) >= half[:, None] + half - 1e-9).any(2)
    assert apart[~np.eye(40, dtype=bool)].all()
    assert (np.abs(points[:, None] - middles) >= half).any(2).all()


@pytest.mark.parametrize('content, arguments, words', [
    (None, ['--text', 'nowhere.txt'], 'nowhere.txt: no such file, expected a text file'),
    (None, ['--sst', 'nowhere'], "datasetSentences.txt: no such file, expected the Stanford Sentiment Treebank's"),
    (b'\xff\xfe\xfa', ['--text', 'book.txt'], 'book.txt: not UTF-8'),
    (b'12 34', ['--text', 'book.txt'], 'book.txt: no sentence of two words'),
    (50 * b'one two three. ', ['--tune', '--text', 'book.txt'], 'book.txt: no word in it stands there with s, ed or ing'),
    (b'one two three', ['--text', 'book.txt'], 'the corpus has 0 different words that occur 5 times or more (--min-count)'),
    (b'sentence\n1\tA b', ['--sst', '.'], "not the Stanford Sentiment Treebank's, expected a line"),
    (b'', ['--sst', '.'], "not the Stanford Sentiment Treebank's"),
    (b'sentence_index\tsentence\none\tA b', ['--sst', '.'], "not the Stanford Sentiment Treebank's"),
    (b'sentence_index\tsentence\n1 A b', ['--sst', '.'], "not the Stanford Sentiment Treebank's"),
    (None, ['--sst', '.', '--text', 'x'], 'not allowed with'), (None, ['--dim', '0'], 'argument --dim'),
    (None, ['--dim', '1'], '--dim: expected at least 2')])
def test_bad_input_is_one_sentence(content, arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        for name in ('book.txt', 'datasetSentences.txt'):
            Path(name).write_bytes(content)
    with pytest.raises(SystemExit) as end:
        program(monkeypatch, '--output-dir', tmp_path, *arguments)
    assert end.value.code == 2 and words in capsys.readouterr().err
