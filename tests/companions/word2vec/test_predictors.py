"""SkipGram and CBOW: shapes, accuracy as the assignment counts it, and its upper bound."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from companions.word2vec import predictors
from companions.word2vec.fast import text_of


def test_an_embedding_is_the_row_of_its_word():
    torch.manual_seed(0)
    model = predictors.SkipGram(2, 5, 11)
    out = model(torch.tensor([7, 3, 7]))
    assert out.shape == (3, 4, 11) and not torch.allclose(out[0], out[1])
    torch.testing.assert_close(out[0], out[2])
    torch.testing.assert_close(out.exp().sum(2), torch.ones(3, 4))
    x = torch.relu(model.linear1(model.embeddings.weight[7]))
    torch.testing.assert_close(out[0], torch.log_softmax(model.linear2(x).view(4, 11), 1))


def test_a_softmax_over_all_places_costs_log_4_and_predicts_the_same():
    torch.manual_seed(0)
    joint, per_place = predictors.SkipGram(2, 5, 11, joint=True), predictors.SkipGram(2, 5, 11)
    per_place.load_state_dict(joint.state_dict())
    inputs = torch.arange(11)
    together, apart = joint(inputs), per_place(inputs)
    torch.testing.assert_close(together.exp().sum((1, 2)), torch.ones(11))
    assert torch.equal(together.argmax(2), apart.argmax(2))
    best = together.argmax(2).flatten()
    assert F.nll_loss(together.flatten(0, 1), best) > math.log(4)  # for any four words
    with torch.no_grad():  # one word of each place has nearly all of its probability
        for model in (joint, per_place):
            model.linear2.weight.zero_()
            model.linear2.bias.view(4, 11)[:, 3] = 30
    targets = torch.full((44,), 3)
    assert F.nll_loss(joint(inputs).flatten(0, 1), targets).item() == pytest.approx(math.log(4))
    assert F.nll_loss(per_place(inputs).flatten(0, 1), targets).item() == pytest.approx(0, abs=1e-6)


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
    centers, contexts = predictors.windows(text, 2)
    words = [(text.words[c], ''.join(text.words[row] for row in rows))
             for c, rows in zip(centers, contexts)]
    assert words == [('c', 'abde'), ('l', 'jkmn'), ('m', 'klno')]
    assert predictors.windows(text_of([['a', 'b']], 1), 2)[1].shape == (0, 4)


def test_the_ceilings_are_the_best_of_all_answers():
    generator = np.random.default_rng(0)
    centers, contexts = generator.integers(2, size=30), generator.integers(3, size=(30, 2))
    contexts[:8], centers[:8] = [1, 1], 0  # where one word twice is the best answer
    found = predictors.ceilings(centers, contexts)
    best = 0
    for c in range(2):
        mine = contexts[centers == c]
        best += max(sum(by_the_text(answer, t) for t in mine) for answer in np.ndindex(3, 3))
    assert found['SkipGram'] == pytest.approx(best / 60)
    groups = {}
    for c, t in zip(centers, contexts):
        groups.setdefault(tuple(sorted(t)), []).append(c)
    best = sum(max(np.bincount(group)) for group in groups.values())
    assert found['CBOW'] == pytest.approx(best / 30)


def test_the_lowest_losses_are_entropies():
    """Counted; and no table of probabilities has less, of each place alone or of all together."""
    generator = np.random.default_rng(0)
    centers, contexts = generator.integers(3, size=40), generator.integers(4, size=(40, 2))
    found = predictors.lowest_losses(centers, contexts)
    total = 0
    for c in range(3):
        mine = contexts[centers == c]
        for place in mine.T:
            share = np.bincount(place, minlength=4) / len(place)
            total -= np.log(share[place]).sum()
    assert found['SkipGram'] == pytest.approx(total / 80)
    table = torch.zeros(3, 2, 4, requires_grad=True)
    optimizer = torch.optim.Adam([table], 0.1)
    for _ in range(300):
        p = F.log_softmax(table.flatten(1), 1).view(3, 2, 4)
        loss = F.nll_loss(p[centers].flatten(0, 1), torch.from_numpy(contexts).flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert found['SkipGram joint'] == pytest.approx(loss.item(), abs=1e-3)
    assert found['SkipGram joint'] == pytest.approx(found['SkipGram'] + math.log(2))
    windows = np.array([[0, 1], [1, 0], [0, 1], [0, 1], [2, 2]])  # the order does not matter
    assert predictors.lowest_losses(np.array([0, 0, 0, 1, 0]), windows)['CBOW'] == pytest.approx(
        -(3 * np.log(3 / 4) + np.log(1 / 4)) / 5)


@pytest.mark.parametrize('name', predictors.PREDICTORS)
def test_the_predictors_learn_up_to_their_bounds(name):
    names = ['his', 'her', 'lion', *(f'w{k}' for k in range(6))]
    starts = np.random.default_rng(0).integers(9, size=60)
    text = text_of([[names[(start + k) % 9] for k in range(7)] for start in starts], 1)
    checkpoint = predictors.fit(text, name, 0, 40, words=('lion', 'lioness'))
    record, seen = checkpoint['record'], predictors.windows(text, 2)
    highest = predictors.ceilings(*seen)['CBOW' if name == 'CBOW' else 'SkipGram']
    lowest = predictors.lowest_losses(*seen)[name]
    assert record['accuracy'][-1] == 1 == highest and record['accuracy'][0] < 1
    assert lowest == pytest.approx(math.log(4) if name == 'SkipGram joint' else 0, abs=1e-12)
    assert lowest < record['loss'][-1] < lowest + 0.1 < record['loss'][0]
    again = predictors.fit(text, name, 0, 40, words=('lion', 'lioness'))['record']
    assert {**again, 'seconds': 0} == {**record, 'seconds': 0}
    kind, _ = predictors.PREDICTORS[name]
    model = kind(**checkpoint['arguments'])
    model.load_state_dict(checkpoint['state_dict'])
    table, index = model.embeddings.weight, {word: k for k, word in enumerate(checkpoint['words'])}
    found = {(a, b): value for a, b, value in record['trained']['cosines']}
    assert found.keys() == {('his', 'her'), ('his', 'lion'), ('her', 'lion')}
    for (a, b), value in found.items():
        a, b = table[index[a]], table[index[b]]
        assert value == pytest.approx((a @ b / (a.norm() * b.norm())).item(), abs=1e-6)
    assert record['untrained']['cosines'] != record['trained']['cosines']
    if name != 'CBOW':
        assert record['trained']['contexts'] == {'lion': ['his', 'her', 'w0', 'w1']}
        assert record['untrained']['contexts'] != record['trained']['contexts']
