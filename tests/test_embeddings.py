"""The perturbation is each text's own, the loss is F(e) + F(e + r) and reaches everything but r; what common mistakes break.

    python -m pytest tests/test_embeddings.py
"""

import copy
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'companions'))

import corpus as corpora  # noqa: E402
import embeddings  # noqa: E402
from embeddings import (PADDING, Data, NormalisedEmbedding, SpanLSTM, TextLSTM, adversarial_loss, normalised,  # noqa: E402
                        per_sequence, perturbation, random_loss, span_loss)

pytestmark = pytest.mark.usefixtures('one_thread')
TOKENS = torch.tensor([[2, 3, 2, 4, 5], [3, 6, 7, PADDING, PADDING], [5, 2, PADDING, PADDING, PADDING]])
MASK, LENGTHS, LABELS = TOKENS != PADDING, torch.tensor([5, 3, 2]), torch.tensor([0, 1, 2])


def classifier(seed=0, embedding=None, dropout=0.0):
    torch.manual_seed(seed)
    embedding = embedding or nn.Embedding(8, 4)
    return TextLSTM(embedding, 5, 3, dropout).double()


def parts(model, lengths=LENGTHS, labels=LABELS):
    """forward and loss_of."""
    return lambda e: model(e, lengths), lambda logits: F.cross_entropy(logits, labels)


def losses(model, epsilon=0.7):
    forward, loss_of = parts(model)
    return adversarial_loss(forward, model.embed(TOKENS), MASK, loss_of, epsilon)


def r_of(model, tokens=TOKENS, lengths=LENGTHS, labels=LABELS, epsilon=0.7):
    forward, loss_of = parts(model, lengths, labels)
    embedded = model.embed(tokens)
    return perturbation(loss_of(forward(embedded)), embedded, tokens != PADDING, epsilon)


def gradients(total, model):
    return torch.autograd.grad(total, list(model.parameters()), retain_graph=True)


def close(a, b):
    return all(torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(a, b, strict=True))


# ---------------------------------------------------------------------------------------------- r

def test_r_is_the_texts_own_gradient_brought_to_epsilon():
    model = classifier()
    r = r_of(model)
    for k in range(3):  # alone, without padding
        n = LENGTHS[k]
        embedded = model.embed(TOKENS[k:k + 1, :n])
        g, = torch.autograd.grad(F.cross_entropy(model(embedded, LENGTHS[k:k + 1]), LABELS[k:k + 1]), embedded)
        torch.testing.assert_close(r[k, :n], 0.7 * g[0] / g.square().sum().sqrt())
        assert (r[k, n:] == 0).all()
    assert not r.requires_grad and all(p.grad is None for p in model.parameters())


def test_r_does_not_depend_on_the_other_texts():
    model, other = classifier(), TOKENS.clone()
    other[1] = torch.tensor([2, 2, 4, PADDING, PADDING])
    torch.testing.assert_close(r_of(model)[0], r_of(model, other)[0])


def test_padding_stays_untouched_where_the_model_reads_it():
    embedded = torch.randn(3, 5, 4, requires_grad=True)
    r = perturbation((embedded.mean(1) ** 3).sum(), embedded, MASK, 2.0)
    assert (r[~MASK] == 0).all() and (r[MASK] != 0).all()
    torch.testing.assert_close(r.square().sum((1, 2)), torch.full((3,), 4.0))


@pytest.mark.parametrize('scale', [1e-38, 1e-25, 1e25])
def test_gradients_of_any_size(scale):
    embedded = torch.ones(3, 5, 4, requires_grad=True)
    factor = torch.tensor([1.0, 0.0, 0.5])[:, None, None]  # the second has no gradient
    r = perturbation((scale * factor * embedded * torch.arange(1.0, 5)).sum(), embedded, MASK, 3.0)
    torch.testing.assert_close(r.norm(dim=(1, 2)), torch.tensor([3.0, 0.0, 3.0]))
    torch.testing.assert_close(r[0, 0] / r[0, 0, 0], torch.arange(1.0, 5))


# ---------------------------------------------------------------------------------------------- the loss

@pytest.mark.parametrize('normal', [False, True])
def test_gradients_are_those_of_both_terms_with_r_constant(normal):
    """By central differences, in every entry of the table and some of each other parameter."""
    table = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(TOKENS[MASK], minlength=8).double()
    model = classifier(embedding=NormalisedEmbedding(table, counts) if normal else None)
    total, loss = losses(model)
    r, (forward, loss_of) = r_of(model), parts(model)

    @torch.no_grad()
    def objective():
        e = model.embed(TOKENS)
        return loss_of(forward(e)) + loss_of(forward(e + r))

    assert total.item() == pytest.approx(objective().item()) and loss.item() < total.item() - loss.item()
    for p, g in zip(model.parameters(), gradients(total, model)):
        flat = p.data.view(-1)
        for k in range(0, len(flat), 1 if p is model.embedding.weight else 7):
            before = flat[k].item()
            flat[k] = before + 1e-6
            above = objective()
            flat[k] = before - 1e-6
            difference = (above - objective()) / 2e-6
            flat[k] = before
            assert g.view(-1)[k].item() == pytest.approx(difference.item(), abs=1e-7)


def test_a_step_changes_nothing_but_by_its_gradient():
    model = classifier()
    before = [p.detach().clone() for p in model.parameters()]
    total, _ = losses(model)
    total.backward()
    assert all(map(torch.equal, before, model.parameters())) and all(p.grad.any() for p in model.parameters())


def test_epsilon_zero_is_the_plain_loss_and_other_epsilons_are_refused():
    model = classifier(dropout=0.5)
    torch.manual_seed(1)
    total, loss = losses(model, 0.0)
    drawn = torch.get_rng_state()
    torch.manual_seed(1)
    forward, loss_of = parts(model)
    assert torch.equal(total, loss_of(forward(model.embed(TOKENS)))) and torch.equal(loss, total)
    assert torch.equal(torch.get_rng_state(), drawn)
    for epsilon in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f'epsilon is {epsilon}'):
            losses(model, epsilon)


def test_a_frozen_table_has_no_gradient_and_r_is_as_ever():
    free, frozen = classifier(), classifier()
    frozen.embedding.weight.requires_grad_(False)
    (a, _), (b, _) = losses(free), losses(frozen)
    assert torch.equal(a, b)
    a.backward()
    b.backward()
    assert frozen.embedding.weight.grad is None and torch.equal(free.lstm.weight_ih_l0.grad, frozen.lstm.weight_ih_l0.grad)


def test_random_perturbations_have_the_same_size():
    seen = []

    def forward(e):
        seen.append(e)
        return e

    total, loss = random_loss(forward, torch.ones(3, 5, 4), MASK, torch.sum, 0.7, torch.Generator().manual_seed(0))
    r = seen[1] - seen[0]
    torch.testing.assert_close(r.norm(dim=(1, 2)), torch.full((3,), 0.7))
    assert (r[~MASK] == 0).all() and loss == 60 and total.item() == pytest.approx(120 + r.sum().item(), abs=1e-4)
    assert random_loss(forward, torch.ones(3, 5, 4), MASK, torch.sum, 0, None) == (60, 60)


# ---------------------------------------------------------------------------------------------- normalisation

def test_the_table_is_normalised_by_word_frequency():
    generator = torch.Generator().manual_seed(0)
    table = 3 + 5 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    counts = torch.tensor([0, 1, 5, 2, 2, 1], dtype=torch.float64)
    found = normalised(table, counts)
    occurring = found.repeat_interleave(counts.long(), 0)
    torch.testing.assert_close(occurring.mean(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(occurring.var(0, correction=0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(found, normalised(100 * table + 7, counts))  # growing is of no use


# ---------------------------------------------------------------------------------------------- two heads

def span_task(count, seed):
    """Texts of words 2 to 4 with one run of words 5 to 7: where it starts and ends. Padded, of different lengths."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 11, count)
    tokens = np.where(np.arange(10) < lengths[:, None], generator.integers(2, 5, (count, 10)), PADDING)
    starts = generator.integers(0, lengths)
    ends = np.minimum(starts + generator.integers(0, 4, count), lengths - 1)
    inside = (np.arange(10) >= starts[:, None]) & (np.arange(10) <= ends[:, None])
    return map(torch.from_numpy, (tokens + 3 * inside, lengths, starts, ends))


def test_two_heads_learn_a_span_by_the_sum_of_their_losses():
    torch.manual_seed(0)
    model = SpanLSTM(nn.Embedding(8, 8), 16)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    tokens, lengths, starts, ends = span_task(256, 0)
    for _ in range(40):
        optimizer.zero_grad()
        total, _ = adversarial_loss(lambda e: model(e, lengths), model.embedding(tokens), tokens != PADDING,
                                    lambda outputs: span_loss(outputs, starts, ends), 0.5)
        total.backward()
        optimizer.step()
    tokens, lengths, starts, ends = span_task(200, 1)
    start, end = model(model.embedding(tokens), lengths)
    assert ((start.argmax(1) == starts) & (end.argmax(1) == ends)).float().mean() > 0.95
    assert (start[tokens == PADDING] == -math.inf).all() and start[tokens != PADDING].isfinite().all()

    embedded = model.embedding(tokens)
    outputs = model(embedded, lengths)
    r = perturbation(span_loss(outputs, starts, ends), embedded, tokens != PADDING, 1.0)
    both = [torch.autograd.grad(F.cross_entropy(output, wanted), embedded, retain_graph=True)[0]
            for output, wanted in zip(outputs, (starts, ends))]
    torch.testing.assert_close(r, per_sequence(sum(both)), rtol=1e-3, atol=1e-5)
    assert (r[tokens == PADDING] == 0).all()


# ---------------------------------------------------------------------------------------------- the mistakes

def table_gradient(model, tokens=TOKENS):
    forward, loss_of = parts(model)
    g, = torch.autograd.grad(loss_of(forward(model.embed(tokens))), model.embedding.weight)
    return g


def test_mistake_1_the_tables_gradient_adds_up_a_words_occurrences():
    model, other = classifier(), TOKENS.clone()
    other[1] = torch.tensor([2, 2, 4, PADDING, PADDING])
    r, changed = table_gradient(model), table_gradient(model, other)
    forward, loss_of = parts(model)
    embedded = model.embed(TOKENS)
    g, = torch.autograd.grad(loss_of(forward(embedded)), embedded)
    torch.testing.assert_close(r[2], g[TOKENS == 2].sum(0))  # of two texts, and twice in one of them
    assert not torch.allclose(r[TOKENS[0]], changed[TOKENS[0]], rtol=0.1)


def test_mistake_2_a_norm_a_row_moves_every_word_by_epsilon():
    model = classifier()
    r = 0.7 * F.normalize(table_gradient(model), dim=-1)[TOKENS[0]]
    torch.testing.assert_close(r.norm(dim=1), torch.full((5,), 0.7, dtype=torch.float64))
    assert r.norm().item() == pytest.approx(0.7 * 5 ** 0.5)
    ours = r_of(model)[0]
    assert ours.norm().item() == pytest.approx(0.7) and ours.norm(dim=1).max() > 2 * ours.norm(dim=1).min()


def test_mistake_3_a_swapped_table_is_read_after_it_was_put_back():
    """Of a learnt scale the gradient is the table's, and by then that is the wrong one."""
    embedding, scale = nn.Embedding(8, 4), nn.Parameter(torch.ones(4))
    kept, perturbed = embedding.weight.data, embedding.weight.data + 1
    embedding.weight.data = perturbed
    loss = F.embedding(TOKENS, embedding.weight * scale).sum()
    embedding.weight.data = kept
    found, = torch.autograd.grad(loss, scale)
    torch.testing.assert_close(found, kept[TOKENS].sum((0, 1)))
    right, = torch.autograd.grad(F.embedding(TOKENS, perturbed * scale).sum(), scale)
    torch.testing.assert_close(right, perturbed[TOKENS].sum((0, 1)))
    assert not torch.allclose(found, right)


def test_mistake_4_backward_for_g_counts_the_first_term_twice():
    model = classifier()
    forward, loss_of = parts(model)
    embedded = model.embed(TOKENS)
    embedded.retain_grad()
    loss = loss_of(forward(embedded))
    loss.backward(retain_graph=True)
    r = 0.7 * per_sequence(embedded.grad.clone())
    (loss + loss_of(forward(embedded + r))).backward()
    total, plain = losses(model)
    found = [p.grad for p in model.parameters()]
    assert close(found, gradients(total + plain, model)) and not close(found, gradients(total, model))


def test_mistake_5_a_detached_loss_is_not_learnt_from():
    model = classifier()
    total, loss = losses(model)
    found = gradients(loss.detach() + total - loss, model)
    forward, loss_of = parts(model)
    assert close(found, gradients(loss_of(forward(model.embed(TOKENS) + r_of(model))), model))
    assert not close(found, gradients(total, model))


def test_mistake_6_r_is_no_constant_with_create_graph():
    model = classifier()
    forward, loss_of = parts(model)
    embedded = model.embed(TOKENS)
    loss = loss_of(forward(embedded))
    g, = torch.autograd.grad(loss, embedded, create_graph=True)
    found = loss + loss_of(forward(embedded + 0.7 * per_sequence(g)))
    total, _ = losses(model)
    assert found.item() == pytest.approx(total.item()) and not close(gradients(found, model), gradients(total, model))


def test_mistake_7_detached_embeddings_are_never_learnt():
    model = classifier()
    forward, loss_of = parts(model)
    total, _ = adversarial_loss(forward, model.embed(TOKENS).detach(), MASK, loss_of, 0.7)
    total.backward()
    assert model.embedding.weight.grad is None and model.linear.weight.grad is not None


def test_mistake_8_training_is_no_switch_for_learning():
    model = classifier()
    model.embedding.training = False
    losses(model)[0].backward()
    assert model.embedding.weight.requires_grad and model.embedding.weight.grad.any()


def test_mistake_9_padding_idx_does_not_keep_r_from_padding():
    embedding = nn.Embedding(8, 4, padding_idx=PADDING)
    embedded = embedding(TOKENS)
    loss = embedded.mean(1).tanh().sum()  # a mean that counts padding
    g, table = torch.autograd.grad(loss, (embedded, embedding.weight), retain_graph=True)
    assert (table[PADDING] == 0).all() and (g[~MASK] != 0).all()
    assert per_sequence(g)[2][MASK[2]].norm() < 0.7 < perturbation(loss, embedded, MASK, 1.0)[2][MASK[2]].norm()


# ---------------------------------------------------------------------------------------------- texts

def write_library(folder, *sentences):
    folder.mkdir()
    (folder / '__init__.py').write_text('"""' + '.\n'.join(sentences) + '."""')


def test_docstrings_with_their_library(tmp_path, monkeypatch):
    write_library(tmp_path / 'one', 'A b c', 'Both have this', 'A b c', 'Uses NumPy here', "Scikit-learn's own", 'Of one only')
    write_library(tmp_path / 'two', 'Both have this', 'Of two only', 'D e f')
    write_library(tmp_path / 'three', 'Both have this', 'G h')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(corpora, 'LIBRARIES', {'one': 'numpy', 'two': 'scipy', 'three': 'torch', 'missing': 'nothing'})
    found = corpora.labelled_docstrings(libraries=('one', 'two', 'three', 'missing'))
    assert list(zip(found.labels, map(' '.join, found.sentences))) == [
        ('one', 'a b c'), ('one', 'of one only'), ('two', 'of two only'), ('two', 'd e f'), ('three', 'g h')]
    assert set(found.sources) == {'numpy', 'scipy', 'torch'} and found.name == 'docstrings'
    assert 'both have this'.split() in corpora.docstrings(libraries=('one', 'two')).sentences


def test_a_file_of_labels_and_texts(tmp_path):
    path = tmp_path / 'a.tsv'
    path.write_text('good\tA fine film. Really!\nbad\tDull\nbad\tThe same words\n\ngood\tthe same WORDS\nbad\tdull\nbad\t12\n')
    found = corpora.labelled_file(path, 3)
    assert found.labels == ['good', 'bad'] and found.sentences == [('a', 'fine', 'film'), ('dull',)]


def texts(count=90, classes=3):
    """Labelled texts in which a class has words of its own among common ones."""
    generator = np.random.default_rng(0)
    labels = [f'class{k % classes}' for k in range(count)]
    sentences = [tuple([f'common{w}' for w in generator.integers(9, size=4)] + [f'{label}word{w}' for w in
                 generator.integers(3, size=2)] + [f'rare{k}']) for k, label in enumerate(labels)]
    return corpora.Labelled('some texts', sentences, labels, '0' * 64, {})


def test_training_and_test_are_apart_and_balanced():
    labels = ['a'] * 50 + ['b'] * 30 + ['c'] * 4
    train, test = embeddings.divided(labels, 30, 15)
    assert not {*train} & {*test} and len({*train, *test}) == 34
    assert [sum(labels[k] == name for k in part) for part in (train, test) for name in 'abc'] == [10, 10, 3, 5, 5, 1]
    assert (train, test) == embeddings.divided(labels, 30, 15) != embeddings.divided(labels, 30, 15, seed=1)
    for train, test in ((3, 5), (5, 3), (2, 2), (31, 16)):
        parts = embeddings.divided(['a'] * 50 + ['b'] * 50, train, test)
        assert [len(part) for part in parts] == [train // 2 * 2, test // 2 * 2]
    with pytest.raises(ValueError, match='--train is 9 and --test is 2, expected at least 3'):
        embeddings.divided(labels, 9, 2)
    with pytest.raises(ValueError, match="class 'c' has 1 texts"):
        embeddings.divided(['a', 'b', 'a', 'b', 'c'], 4, 3)


def test_vectors_and_vocabulary_do_not_see_the_test_texts():
    seen = []

    def run(function, text, **arguments):
        seen.append(text)
        return np.arange(len(text.words) * 3, dtype=np.float32).reshape(-1, 3), None

    labelled = texts()
    train, test = embeddings.divided(labelled.labels, 42, 21)
    labelled.sentences[train[0]] += ('longer',)
    problem = embeddings.make_problem(labelled, 42, 21, 1, 3, 1, run)
    rare = {word for word in seen[0].words if word.startswith('rare')}
    assert rare == {f'rare{k}' for k in range(90)} - {f'rare{k}' for k in test}  # those of neither part are learnt from
    assert len(problem.counts) == len(problem.table) == 2 + len({word for k in train for word in labelled.sentences[k]})
    assert (problem.test.tokens[:, 6] == embeddings.UNKNOWN).all() and (problem.train.tokens[:, :7] > 1).all()
    row = problem.train.tokens[0, 6]
    word = labelled.sentences[train[0]][6]
    assert problem.table[row].tolist() == [3 * seen[0].index[word] + k for k in range(3)] and problem.counts[row] == 1
    assert problem.counts[PADDING] == 0 and problem.counts.sum() == 42 * 7 + 1
    assert problem.train.labels.tolist() == [int(labelled.labels[k][-1]) for k in train]


def test_batches_are_cut_to_their_longest_and_drawn_from_their_generator():
    data = Data(TOKENS, LENGTHS, LABELS)
    assert [batch.tokens.shape for batch in data.batches(2)] == [(2, 5), (1, 2)]
    first, again = ([b.labels.tolist() for b in data.batches(1, torch.Generator().manual_seed(2))] for _ in range(2))
    assert first == again and sorted(sum(first, [])) == [0, 1, 2]
    assert any([b.labels.tolist() for b in data.batches(1, torch.Generator().manual_seed(k))] != first for k in range(9))


# ---------------------------------------------------------------------------------------------- training

@pytest.fixture(scope='module')
def problem():
    return embeddings.make_problem(texts(), 60, 30, 2, 6, 1)


QUICK = {**embeddings.SETTINGS, 'epochs': 3, 'hidden': 8, 'batch_size': 20}


def without_times(record):
    return {key: value for key, value in record.items() if key not in ('seconds', 'method', 'epsilon')}


def test_training_at_epsilon_zero_is_plain_training_bit_for_bit(problem):
    plain, zero, same, other, noise = (without_times(embeddings.fit(problem, 'word2vec', method, epsilon, 0, QUICK)) for
                                       method, epsilon in (('plain', 0.0), ('adversarial', 0.0), ('plain', 5.0),
                                                           ('adversarial', 1.0), ('random', 1.0)))
    assert plain == zero == same and plain['loss'] != other['loss'] != noise['loss'] != plain['loss']
    assert len(plain['accuracy']) == len(embeddings.SIZES) and plain['loss'][-1] < plain['loss'][0]


def test_dropout_is_on_in_training_and_off_in_judging_and_seeds_differ(problem, monkeypatch):
    modes, tokens, embed, forward = [], [], TextLSTM.embed, TextLSTM.forward
    monkeypatch.setattr(TextLSTM, 'embed', lambda self, x: tokens.append(x.tolist()) or embed(self, x))
    monkeypatch.setattr(TextLSTM, 'forward', lambda self, *args: modes.append(self.training) or forward(self, *args))
    first, other = (embeddings.fit(problem, 'scratch', 'adversarial', 1.0, seed, {**QUICK, 'epochs': 1}) for seed in (0, 1))
    assert tokens[0] != tokens[len(tokens) // 2]  # other minibatches
    passes = 2 * 3  # F(e) and F(e + r) for three minibatches
    assert modes[:passes] == [True] * passes and modes[passes:passes + 5] == [False] * 5 and modes[len(modes) // 2]
    assert first['loss'] != other['loss']


def test_a_loss_that_is_not_finite_is_named_in_whichever_term(problem):
    with pytest.raises(ValueError, match='adversarial, ε = 1e[+]300: the loss is no longer finite, seed 0'):
        embeddings.fit(problem, 'frozen', 'adversarial', 1e300, 0, {**QUICK, 'epochs': 1, 'batch_size': 60})


def test_only_a_frozen_table_stays_and_where_vectors_come_from(problem, monkeypatch):
    models = []
    monkeypatch.setattr(embeddings, 'accuracy', lambda model, data, sizes: models.append(model) or [0.0])
    for vectors in embeddings.VECTORS:
        embeddings.fit(problem, vectors, 'adversarial', 1.0, 0, {**QUICK, 'epochs': 0})
        embeddings.fit(problem, vectors, 'adversarial', 1.0, 0, QUICK)
    tables = [model.embedding.weight for model in models]
    assert [torch.equal(a, problem.table) for a in tables] == [False, False, True, False, True, True]
    assert not torch.equal(tables[0], tables[1])


def test_held_out_texts_are_not_trained_on(problem, monkeypatch):
    seen = []
    monkeypatch.setattr(embeddings, 'accuracy', lambda model, data, sizes: seen.append((data, sizes)) or [0.0])
    held_out, hidden = np.arange(60) % 3 == 0, copy.deepcopy(problem)
    hidden.train.tokens[held_out] = 2
    a, b = (embeddings.fit(which, 'scratch', 'plain', 0.0, 0, QUICK, held_out) for which in (problem, hidden))
    assert a['loss'] == b['loss'] and seen[0][1] == (0.0,)
    assert torch.equal(seen[0][0].tokens, problem.train.tokens[::3])


def test_accuracy_falls_with_the_size_of_the_perturbation():
    class Sum(nn.Module):  # class 1 where the first entry is above 0
        def embed(self, tokens):
            return tokens[..., None].float()

        def forward(self, embedded, lengths):
            return torch.stack([0 * embedded[:, 0, 0], embedded[:, 0, 0]], 1)

    data = Data(torch.tensor([[1], [2], [3], [4]]), torch.ones(4).long(), torch.tensor([1, 1, 1, 0]))
    assert embeddings.accuracy(Sum(), data, (0.0, 1.5, 2.5, 9.0)) == [0.75, 0.5, 0.25, 0.0]


# ---------------------------------------------------------------------------------------------- the program

def program(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['embeddings.py', *map(str, arguments)])
    embeddings.main()


def write_texts(path):
    labelled = texts()
    letters = str.maketrans('0123456789', 'abcdefghij')
    path.write_text('\n'.join(f'{label}\t{" ".join(words).translate(letters)}'
                              for label, words in zip(labelled.labels, labelled.sentences)))
    return path


def test_the_program_in_little_gives_the_same_twice(tmp_path, monkeypatch, capsys):
    path, results = write_texts(tmp_path / 'texts.tsv'), []
    for folder in (tmp_path / 'a', tmp_path / 'b'):
        program(monkeypatch, '--dry-run', '--jobs', 1, '--tsv', path, '--output-dir', folder)
        results.append(json.loads((folder / 'plots' / 'embeddings.json').read_text()))
        assert (folder / 'plots' / 'embeddings.png').read_bytes()[:4] == b'\x89PNG'
    out = capsys.readouterr().out
    assert 'texts.tsv: 60 training and 30 test texts of 3 classes (class0, class1, class2)' in out
    assert embeddings.comparison_table(results[1]['runs']) in out
    assert [(r['vectors'], r['method']) for r in results[0]['runs']] == [(vectors, method) for vectors in embeddings.VECTORS
                                                                       for method in embeddings.METHODS]
    assert list(map(without_times, results[0]['runs'])) == list(map(without_times, results[1]['runs']))


def test_tuning_in_little(tmp_path, monkeypatch, capsys):
    path = write_texts(tmp_path / 'texts.tsv')
    program(monkeypatch, 'frozen', '--tune', '--dry-run', '--jobs', 1, '--tsv', path, '--output-dir', tmp_path)
    runs = json.loads((tmp_path / 'plots' / 'tune_embeddings.json').read_text())['runs']
    assert [(r['epsilon'], r['seed']) for r in runs] == [(epsilon, fold) for epsilon in embeddings.GRID for fold in (0, 1)]
    assert embeddings.tuning_table(runs) in capsys.readouterr().out


def test_the_table_pairs_by_seed():
    runs = [{'vectors': 'scratch', 'method': method, 'epsilon': 3.0, 'seed': seed, 'seconds': 1.0,
             'accuracy': [base + gain] + [0.1] * (len(embeddings.SIZES) - 1)}
            for method, gain in zip(embeddings.METHODS, (0, 0.01, 0.02)) for seed, base in enumerate((0.5, 0.7))]
    *_, plain, noise, ours = embeddings.comparison_table(runs).splitlines()
    assert '| 60.0 ± 14.1 |  |' in plain and '| +1.0 ± 0.0 |' in noise
    assert '| adversarial | 3 | 62.0 ± 14.1 | +2.0 ± 0.0 |' in ours


@pytest.mark.parametrize('content, arguments, words', [
    (None, ['--tsv', 'nowhere.tsv'], 'nowhere.tsv: no such file, expected lines of a label, a tab and a text'),
    (b'\xff\xfe\xfa', ['--tsv', 'a.tsv'], 'a.tsv: not UTF-8'),
    (b'good\tfine film\nno tab here', ['--tsv', 'a.tsv'], 'a.tsv: line 2 is no label, tab and text'),
    (b'good\tfine film\ngood\tbad film', ['--tsv', 'a.tsv'], 'a.tsv: sentences of 1 labels, expected at least 2'),
    (b'', ['--tsv', 'a.tsv'], 'a.tsv: sentences of 0 labels'),
    (b'good\tfine film\nbad\tdull film', ['--tsv', 'a.tsv'], "class 'bad' has 1 texts"),
    (b'good\ta b\ngood\tc d\nbad\te f\nbad\tg h', ['--tsv', 'a.tsv', '--train', '2', '--test', '2'],
     'a.tsv: 0 different words occur 2 times or more in training (--min-count)'),
    (b'good\ta b\ngood\ta c\nbad\ta d\nbad\tb c', ['--tsv', 'a.tsv', '--tune', '--min-count', '1', '--train', '2', '--test',
                                                  '2'], '--folds is 5, but the smallest class has 1 training texts'),
    (None, ['--epsilon', '-1'], 'argument --epsilon'), (None, ['--folds', '1'], 'argument --folds: expected at least 2'),
    (None, ['--longest', '4'], 'argument --longest: expected at least 5'), (None, ['nothing'], 'invalid choice')])
def test_bad_input_is_one_sentence(content, arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embeddings, 'alone', embeddings.call)
    if content is not None:
        Path('a.tsv').write_bytes(content)
    with pytest.raises(SystemExit) as end:
        program(monkeypatch, '--jobs', 1, '--output-dir', tmp_path, *arguments)
    assert end.value.code == 2 and words in capsys.readouterr().err
