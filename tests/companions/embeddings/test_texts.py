"""Training and test texts are apart and balanced, and the vectors do not see the test texts."""

import numpy as np
import pytest
import torch

from companions.common import corpus
from companions.embeddings import texts
from companions.embeddings.texts import Data


def labeled_texts(count=90, classes=3):
    """Texts in which each class has words of its own among common ones."""
    generator = np.random.default_rng(0)
    labels = [f'class{k % classes}' for k in range(count)]
    sentences = [(*(f'common{w}' for w in generator.integers(9, size=4)),
                  *(f'{label}word{w}' for w in generator.integers(3, size=2)), f'rare{k}')
                 for k, label in enumerate(labels)]
    return corpus.Labeled('some texts', sentences, labels, '0' * 64, {})


def labeled_spans(count=300):
    """Texts in which the words of the span are others than those around it."""
    generator = np.random.default_rng(0)
    spans = [tuple(sorted(pair)) for pair in generator.integers(8, size=(count, 2)).tolist()]
    sentences = [tuple(f'{"inside" if first <= k <= last else "around"}{generator.integers(9)}'
                       for k in range(8)) for first, last in spans]
    return corpus.Labeled('some spans', sentences, spans, '0' * 64, {})


def write_library(folder, *sentences):
    folder.mkdir()
    (folder / '__init__.py').write_text('"""' + '.\n'.join(sentences) + '."""')


def test_docstrings_with_their_library(tmp_path, monkeypatch):
    write_library(tmp_path / 'one', 'A b c', 'Both have this', 'A b c', 'Uses NumPy here',
                  "Scikit-learn's own", 'Of one only')
    write_library(tmp_path / 'two', 'Both have this', 'Of two only', 'D e f')
    write_library(tmp_path / 'three', 'Both have this', 'G h')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(corpus, 'LIBRARIES', {'one': 'numpy', 'two': 'scipy', 'three': 'torch',
                                              'missing': 'nothing'})
    found = corpus.labeled_docstrings(libraries=('one', 'two', 'three', 'missing'))
    assert list(zip(found.labels, map(' '.join, found.sentences))) == [
        ('one', 'a b c'), ('one', 'of one only'), ('two', 'of two only'), ('two', 'd e f'),
        ('three', 'g h')]
    assert set(found.sources) == {'numpy', 'scipy', 'torch'} and found.name == 'docstrings'
    both = corpus.docstrings(libraries=('one', 'two')).sentences
    assert 'both have this'.split() in both


def test_descriptions_of_parameters_and_where_they_stand(tmp_path, monkeypatch):
    (tmp_path / 'one').mkdir()
    texts = ("""Add things up.

Parameters
----------
n_things, weights : array like
    What to add,
    e.g. 3 numbers.

    .. versionadded:: 1.2
       Or so.
axis : int
    Along which.

Returns
-------
total : float
""", 'No parameters.', """Again.

Parameters
----------
other : list
    What to add, e.g. numbers.
""", """Empty.

Parameters
----------
a : int
b : int
    Along it.
""", """Short.

Parameters
----------
a : int
    One two three four five six seven eight.
""")
    functions = [f'def f{k}():\n    r\'\'\'{text}\'\'\'\n' for k, text in enumerate(texts)]
    (tmp_path / 'one' / '__init__.py').write_text('\n'.join(functions))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(corpus, 'LIBRARIES', {'one': 'numpy'})
    found = corpus.parameter_spans(libraries=('one',), max_length=11)
    words, = found.sentences
    assert ' '.join(words) == 'add things up parameters weights array like what to add numbers'
    assert found.labels == [(7, 10)] and words[7:11] == ('what', 'to', 'add', 'numbers')
    longer = corpus.parameter_spans(libraries=('one',))
    assert longer.labels == [(7, 10), (4, 11)]
    assert ' '.join(longer.sentences[0]).endswith('axis int along which returns total float')
    assert len(longer.sha256) == 64 and longer.sha256 != found.sha256
    (tmp_path / 'one' / '__init__.py').write_text('"""Nothing."""')
    with pytest.raises(ValueError, match='docstrings: no parameter is described, expected a sec'):
        corpus.parameter_spans(libraries=('one',))


def test_a_problem_of_spans(monkeypatch):
    monkeypatch.setattr(texts.word2vec, 'run_alone', lambda function, text, **_: (
        np.zeros((len(text.words), 3), np.float32), None))
    labeled = labeled_spans()
    problem = texts.make_problem(labeled, 200, 100, 1, 3, 1)
    assert problem.class_names is None and problem.train.labels.shape == (200, 2)
    assert problem.test.labels.shape == (100, 2) and problem.test.labels.dtype == torch.int64
    for tokens, (first, last) in zip(problem.train.tokens, problem.train.labels.tolist()):
        inside = [problem.words[row - 2].startswith('inside') for row in tokens.tolist()]
        assert inside == [first <= k <= last for k in range(8)]


def test_a_file_of_labels_and_texts(tmp_path):
    path = tmp_path / 'a.tsv'
    path.write_text('good\tA fine film. Really!\nbad\tDull\nbad\tThe same words\n\n'
                    'good\tthe same WORDS\nbad\tdull\nbad\t12\n')
    found = corpus.labeled_file(path, 3)
    assert found.labels == ['good', 'bad']
    assert found.sentences == [('a', 'fine', 'film'), ('dull',)]


def test_training_and_test_are_apart_and_balanced():
    labels = ['a'] * 50 + ['b'] * 30 + ['c'] * 4
    train, test = texts.split(labels, 30, 15)
    assert not {*train} & {*test} and len({*train, *test}) == 34
    counts = [sum(labels[k] == name for k in part) for part in (train, test) for name in 'abc']
    assert counts == [10, 10, 3, 5, 5, 1]
    assert (train, test) == texts.split(labels, 30, 15) != texts.split(labels, 30, 15, seed=1)
    for train, test in ((3, 5), (5, 3), (2, 2), (31, 16)):
        parts = texts.split(['a'] * 50 + ['b'] * 50, train, test)
        assert [len(part) for part in parts] == [train // 2 * 2, test // 2 * 2]
    with pytest.raises(ValueError, match='--train is 9 and --test is 2, expected at least 3'):
        texts.split(labels, 9, 2)
    with pytest.raises(ValueError, match="class 'c' has 1 texts"):
        texts.split(['a', 'b', 'a', 'b', 'c'], 4, 3)


def test_vectors_and_vocabulary_do_not_see_the_test_texts(monkeypatch):
    seen = []

    def train_vectors(function, text, **arguments):
        seen.append(text)
        return np.arange(len(text.words) * 3, dtype=np.float32).reshape(-1, 3), None

    monkeypatch.setattr(texts.word2vec, 'run_alone', train_vectors)
    labeled = labeled_texts()
    train, test = texts.split(labeled.labels, 42, 21)
    labeled.sentences[train[0]] += ('longer',)
    problem = texts.make_problem(labeled, 42, 21, 1, 3, 1)
    rare = {word for word in seen[0].words if word.startswith('rare')}
    assert rare == {f'rare{k}' for k in {*range(90)} - {*test}}  # also of texts in neither part
    words = {word for k in train for word in labeled.sentences[k]}
    assert len(problem.counts) == len(problem.table) == 2 + len(words)
    assert (problem.test.tokens[:, 6] == texts.UNKNOWN).all()
    assert (problem.train.tokens[:, :7] > 1).all()
    row = problem.train.tokens[0, 6]
    column = 3 * seen[0].index[labeled.sentences[train[0]][6]]
    assert problem.table[row].tolist() == [column, column + 1, column + 2]
    assert problem.counts[row] == 1 and problem.counts[texts.PADDING] == 0
    assert problem.counts.sum() == 42 * 7 + 1
    assert problem.train.labels.tolist() == [int(labeled.labels[k][-1]) for k in train]


def test_batches_are_cut_to_their_longest_and_drawn_from_their_generator():
    tokens = torch.tensor([[2, 3, 2, 4, 5], [3, 6, 7, 0, 0], [5, 2, 0, 0, 0]])
    data = Data(tokens, torch.tensor([5, 3, 2]), torch.tensor([0, 1, 2]))
    assert [batch.tokens.shape for batch in data.batches(2)] == [(2, 5), (1, 2)]

    def order(seed):
        generator = torch.Generator().manual_seed(seed)
        return [batch.labels.item() for batch in data.batches(1, generator)]

    assert order(2) == order(2) and sorted(order(2)) == [0, 1, 2]
    assert any(order(k) != order(2) for k in range(9))
