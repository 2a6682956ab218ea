"""The program writes its files, evaluates on pairs kept for it, and explains bad input."""

import json
import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from companions.common import corpus as corpora
from companions.word2vec import fast, figures, predictors, study, vectors
from tests.companions.word2vec.helpers import LITTLE, sentences


def test_what_is_chosen_on_some_pairs_is_reported_on_others(monkeypatch):
    stems = [f'{a}{b}{c}' for a in 'bcd' for b in 'aeiou' for c in 'lmn']
    text = fast.text_of([stems, [f'{word}s' for word in stems],
                         [f'{word}ing' for word in stems[:7]]], 1)
    def pairs_of(*arguments, **options):
        return {*map(tuple, study.evaluation_pairs(text, *arguments, **options))}

    chosen, reported = pairs_of(tuning=True), pairs_of()
    assert not chosen & reported
    assert chosen | reported == {*map(tuple, vectors.find_form_pairs(text.index))}
    plurals = pairs_of(('s',))
    assert plurals < reported and len(chosen) == len(reported) == 26
    seen = []

    def look(table, pairs, counts=None):
        seen.append({*map(tuple, pairs)})
        return {'mrr': 0.5}

    monkeypatch.setattr(vectors, 'evaluate_forms', look)
    monkeypatch.setattr(vectors, 'analogy_accuracy', look)
    study.measure(text, 'skip-gram', 0, {**LITTLE, 'epochs': 1})
    study.measure(text, 'CBOW', 0, {**LITTLE, 'epochs': 1}, tuning=True)
    assert seen[0] == reported and seen[1] <= plurals and seen[2] == chosen and seen[3] <= chosen
    words = 'value function array number list'.split()
    text, seen[:] = fast.text_of([words + stems, [f'{word}s' for word in words]], 1), []
    study.study_bias(text, np.random.default_rng(0).standard_normal((len(text.words), 8)), 'plural')
    assert len(seen) == 5 and all(pairs == pairs_of() for pairs in seen)


def program(*arguments):
    study.main(study.get_args(list(map(str, arguments))))


def strip_times(record):
    timed = 'seconds', 'microseconds', 'factor'
    return {key: value for key, value in record.items() if key not in timed}


def test_a_dry_run_writes_every_file_and_the_pages_lines_load_them(tmp_path, capsys, monkeypatch):
    pytest.importorskip('gensim')
    program('--dry-run', '--corpus', 'docstrings', '--jobs', 1, '--output-dir', tmp_path)
    out = capsys.readouterr().out
    found = json.loads((tmp_path / 'plots' / 'word2vec_docstrings.json').read_text())
    assert found['corpus'] == 'docstrings' and found['sources'] == {'numpy': np.__version__}
    methods = figures.methods(figures.select(found['runs'], 'vectors'))
    assert methods == ['skip-gram', 'CBOW', 'gensim skip-gram']
    jobs = {'vectors', 'accuracy', 'ceilings', 'speed', 'steps', 'examples', 'bias'}
    assert {record['job'] for record in found['runs']} == jobs
    again = corpora.docstrings(20_000, libraries=('numpy',))
    assert found['sha256'] == again.sha256
    assert figures.report(found['runs']) in out and "times gensim's" in out
    assert 'gender: 0 of 10 pairs are in the vocabulary' in out
    for name in ('vectors', 'forms', 'predictors'):
        content = (tmp_path / 'plots' / f'word2vec_docstrings_{name}.png').read_bytes()
        assert content[:4] == b'\x89PNG'
    page = (Path(study.__file__).parent / 'README.md').read_text(encoding='utf-8')
    lines, = re.findall(r'```python\n(.*?)```', page, re.DOTALL)
    (tmp_path / 'lines.py').write_text(lines.replace('word2vec_asv', 'word2vec_docstrings'))
    monkeypatch.chdir(tmp_path)
    loaded = runpy.run_path('lines.py')
    words, table = loaded['saved']['words'].tolist(), loaded['saved']['vectors']
    assert table.shape == (found['vocabulary'], 10) and loaded['vectors'].index_to_key == words
    assert np.array_equal(loaded['vectors'].vectors, table)
    near = next(record for record in found['runs'] if record['job'] == 'examples')['neighbors']
    for word, nearest in near.items():
        assert [other for other, _ in loaded['vectors'].most_similar(word, topn=8)] == nearest
    record, = (r for r in figures.select(found['runs'], 'accuracy', 'SkipGram'))
    text = fast.Text(loaded['checkpoint']['words'], None, None, None)
    assert predictors.predict_contexts(loaded['model'], text, study.PREDICTOR['words']) == (
        record['trained']['contexts']) != {}


def test_the_same_sentences_from_other_sources_without_gensim_give_the_same(
        tmp_path, monkeypatch, capsys):
    """The same sentences as a text file and as the Treebank, so the same numbers."""
    monkeypatch.setattr(fast, 'HAS_GENSIM', False)
    monkeypatch.setattr(figures, 'save_figure', lambda *_: None)  # the other test draws them
    letters = str.maketrans('0123456789', 'abcdefghij')
    lines = [' '.join(sentence).translate(letters) for sentence in sentences(120)]
    (tmp_path / 'book.txt').write_text('.\n'.join(lines))
    rows = ''.join(f'{k}\t{line}\n' for k, line in enumerate(lines, 1))
    (tmp_path / 'datasetSentences.txt').write_text('sentence_index\tsentence\n' + rows)
    results = []
    for source, path in (('--text', tmp_path / 'book.txt'), ('--sst', tmp_path)):
        program('--dry-run', '--jobs', 1, source, path, '--output-dir', tmp_path / source)
        assert 'gensim is not installed, so there is no comparison' in capsys.readouterr().out
        file = tmp_path / source / 'plots' / f'word2vec_{source[2:]}.json'
        results.append(json.loads(file.read_text()))
    for result in results:
        assert result['vocabulary'] == 13 and result['words'] == 120 * 7
    assert list(map(strip_times, results[0]['runs'])) == list(map(strip_times, results[1]['runs']))
    assert results[0]['sha256'] == results[1]['sha256']
    assert set(results[1]['sources']) == {'datasetSentences.txt'}


def test_unusual_corpora_and_options(tmp_path, monkeypatch, capsys):
    """Short words only; nothing but words of pairs; a window far beyond every sentence."""
    monkeypatch.setattr(fast, 'HAS_GENSIM', False)
    for name, text in (('short', 'The cat sat on a mat. ' * 20),
                       ('pairs', 'Value values array arrays list lists file files. ' * 20)):
        (tmp_path / f'{name}.txt').write_text(text)
        program('--dry-run', '--jobs', 1, '--text', tmp_path / f'{name}.txt', '--window', 10 ** 9,
                '--output-dir', tmp_path / name)
        assert (tmp_path / name / 'plots' / 'word2vec_text_vectors.png').exists()
    assert 'plural: 4 of 10 pairs are in the vocabulary' in capsys.readouterr().out


def test_tuning_counts_the_runs_that_diverge(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fast, 'HAS_GENSIM', False)
    monkeypatch.setattr(study, 'RATES', (0.05, 1e40))
    (tmp_path / 'book.txt').write_text('A cat and cats sat. ' * 200 + 'A dog and dogs ran. ' * 200)
    program('--tune', '--dry-run', '--jobs', 1, '--text', tmp_path / 'book.txt', '--output-dir',
            tmp_path)
    runs = json.loads((tmp_path / 'plots' / 'tune_word2vec_text.json').read_text())['runs']
    rates = [(method, rate) for method in fast.GRADIENTS for rate in (0.05, 1e40)]
    assert [(r['method'], r['learning_rate']) for r in runs] == rates
    assert [r['mrr'] is None for r in runs] == 2 * [False, True]
    out = capsys.readouterr().out
    assert figures.rate_table(runs) in out and '| 1 of 1 diverged |' in out


@pytest.mark.parametrize('content, arguments, words', [
    (None, ['--text', 'nowhere.txt'], 'nowhere.txt: no such file, expected a text file'),
    (None, ['--sst', 'nowhere'],
     "datasetSentences.txt: no such file, expected the Stanford Sentiment Treebank's"),
    (b'\xff\xfe\xfa', ['--text', 'book.txt'], 'book.txt: not UTF-8'),
    (b'12 34', ['--text', 'book.txt'], 'book.txt: no sentence of two words'),
    (50 * b'one two three. ', ['--tune', '--text', 'book.txt'],
     'book.txt: no word occurs both with and without s, ed or ing'),
    (b'one two three', ['--text', 'book.txt'],
     'the corpus has 0 different words that occur 5 times or more (--min-count)'),
    (b'sentence\n1\tA b', ['--sst', '.'], "not the Stanford Sentiment Treebank's, expected a line"),
    (b'', ['--sst', '.'], "not the Stanford Sentiment Treebank's"),
    (b'sentence_index\tsentence\none\tA b', ['--sst', '.'],
     "not the Stanford Sentiment Treebank's"),
    (b'sentence_index\tsentence\n1 A b', ['--sst', '.'], "not the Stanford Sentiment Treebank's"),
    (None, ['--sst', '.', '--text', 'x'], 'not allowed with'),
    (None, ['--corpus', 'docstrings', '--text', 'x'], 'not allowed with'),
    (None, ['--device', 'nonsense'], "'nonsense' is not a usable device here"),
    (None, ['--dim', '0'], 'argument --dim'),
    (None, ['--dim', '1'], '--dim: expected at least 2')])
def test_bad_input_is_one_sentence(content, arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        for name in ('book.txt', 'datasetSentences.txt'):
            Path(name).write_bytes(content)
    with pytest.raises((SystemExit, ValueError, OSError)) as end:
        program('--output-dir', tmp_path, *arguments)
    if end.type is SystemExit:
        assert end.value.code == 2 and words in capsys.readouterr().err
    else:
        assert words in str(end.value)


def test_a_seed_that_diverges_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(fast, 'HAS_GENSIM', False)
    corpus = [['cat', 'cats', 'dog', 'dogs', 'the']] * 100
    text = fast.text_of(corpus)
    settings = {**LITTLE, 'epochs': 1}
    good, table = study.measure(text, 'skip-gram', 0, settings)
    bad, nothing = study.measure(text, 'skip-gram', 1, {**settings, 'learning_rate': 1e40})
    assert table.shape == (5, 8) and nothing is None and bad['mrr'] is None
    assert f"{100 * good['mrr']:.1f}, 1 of 2 diverged" in figures.vector_table([bad, good])
    (tmp_path / 'book.txt').write_text('.\n'.join(map(' '.join, corpus)))

    def diverge(*_, **__):
        raise fast.Diverged

    monkeypatch.setattr(fast, 'train', diverge)
    with pytest.raises(fast.Diverged, match='every seed diverged, expected a smaller --lear'):
        program('--dry-run', '--jobs', 1, '--text', tmp_path / 'book.txt', '--output-dir', tmp_path)
