"""r is each text's own, the loss F(e) + F(e + r) holds r constant; what the mistakes break."""

import inspect
import math
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from companions.embeddings.adversarial import adversarial_loss, perturbation
from companions.embeddings.models import NormalizedEmbedding, SpanLSTM, TextLSTM
from companions.embeddings.posted import posted_loss
from tests.helpers import ROOT

PADDING = 0
TOKENS = torch.tensor([[2, 3, 2, 4, 5], [3, 6, 7, PADDING, PADDING], [5, 2, *[PADDING] * 3]])
MASK, LENGTHS, LABELS = TOKENS != PADDING, torch.tensor([5, 3, 2]), torch.tensor([0, 1, 2])


def classifier(seed=0, embedding=None, dropout=0.0):
    torch.manual_seed(seed)
    return TextLSTM(embedding or nn.Embedding(8, 4), 5, 3, dropout).double()


def parts(model, lengths=LENGTHS, labels=LABELS):
    """Return forward and loss_of."""
    return lambda e: model(e, lengths), lambda logits: F.cross_entropy(logits, labels)


def losses(model, epsilon=0.7):
    forward, loss_of = parts(model)
    return adversarial_loss(forward, model.embed(TOKENS), MASK, loss_of, epsilon)


def r_of(model, tokens=TOKENS):
    forward, loss_of = parts(model)
    embedded = model.embed(tokens)
    return perturbation(loss_of(forward(embedded)), embedded, tokens != PADDING, 0.7)


def unit(g):
    return g / g.square().sum((1, 2), keepdim=True).sqrt()


def gradients(total, model):
    return torch.autograd.grad(total, list(model.parameters()), retain_graph=True)


def close(a, b):
    return all(torch.allclose(x, y, rtol=1e-9, atol=1e-12) for x, y in zip(a, b, strict=True))


def with_another_second_text():
    other = TOKENS.clone()
    other[1] = torch.tensor([2, 2, 4, PADDING, PADDING])
    return other


# -------------------------------------------------------------------------------------------- r

def test_r_is_the_gradient_of_each_text_scaled_to_epsilon():
    model = classifier()
    r = r_of(model)
    for k in range(3):  # alone, without padding
        n = LENGTHS[k]
        embedded = model.embed(TOKENS[k:k + 1, :n])
        loss = F.cross_entropy(model(embedded, LENGTHS[k:k + 1]), LABELS[k:k + 1])
        g, = torch.autograd.grad(loss, embedded)
        torch.testing.assert_close(r[k, :n], 0.7 * g[0] / g.square().sum().sqrt())
        assert (r[k, n:] == 0).all()
    assert not r.requires_grad and all(p.grad is None for p in model.parameters())


def test_padding_is_not_perturbed_where_the_model_reads_it():
    embedded = torch.randn(3, 5, 4, requires_grad=True)
    r = perturbation((embedded.mean(1) ** 3).sum(), embedded, MASK, 2.0)
    assert (r[~MASK] == 0).all() and (r[MASK] != 0).all()
    torch.testing.assert_close(r.square().sum((1, 2)), torch.full((3,), 4.0))


@pytest.mark.parametrize('scale', [1e-38, 1e-25, 1e25])
def test_gradients_of_any_size(scale):
    embedded = torch.ones(3, 5, 4, requires_grad=True)
    factor = torch.tensor([1.0, 0.0, 0.5])[:, None, None]  # the second has no gradient
    loss = (scale * factor * embedded * torch.arange(1.0, 5)).sum()
    r = perturbation(loss, embedded, MASK, 3.0)
    torch.testing.assert_close(r.norm(dim=(1, 2)), torch.tensor([3.0, 0.0, 3.0]))
    torch.testing.assert_close(r[0, 0] / r[0, 0, 0], torch.arange(1.0, 5))


# ------------------------------------------------------------------------------------- the loss

@pytest.mark.parametrize('normalized', [False, True])
def test_gradients_are_those_of_both_terms_with_r_constant(normalized):
    """By central differences, in all entries of the table and some of each other parameter."""
    table = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(TOKENS[MASK], minlength=8).double()
    model = classifier(embedding=NormalizedEmbedding(table, counts) if normalized else None)
    total, loss = losses(model)
    r, (forward, loss_of) = r_of(model), parts(model)

    @torch.no_grad()
    def objective():
        e = model.embed(TOKENS)
        return loss_of(forward(e)) + loss_of(forward(e + r))

    assert total.item() == pytest.approx(objective().item())
    assert loss.item() < total.item() - loss.item()
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


def test_the_loss_changes_no_parameter():
    model = classifier()
    before = [p.detach().clone() for p in model.parameters()]
    total, _ = losses(model)
    total.backward()
    assert all(map(torch.equal, before, model.parameters()))
    assert all(p.grad.any() for p in model.parameters())


def test_epsilon_zero_is_the_plain_loss_and_other_epsilons_are_refused():
    model = classifier(dropout=0.5)
    torch.manual_seed(1)
    total, loss = losses(model, 0.0)
    state = torch.get_rng_state()
    torch.manual_seed(1)
    forward, loss_of = parts(model)
    assert torch.equal(total, loss_of(forward(model.embed(TOKENS)))) and torch.equal(loss, total)
    assert torch.equal(torch.get_rng_state(), state)
    for epsilon in (-1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=f'epsilon is {epsilon}'):
            losses(model, epsilon)


def test_a_frozen_table_has_no_gradient_and_the_same_r():
    free, frozen = classifier(), classifier()
    frozen.embedding.weight.requires_grad_(False)
    (a, _), (b, _) = losses(free), losses(frozen)
    assert torch.equal(a, b)
    a.backward()
    b.backward()
    assert frozen.embedding.weight.grad is None
    assert torch.equal(free.lstm.weight_ih_l0.grad, frozen.lstm.weight_ih_l0.grad)


def test_random_perturbations_have_the_same_norm():
    seen = []

    def forward(e):
        seen.append(e)
        return e

    e, generator = torch.ones(3, 5, 4), torch.Generator().manual_seed(0)
    total, loss = adversarial_loss(forward, e, MASK, torch.sum, 0.7, generator)
    r = (seen[1] - seen[0]).detach()
    torch.testing.assert_close(r.norm(dim=(1, 2)), torch.full((3,), 0.7))
    assert (r[~MASK] == 0).all() and loss == 60
    assert total.item() == pytest.approx(120 + r.sum().item(), abs=1e-4)
    state = generator.get_state()
    assert adversarial_loss(forward, e, MASK, torch.sum, 0, generator) == (60, 60)
    assert torch.equal(state, generator.get_state())


# --------------------------------------------------------------------------------------- models

def test_the_table_is_normalized_by_word_frequency():
    generator = torch.Generator().manual_seed(0)
    table = 3 + 5 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    counts = torch.tensor([0, 1, 5, 2, 2, 1], dtype=torch.float64)

    def normalize(table):
        return NormalizedEmbedding(table, counts)(torch.arange(6)).detach()

    found = normalize(table)
    occurring = found.repeat_interleave(counts.long(), 0)
    torch.testing.assert_close(occurring.mean(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(occurring.var(0, correction=0), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(found, normalize(100 * table + 7))  # scale has no effect


def span_task(count, seed):
    """Padded texts of words 2 to 4 with one span of words 5 to 7: tokens, lengths, spans."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 11, count)
    words = generator.integers(2, 5, (count, 10))
    tokens = np.where(np.arange(10) < lengths[:, None], words, PADDING)
    starts = generator.integers(0, lengths)
    ends = np.minimum(starts + generator.integers(0, 4, count), lengths - 1)
    inside = (np.arange(10) >= starts[:, None]) & (np.arange(10) <= ends[:, None])
    return map(torch.from_numpy, (tokens + 3 * inside, lengths, np.stack([starts, ends], 1)))


def test_two_heads_learn_a_span_by_the_sum_of_their_losses():
    torch.manual_seed(0)
    model = SpanLSTM(nn.Embedding(8, 8), 16, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    tokens, lengths, spans = span_task(256, 0)
    for _ in range(40):
        optimizer.zero_grad()
        total, _ = adversarial_loss(lambda e: model(e, lengths), model.embed(tokens),
                                    tokens != PADDING, lambda outputs: model.loss(outputs, spans),
                                    0.5)
        total.backward()
        optimizer.step()
    tokens, lengths, spans = span_task(200, 1)
    padding = tokens == PADDING
    embedded = model.embed(tokens)
    start, end = outputs = model(embedded, lengths)
    correct = model.correct(outputs, spans)
    assert correct.float().mean() > 0.95 and correct.shape == (200,)
    assert torch.equal(correct, (start.argmax(1) == spans[:, 0]) & (end.argmax(1) == spans[:, 1]))
    assert not model.correct(outputs, spans + torch.tensor([0, 1])).any()
    assert not model.correct(outputs, spans + torch.tensor([1, 0])).any()
    assert (start[padding] == -math.inf).all() and start[~padding].isfinite().all()

    r = perturbation(model.loss(outputs, spans), embedded, ~padding, 1.0)
    both = [torch.autograd.grad(F.cross_entropy(output, target), embedded, retain_graph=True)[0]
            for output, target in zip(outputs, spans.T)]
    torch.testing.assert_close(r, unit(sum(both)), rtol=1e-3, atol=1e-5)
    assert (r[padding] == 0).all()


# ------------------------------------------------------------------------------ the posted code

def posted(model, parameters):
    _, loss_of = parts(model)
    optimizer = torch.optim.SGD(parameters, 0.1)
    return posted_loss(lambda: model(model.embed(TOKENS), LENGTHS), model.embedding, loss_of,
                       optimizer, 0.7)


def test_the_posted_code_moves_every_occurrence_of_a_word_by_epsilon():
    """Its loss and gradients are those at the table and at the table with normalized rows of g."""
    model = classifier()
    forward, loss_of = parts(model)
    table, g = model.embedding.weight.detach().clone(), table_gradient(model)
    total, loss = posted(model, model.parameters())
    assert torch.equal(model.embedding.weight, table) and not model.embedding.training
    total.backward()
    # The gradients of F(x) that the posted code computes first are not cleared inside it.
    found = [p.grad - 2 * first for p, first in zip(
        model.parameters(), gradients(loss_of(forward(model.embed(TOKENS))), model))]
    moved = classifier()
    with torch.no_grad():
        moved.embedding.weight += 0.7 * F.normalize(g, dim=1)
    forward, loss_of = parts(moved)
    adversarial = loss_of(forward(moved.embed(TOKENS)))
    assert total.item() == pytest.approx(loss.item() + adversarial.item())
    assert close(found, gradients(adversarial, moved))


def test_the_posted_code_never_clears_the_gradient_of_a_table_that_is_not_trained():
    model = classifier()
    others = [p for p in model.parameters() if p is not model.embedding.weight]
    first = table_gradient(model)
    for k in (1, 2, 3):
        posted(model, others)
        torch.testing.assert_close(model.embedding.weight.grad, k * first)
    posted(model, model.parameters())
    torch.testing.assert_close(model.embedding.weight.grad, first)


# --------------------------------------------------------------------------------- the mistakes

def test_the_page_lists_every_mistake_with_code_of_its_test():
    page = (ROOT / 'companions' / 'embeddings' / 'page.md').read_text(encoding='utf-8')
    listed = re.findall(r'^(\d)\. `([^`]+)`', page, flags=re.MULTILINE)
    tests = {name.split('_')[2]: test for name, test in globals().items()
             if name.startswith('test_mistake_')}
    shared = {'1': 'embedding.weight.grad', '2': 'F.normalize(', '3': 'embedding.weight.data = ',
              '4': 'loss.backward(retain_graph=True)', '5': 'loss.detach() + ',
              '6': 'create_graph=True', '7': '.detach()', '8': 'embedding.training = False',
              '9': 'padding_idx='}
    assert [*dict(listed)] == sorted(tests) == [*shared] and len(listed) == 9
    for number, code in listed:
        assert shared[number] in code and shared[number] in inspect.getsource(tests[number])


def table_gradient(model, tokens=TOKENS):
    forward, loss_of = parts(model)
    g, = torch.autograd.grad(loss_of(forward(model.embed(tokens))), model.embedding.weight)
    return g


def test_mistake_1_the_gradient_of_the_table_sums_over_the_occurrences_of_a_word():
    model = classifier()
    changed = table_gradient(model, with_another_second_text())
    forward, loss_of = parts(model)
    embedded = model.embed(TOKENS)
    embedded.retain_grad()
    loss_of(forward(embedded)).backward()
    g, r = embedded.grad, model.embedding.weight.grad
    torch.testing.assert_close(r[2], g[TOKENS == 2].sum(0))  # in two texts, twice in one of them
    assert not torch.allclose(r[TOKENS[0]], changed[TOKENS[0]], rtol=0.1)


def test_mistake_2_a_norm_per_row_moves_every_word_by_epsilon():
    model = classifier()
    r = 0.7 * F.normalize(table_gradient(model), dim=-1)[TOKENS[0]]
    torch.testing.assert_close(r.norm(dim=1), torch.full((5,), 0.7, dtype=torch.float64))
    assert r.norm().item() == pytest.approx(0.7 * 5 ** 0.5)
    ours = r_of(model)[0]
    assert ours.norm().item() == pytest.approx(0.7)
    assert ours.norm(dim=1).max() > 2 * ours.norm(dim=1).min()


def test_mistake_3_a_replaced_table_is_read_after_it_was_restored():
    """The gradient of a trained scale is the table, by then the wrong one."""
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


def test_mistake_4_backward_to_get_g_counts_the_first_term_twice():
    model = classifier()
    forward, loss_of = parts(model)
    embedded = model.embed(TOKENS)
    embedded.retain_grad()
    loss = loss_of(forward(embedded))
    loss.backward(retain_graph=True)
    r = 0.7 * unit(embedded.grad.clone())
    (loss + loss_of(forward(embedded + r))).backward()
    total, plain = losses(model)
    found = [p.grad for p in model.parameters()]
    assert close(found, gradients(total + plain, model))
    assert not close(found, gradients(total, model))


def test_mistake_5_a_detached_loss_is_not_trained_on():
    model = classifier()
    total, loss = losses(model)
    found = gradients(loss.detach() + total - loss, model)
    forward, loss_of = parts(model)
    adversarial = loss_of(forward(model.embed(TOKENS) + r_of(model)))
    assert close(found, gradients(adversarial, model))
    assert not close(found, gradients(total, model))


def test_mistake_6_r_is_not_constant_with_create_graph():
    model = classifier()
    forward, loss_of = parts(model)
    embedded = model.embed(TOKENS)
    loss = loss_of(forward(embedded))
    g, = torch.autograd.grad(loss, embedded, create_graph=True)
    found = loss + loss_of(forward(embedded + 0.7 * unit(g)))
    total, _ = losses(model)
    assert found.item() == pytest.approx(total.item())
    assert not close(gradients(found, model), gradients(total, model))


def test_mistake_7_detached_embeddings_are_not_trained():
    model = classifier()
    forward, loss_of = parts(model)
    total, _ = adversarial_loss(forward, model.embed(TOKENS).detach(), MASK, loss_of, 0.7)
    total.backward()
    assert model.embedding.weight.grad is None and model.linear.weight.grad is not None


def test_mistake_8_training_false_freezes_nothing():
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
    masked = perturbation(loss, embedded, MASK, 1.0)[2][MASK[2]]
    assert unit(g)[2][MASK[2]].norm() < 0.7 < masked.norm()
