"""Runs are comparable and reproducible; the program writes its files or says why not."""

import copy
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from companions.embeddings import experiment, texts
from companions.embeddings.models import SpanLSTM, TextLSTM, load_model
from companions.embeddings.texts import Data
from support.checkpoints import load_checkpoint
from tests.companions.embeddings.test_texts import labeled_spans, labeled_texts
from tests.helpers import ROOT

pytestmark = pytest.mark.usefixtures('no_processes')
QUICK = {**experiment.SETTINGS, 'epochs': 3, 'hidden_size': 8, 'batch_size': 20}


@pytest.fixture(scope='module')
def no_processes():
    """Train word2vec's vectors in this process, which is faster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts.word2vec, 'run_alone', lambda function, **kwargs: function(**kwargs))
        yield


@pytest.fixture(scope='module')
def problem(no_processes):
    return texts.make_problem(labeled_texts(), 60, 30, 2, 6, 1)


def without_times(record):
    return {key: value for key, value in record.items() if key != 'seconds'}


# ------------------------------------------------------------------------------------- training

def test_training_at_epsilon_zero_is_plain_training_bit_for_bit(problem):
    def fit(method, epsilon):
        return experiment.fit(problem, 'word2vec', method, epsilon, 0, QUICK)['record']

    plain, zero, same = fit('plain', 0.0), fit('adversarial', 0.0), fit('plain', 5.0)
    other, noise, posted = (fit(name, 1.0) for name in ('adversarial', 'random', 'posted'))
    for key in ('vectors', 'seed', 'loss', 'accuracy'):
        assert plain[key] == zero[key] == same[key]
    assert len({str(each['loss']) for each in (plain, other, noise, posted)}) == 4
    assert len(plain['accuracy']) == len(experiment.NORMS) and plain['loss'][-1] < plain['loss'][0]


def test_dropout_is_on_in_training_and_off_in_evaluation_and_seeds_differ(problem, monkeypatch):
    modes, tokens, embed, forward = [], [], TextLSTM.embed, TextLSTM.forward
    monkeypatch.setattr(TextLSTM, 'embed',
                        lambda self, x: tokens.append(x.tolist()) or embed(self, x))
    monkeypatch.setattr(TextLSTM, 'forward',
                        lambda self, *args: modes.append(self.training) or forward(self, *args))
    settings = {**QUICK, 'epochs': 1}
    first, other = (experiment.fit(problem, 'scratch', 'adversarial', 1.0, seed,
                                   settings)['record'] for seed in (0, 1))
    assert tokens[0] != tokens[len(tokens) // 2]  # other minibatches
    passes = 2 * 3  # F(e) and F(e + r) for three minibatches
    assert modes[:passes] == [True] * passes and modes[passes:passes + 5] == [False] * 5
    assert modes[len(modes) // 2] and first['loss'] != other['loss']


def test_a_loss_that_is_not_finite_is_named_in_either_term(problem):
    settings = {**QUICK, 'epochs': 1, 'batch_size': 60}
    with pytest.raises(ValueError, match='not finite: frozen, adversarial 1e[+]300, seed 0'):
        experiment.fit(problem, 'frozen', 'adversarial', 1e300, 0, settings)


@pytest.mark.parametrize('method', ['adversarial', 'posted'])
def test_only_a_frozen_table_stays_and_where_vectors_come_from(method, problem, monkeypatch):
    models = []
    monkeypatch.setattr(experiment, 'accuracy',
                        lambda model, data, norms: models.append(model) or [0.0])
    for vectors in experiment.VECTORS:
        for settings in ({**QUICK, 'epochs': 0}, QUICK):
            experiment.fit(problem, vectors, method, 1.0, 0, settings)
    tables = [model.embedding.weight for model in models]
    start = experiment.NormalizedEmbedding(problem.table, problem.counts)
    start = start.normalized() if method == 'posted' else problem.table
    same = [torch.equal(table, start) for table in tables]
    assert same == [False, False, True, False, True, True]
    assert not torch.equal(tables[0], tables[1])
    other = models[-1].lstm.weight_ih_l0, models[-2].lstm.weight_ih_l0
    assert not torch.equal(*other)


def test_held_out_texts_are_not_trained_on(problem, monkeypatch):
    seen = []
    monkeypatch.setattr(experiment, 'accuracy',
                        lambda model, data, norms: seen.append((data, norms)) or [0.0])
    held_out, hidden = np.arange(60) % 3 == 0, copy.deepcopy(problem)
    hidden.train.tokens[held_out] = 2
    a, b = (experiment.fit(which, 'scratch', 'plain', 0.0, 0, QUICK, held_out)['record']
            for which in (problem, hidden))
    assert a['loss'] == b['loss'] and seen[0][1] == (0.0,)
    assert torch.equal(seen[0][0].tokens, problem.train.tokens[::3])


def test_accuracy_falls_with_the_norm_of_the_perturbation():
    class Sum(nn.Module):  # class 1 where the first entry is above 0
        def embed(self, tokens):
            return tokens[..., None].float()

        def forward(self, embedded, lengths):
            return torch.stack([0 * embedded[:, 0, 0], embedded[:, 0, 0]], 1)

        loss, correct = TextLSTM.loss, TextLSTM.correct

    tokens, labels = torch.tensor([[1], [2], [3], [4]]), torch.tensor([1, 1, 1, 0])
    data = Data(tokens, torch.ones(4).long(), labels)
    assert experiment.accuracy(Sum(), data, (0.0, 1.5, 2.5, 9.0)) == [0.75, 0.5, 0.25, 0.0]


# ---------------------------------------------------------------------------------- the program

def run_experiment(*arguments):
    experiment.main(experiment.get_args(['--jobs', '1', *map(str, arguments)]))


def write_texts(path):
    labeled = labeled_texts()
    letters = str.maketrans('0123456789', 'abcdefghij')
    path.write_text('\n'.join(f'{label}\t{" ".join(words).translate(letters)}'
                              for label, words in zip(labeled.labels, labeled.sentences)))
    return path


def test_two_dry_runs_give_the_same(tmp_path, capsys):
    path, results = write_texts(tmp_path / 'texts.tsv'), []
    for folder in (tmp_path / 'a', tmp_path / 'b'):
        run_experiment('--dry-run', '--tsv', path, '--output-dir', folder)
        results.append(json.loads((folder / 'plots' / 'embeddings_tsv.json').read_text())['runs'])
        assert (folder / 'plots' / 'embeddings_tsv.png').read_bytes()[:4] == b'\x89PNG'
    out = capsys.readouterr().out
    assert 'texts.tsv: 60 training and 30 test texts of 3 classes (class0, class1, class2)' in out
    assert experiment.results_table(results[1]) in out
    assert [(r['vectors'], r['method']) for r in results[0]] == [
        (vectors, method) for vectors in experiment.VECTORS for method in experiment.METHODS]
    assert list(map(without_times, results[0])) == list(map(without_times, results[1]))


def test_a_saved_classifier_is_loaded_by_the_lines_on_the_page(tmp_path, monkeypatch, capsys):
    """And is not trained again by the program."""
    arguments = ('word2vec', '--dry-run', '--tsv', write_texts(tmp_path / 'texts.tsv'),
                 '--output-dir', tmp_path)
    run_experiment(*arguments)
    results = json.loads((tmp_path / 'plots' / 'embeddings_tsv.json').read_text())
    page = (ROOT / 'companions' / 'embeddings' / 'page.md').read_text(encoding='utf-8')
    *_, code = re.findall(r'```python\n(.*?)```', page, flags=re.DOTALL)
    path = 'checkpoints/companions/embeddings_word2vec_adversarial_seed0.pt'
    code = code.replace(path, path := path.replace('embeddings_', 'embeddings_tsv_'))
    monkeypatch.chdir(tmp_path)
    exec(code, names := {})
    assert path in code and capsys.readouterr().out.splitlines()[-1] in results['classes']
    checkpoint, model = names['checkpoint'], names['model']
    assert checkpoint['record'] in results['runs'] and not model.training
    problem = texts.make_problem(experiment.corpus.labeled_file(tmp_path / 'texts.tsv', 30),
                                 200, 100, 2, 8, 1)
    assert checkpoint['words'] == problem.words
    assert experiment.accuracy(model, problem.test, experiment.NORMS) == (
        checkpoint['record']['accuracy'])
    for name, epsilon in {'posted': 5, 'posted_tuned': 0.3}.items():
        posted = load_checkpoint(tmp_path / path.replace('adversarial', name))
        assert experiment.accuracy(load_model(posted), problem.test, experiment.NORMS) == (
            posted['record']['accuracy'])
        assert posted['record']['epsilon'] == epsilon

    def train_again(**_):
        raise ValueError('trained again')

    monkeypatch.setattr(experiment, 'fit', train_again)
    run_experiment(*arguments)
    assert json.loads((tmp_path / 'plots' / 'embeddings_tsv.json').read_text()) == results
    with pytest.raises(ValueError, match='trained again'):
        run_experiment(*arguments, '--epsilon', 2)


def test_spans_are_found_by_the_same_program(tmp_path, monkeypatch, capsys):
    pytest.importorskip('sklearn')
    monkeypatch.setattr(experiment.corpus, 'parameter_spans', lambda *_: labeled_spans())
    for more in ((), ('--tune',)):
        run_experiment('frozen', '--task', 'spans', '--dry-run', '--output-dir', tmp_path, *more)
    assert 'some spans: 200 training and 100 test texts of spans' in capsys.readouterr().out
    runs = [json.loads((tmp_path / 'plots' / f'{name}.json').read_text())['runs']
            for name in ('embeddings_spans', 'tune_embeddings_spans')]
    assert [r['method'] for r in runs[0]] == [*experiment.METHODS] and len(runs[1]) == 22
    path = tmp_path / 'checkpoints' / 'companions' / 'embeddings_spans_frozen_plain_seed0.pt'
    assert isinstance(load_model(load_checkpoint(path)), SpanLSTM)


def test_a_dry_run_of_tuning(tmp_path, capsys):
    path = write_texts(tmp_path / 'texts.tsv')
    run_experiment('frozen', '--tune', '--dry-run', '--tsv', path, '--output-dir', tmp_path)
    runs = json.loads((tmp_path / 'plots' / 'tune_embeddings_tsv.json').read_text())['runs']
    assert [(r['method'], r['epsilon'], r['seed']) for r in runs] == [
        (method, epsilon, fold)
        for method, epsilons in {'plain': [0.0], 'adversarial': experiment.EPSILONS,
                                 'posted': experiment.EPSILONS}.items()
        for epsilon in epsilons for fold in (0, 1)]
    assert experiment.tuning_table(runs) in capsys.readouterr().out


def test_the_tuning_table_has_the_largest_mean_of_each_method_in_bold():
    runs = [{'vectors': 'frozen', 'method': method, 'epsilon': epsilon,
             'accuracy': [0.5 + gain + change]}
            for method, epsilon, gain in (
                ('plain', 0.0, 0.1), *(('adversarial', e, e / 100) for e in experiment.EPSILONS),
                *(('posted', e, 0.2) for e in experiment.EPSILONS))
            for change in (-0.1, 0.1)]
    *_, adversarial, posted = experiment.tuning_table(runs).splitlines()
    assert adversarial.startswith('| word2vec, frozen | adversarial | **60.0** | 50.1 | 50.3 |')
    assert posted == '| word2vec, frozen | posted | 60.0 |' + 5 * ' **70.0** |'


def test_the_table_pairs_by_seed():
    runs = [{'vectors': 'scratch', 'method': method, 'epsilon': 3.0, 'seed': seed, 'seconds': 1.0,
             'accuracy': [base + gain] + [0.1] * (len(experiment.NORMS) - 1)}
            for method, gain in zip(experiment.METHODS[:3], (0, 0.01, 0.02))
            for seed, base in enumerate((0.5, 0.7))]
    *_, plain, noise, adversarial = experiment.results_table(runs).splitlines()
    assert '| 60.0 ± 14.1 |  |' in plain and '| +1.0 ± 0.0 |' in noise
    assert '| adversarial | 3 | 62.0 ± 14.1 | +2.0 ± 0.0 |' in adversarial


def test_a_dry_run_without_scikit_learn_says_so_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    monkeypatch.setattr(experiment.corpus, 'labeled_docstrings', None)
    with pytest.raises(ValueError, match='^--dry-run.* needs the package scikit-learn: python -m '
                                         'pip install -r requirements-extra.txt$'):
        run_experiment('--dry-run', '--output-dir', tmp_path)


@pytest.mark.parametrize('content, arguments, words', [
    (None, [], 'a.tsv: no such file, expected lines of a label, a tab and a text'),
    (b'\xff\xfe\xfa', [], 'a.tsv: not UTF-8'),
    (b'good\tfine film\nno tab here', [], 'a.tsv: line 2 is no label, tab and text'),
    (b'good\tfine film\ngood\tbad film', [], 'a.tsv: sentences of 1 labels, expected at least 2'),
    (b'', [], 'a.tsv: sentences of 0 labels'),
    (b'good\tfine film\nbad\tdull film', [], "class 'bad' has 1 texts"),
    (b'good\ta b\ngood\tc d\nbad\te f\nbad\tg h', ['--train', 2, '--test', 2],
     'a.tsv: 0 different words occur 2 times or more in training .--min-count'),
    (b'good\ta b\ngood\ta c\nbad\ta d\nbad\tb c',
     ['--tune', '--min-count', 1, '--train', 2, '--test', 2],
     '--folds is 5, but the smallest class has 1 training')])
def test_bad_input_is_one_sentence(content, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path('a.tsv').write_bytes(content)
    with pytest.raises((ValueError, OSError), match=words):
        run_experiment('--tsv', 'a.tsv', '--output-dir', tmp_path, *arguments)


@pytest.mark.parametrize('arguments, words', [
    (['--epsilon', '-1'], 'argument --epsilon'), (['nothing'], 'invalid choice'),
    (['--folds', '1'], 'a whole number above 1'),
    (['--task', 'spans', '--tsv', 'a.tsv'], 'argument --tsv: not with --task spans'),
    (['--max-length', '4'], 'argument --max-length: expected at least 5')])
def test_bad_arguments_are_refused(arguments, words, capsys):
    with pytest.raises(SystemExit) as end:
        experiment.get_args(arguments)
    assert end.value.code == 2 and words in capsys.readouterr().err
