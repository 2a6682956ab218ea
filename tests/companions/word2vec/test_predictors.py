"""SkipGram and CBOW: shapes, accuracy as the assignment counts it, and its upper bound."""

import numpy as np
import pytest
import torch

from companions.word2vec import predictors
from companions.word2vec.fast import text_of


def test_an_embedding_is_the_row_of_its_word():
    torch.manual_seed(0)
    model = predictors.SkipGram(2, 5, 11)
    assert torch.equal(model.vector(7), model.embeddings(torch.tensor(7)))
    assert model.vector(7).shape == (5,)
    out = model(torch.tensor([7, 3, 7]))
    assert out.shape == (3, 4, 11) and not torch.allclose(out[0], out[1])
    torch.testing.assert_close(out[0], out[2])
    torch.testing.assert_close(out.exp().sum(2), torch.ones(3, 4))
    x = torch.relu(model.linear1(model.vector(7)))
    torch.testing.assert_close(out[0], torch.log_softmax(model.linear2(x).view(4, 11), 1))


def test_cbow_reads_its_window_in_any_order():
    torch.manual_seed(0)
    model = predictors.CBOW(2, 5, 11)
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
    found = predictors.matches(predicted, targets)
    assert found.tolist() == [by_the_text(p, t) for p, t in zip(predicted, targets)]
    assert len({*found.tolist()}) > 3
    assert predictors.matches(np.array([[1, 1, 2, 3]]), np.array([[1, 2, 2, 1]])).tolist() == [3]


def test_windows_lie_in_one_sentence():
    text = text_of([list('abcde'), list('fghi'), list('jklmno')], 1)
    centres, contexts = predictors.windows(text, 2)
    words = [(text.words[c], ''.join(text.words[row] for row in rows))
             for c, rows in zip(centres, contexts)]
    assert words == [('c', 'abde'), ('l', 'jkmn'), ('m', 'klno')]
    assert predictors.windows(text_of([['a', 'b']], 1), 2)[1].shape == (0, 4)


def test_the_ceilings_are_the_best_of_all_answers():
    generator = np.random.default_rng(0)
    centres, contexts = generator.integers(2, size=30), generator.integers(3, size=(30, 2))
    contexts[:8], centres[:8] = [1, 1], 0  # where one word twice is the best answer
    found = predictors.ceilings(centres, contexts)
    best = 0
    for c in range(2):
        mine = contexts[centres == c]
        best += max(sum(by_the_text(answer, t) for t in mine) for answer in np.ndindex(3, 3))
    assert found['SkipGram'] == pytest.approx(best / 60)
    groups = {}
    for c, t in zip(centres, contexts):
        groups.setdefault(tuple(sorted(t)), []).append(c)
    best = sum(max(np.bincount(group)) for group in groups.values())
    assert found['CBOW'] == pytest.approx(best / 30)


@pytest.mark.parametrize('name', ['SkipGram', 'CBOW'])
def test_the_predictors_learn_up_to_their_ceiling(name):
    starts = np.random.default_rng(0).integers(9, size=60)
    text = text_of([[f'w{(start + k) % 9}' for k in range(7)] for start in starts], 1)
    record = predictors.fit(text, name, 0, 15)
    highest = predictors.ceilings(*predictors.windows(text, 2))[name]
    assert record['accuracy'][-1] == 1 == highest and record['accuracy'][0] < 1
    assert record == predictors.fit(text, name, 0, 15) and record['loss'][-1] < record['loss'][0]
