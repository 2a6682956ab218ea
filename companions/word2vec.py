"""word2vec: skip-gram with softmax and with negative sampling by hand, then fast; CBOW; what the vectors are worth.

    python companions/word2vec.py                      # on the docstrings of the installed libraries
    python companions/word2vec.py --text book.txt      # on a text file
    python companions/word2vec.py --sst DIR            # on the Stanford Sentiment Treebank (datasetSentences.txt)
    python companions/word2vec.py --tune               # compare learning rates, on word pairs that are reported nowhere
    python companions/word2vec.py --dry-run
    python -m pytest tests/test_word2vec.py

Equations, (1) to (4), are those of the assignment: for a centre word c with vector v and a word o of its context, over a
vocabulary of V words with output vectors u_w, the rows of U,

    (1)  ŷ_o = p(o|c) = exp(u_oᵀv) / Σ_w exp(u_wᵀv)            (2)  J = −log ŷ_o
    (3)  J = −log σ(u_oᵀv) − Σ_k log σ(−u_kᵀv), K negatives k ≠ o drawn from a noise distribution

(Mikolov et al., arXiv:1301.3781 and 1310.4546; Goldberg and Levy, arXiv:1402.3722). `softmaxCostAndGradient` and
`negSamplingCostAndGradient` derive and compute their gradients, `skipgram` and `cbow` sum them over a window, and `train`
minimises (3) over a corpus by the same gradients for 128 positions at a time. Where gensim, of requirements-companions.txt,
is installed, speed and vectors are compared with its own. Written under --output-dir: plots/word2vec.png,
plots/word2vec_vectors.png and plots/word2vec.json, or plots/tune_word2vec.json.

What to expect of about a million words, where published vectors are trained on billions: neighbours and the grammar of
frequent words (singular and plural, tenses), technical senses only (a thread is no yarn), and little to trust about a word
that occurs less than some thirty times. Docstrings hold next to no people, so a gender direction needs another corpus; the
program says so, and shows what debiasing does on directions that are there.
"""

import argparse
import importlib.metadata
import importlib.util
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

import corpus as corpora
from common import add_arguments, carry_out, complete, in_parallel, make_folders
from runs import write
from training import positive, positive_int, records_json, save_figure, spread
from vectors import (FORMS, agreement, analogy, analogy_accuracy, bias, bias_direction, form_measure, form_pairs,
                     hard_debias, nearest, soft_debias, unit_rows)

POWER = 0.75        # of the counts in the noise distribution (arXiv:1310.4546, section 2.2)
SUBSAMPLING = 1e-3  # the share of the corpus above which a word is thinned out (section 2.3, in the form of the authors' code)
DAMPING = 4         # what of a trace is taken for the curvature along a gradient; 1 would be a bound, and too cautious
SETTINGS = {'dim': 100, 'window': 5, 'negatives': 5, 'epochs': 5, 'learning_rate': 0.2}
CBOW_RATE = 4       # CBOW's learning rate as a multiple of skip-gram's: its gradient is shared out over the window
RATES = 0.1, 0.2, 0.4, 0.8, 1.6, 3.2  # that --tune compares: of each method the lowest within the spread of its best was taken


# ---------------------------------------------------------------------------------------------- vocabulary and noise

class Text(NamedTuple):
    words: list            # V words, the most frequent first, equals in alphabetical order
    counts: np.ndarray     # int64 [V]
    tokens: np.ndarray     # int64 [N], the corpus as rows of the tables
    sentences: np.ndarray  # int64 [N], the sentence of each

    @property
    def index(self):
        return {word: row for row, word in enumerate(self.words)}


def text_of(sentences, min_count=5):
    """A Text of lists of words, without the words that occur fewer than `min_count` times."""
    counts = Counter(word for sentence in sentences for word in sentence)
    words = sorted((word for word, count in counts.items() if count >= min_count), key=lambda word: (-counts[word], word))
    if len(words) < 2:
        raise ValueError(f'the corpus has {len(words)} different words that occur {min_count} times or more (--min-count), '
                         f'expected at least 2')
    index = {word: row for row, word in enumerate(words)}
    kept = [[index[word] for word in sentence if word in index] for sentence in sentences]
    return Text(words, np.array([counts[word] for word in words]), np.array([row for sentence in kept for row in sentence]),
                np.repeat(np.arange(len(kept)), [len(sentence) for sentence in kept]))


class Noise:
    """Draws of words with probability proportional to count^0.75, from a generator of its own."""

    def __init__(self, counts, seed):
        share = np.cumsum(np.asarray(counts, dtype=float) ** POWER)
        self.cumulative, self.generator = share / share[-1], np.random.default_rng(seed)

    def draw(self, shape):
        """int64 array of `shape`."""
        return np.searchsorted(self.cumulative, self.generator.random(shape), side='right')

    def sampleTokenIdx(self):
        return int(self.draw(()))


# ---------------------------------------------------------------------------------------------- gradients by hand

def sigmoid(z):
    return 0.5 * np.tanh(0.5 * z) + 0.5  # 1 / (1 + exp(-z)) overflows


def softmaxCostAndGradient(predicted, target, outputVectors, dataset=None):
    """Equation (2) of one pair: (J, ∂J/∂v [d], ∂J/∂U [V, d]). `dataset` is not used.

    Args: predicted, v [d]; target, the row of o; outputVectors, U [V, d]. With y the one-hot vector of o and scores z = U v,

        J      = −z_o + log Σ_w exp z_w
        ∂J/∂z_w = −1[w = o] + exp z_w / Σ_x exp z_x = ŷ_w − y_w
        ∂J/∂v  = Σ_w ∂J/∂z_w u_w = Uᵀ(ŷ − y) = −(u_o − Σ_x p(x|c) u_x), equation (4), whose middle term lacks a minus
        ∂J/∂u_w = ∂J/∂z_w v     = (ŷ_w − y_w) v, so (ŷ_o − 1) v for w = o and ŷ_w v for every other word

    Every output vector has a gradient, so a step costs O(V d).
    """
    z = outputVectors @ predicted
    z = z - z.max()  # the same for all words, so ŷ is unchanged and nothing overflows
    log_y = z - np.log(np.exp(z).sum())
    delta = np.exp(log_y)
    delta[target] -= 1
    return -log_y[target], outputVectors.T @ delta, np.outer(delta, predicted)


def negSamplingCostAndGradient(predicted, target, outputVectors, dataset, K=10):
    """Equation (3) of one pair with K negatives: (J, ∂J/∂v [d], ∂J/∂U [V, d]); see `negative_sampling_rows`.

    `dataset` is anything with sampleTokenIdx(), a draw from the noise distribution. ∂J/∂U is zero but for K + 1 rows; it is
    returned whole, as the assignment has it, at a cost of O(V d) that `negative_sampling_rows` does without.
    """
    rows = [target, *getNegativeSamples(target, dataset, K)]
    cost, grad_predicted, grad_rows = negative_sampling_rows(predicted, outputVectors[rows])
    grad = np.zeros_like(outputVectors)
    np.add.at(grad, rows, grad_rows)  # grad[rows] += … would count a repeated negative once
    return cost, grad_predicted, grad


def getNegativeSamples(target, dataset, K):
    """K draws, each made again for as long as it is the target."""
    negatives = []
    while len(negatives) < K:
        if (drawn := dataset.sampleTokenIdx()) != target:
            negatives.append(drawn)
    return negatives


def negative_sampling_rows(v, u):
    """Equation (3) with u [1 + K, d] the output vectors of the target and of K negatives: (J, ∂J/∂v [d], ∂J/∂u [1 + K, d]).

    With z = u v, and from dσ/dz = σ(1 − σ) and σ(−z) = 1 − σ(z),

        d/dz −log σ(z)  = −σ(1 − σ) / σ = σ(z) − 1              (the target)
        d/dz −log σ(−z) = σ(−z) (1 − σ(−z)) / σ(−z) = σ(z)      (a negative)
        ∂J/∂v   = (σ(u_oᵀv) − 1) u_o + Σ_k σ(u_kᵀv) u_k
        ∂J/∂u_o = (σ(u_oᵀv) − 1) v
        ∂J/∂u_k = σ(u_kᵀv) v for each draw; a word that was drawn n times gets it n times

    Why it is cheaper: it touches K + 1 output vectors instead of V, so that a step costs O(K d).
    """
    z = u @ v
    delta = sigmoid(z)
    delta[0] -= 1
    return np.logaddexp(0, -z[0]) + np.logaddexp(0, z[1:]).sum(), u.T @ delta, np.outer(delta, v)


def skipgram(currentWord, C, contextWords, tokens, inputVectors, outputVectors, dataset,
             word2vecCostAndGradient=softmaxCostAndGradient):
    """The cost of predicting each word of a window from its centre: (J, ∂J/∂inputVectors, ∂J/∂outputVectors), both [V, d].

    Args: currentWord, the centre, and contextWords, at most 2C words around it, are keys of `tokens`, word -> row. J is the
    sum over context words o of the cost of (c, o), hence so are its gradients; of inputVectors only row c has one.
    """
    centre = tokens[currentWord]
    cost, grad_in, grad_out = 0.0, np.zeros_like(inputVectors), np.zeros_like(outputVectors)
    for word in contextWords:
        part, grad_predicted, grad = word2vecCostAndGradient(inputVectors[centre], tokens[word], outputVectors, dataset)
        cost += part
        grad_in[centre] += grad_predicted
        grad_out += grad
    return cost, grad_in, grad_out


def cbow(currentWord, C, contextWords, tokens, inputVectors, outputVectors, dataset,
         word2vecCostAndGradient=softmaxCostAndGradient):
    """The cost of predicting the centre from the mean of its window, h = Σ_j v_j / m; arguments and results as of `skipgram`.

    ∂h/∂v_j = I / m, so each of the m context words gets ∂J/∂h / m, a repeated one as often as it stands there. The authors'
    code and gensim leave out this 1 / m, which is then no longer the gradient of the cost (İrsoy et al., arXiv:2012.15332).
    """
    rows = [tokens[word] for word in contextWords]
    h = inputVectors[rows].mean(0)
    cost, grad_predicted, grad_out = word2vecCostAndGradient(h, tokens[currentWord], outputVectors, dataset)
    grad_in = np.zeros_like(inputVectors)
    np.add.at(grad_in, rows, grad_predicted / len(rows))
    return cost, grad_in, grad_out


# ---------------------------------------------------------------------------------------------- the same, fast

def skipgram_gradients(inputs, outputs, centres, contexts, mask, negatives, K):
    """The gradients of (3), summed over all pairs of G blocks of positions, and how curved (3) is there.

    Args:
        inputs, outputs: the tables [V, d].
        centres: rows [G, L], the words at L positions that follow one another.
        contexts: rows [G, X], the words at all positions that may be in their windows.
        mask: [G, L, X] of the tables' dtype, 1 where contexts[g, x] is in the window of centres[g, l], else 0.
        negatives: rows [G, S], draws that all pairs of a block share.
        K: how many negatives a pair is to have. Of its block's S draws those that are its target are left out, and each of the
            S' others counts K / S' times. The expectation is that of (3) with K draws of its own, unless all S are its target;
            sharing makes of single dot products matrix products (compare Ji et al., arXiv:1604.04661).

    Returns ((rows, gradients, curvatures) of inputs, the same of outputs): rows [G, n], gradients [G, n, d], and for each the
    trace of the second derivatives by that row, [G, n]; from d²/dz² −log σ(±z) = σ(1 − σ) it is Σ σ(1 − σ) ‖u‖² for a v and
    Σ σ(1 − σ) ‖v‖² for a u. Rows may repeat.
    """
    rows, X = np.concatenate([contexts, negatives], 1), contexts.shape[1]
    v, u = inputs[centres], outputs[rows]
    times = np.concatenate([mask, mask @ shares(contexts, negatives, K).astype(mask.dtype)], 2)  # [G, L, X + S]
    s = sigmoid(v @ u.transpose(0, 2, 1))
    bend = times * s * (1 - s)
    s[..., :X] -= 1
    delta = times * s
    return ((centres, delta @ u, np.einsum('glx,gx->gl', bend, squares(u))),
            (rows, delta.transpose(0, 2, 1) @ v, np.einsum('glx,gl->gx', bend, squares(v))))


def cbow_gradients(inputs, outputs, centres, contexts, mask, negatives, K):
    """The same for CBOW: each position has one pair, of its window's mean h and its own word. Arguments and results alike.

    But an input's curvature is 1/m, not 1/m², of that by h: the m words of a window move h together.
    """
    mean = mask / np.maximum(mask.sum(2, keepdims=True), 1)
    h, u, n = mean @ inputs[contexts], outputs[centres], outputs[negatives]
    # An empty window has h = 0 and a mean that nothing goes back through: no gradient, though it is not masked here.
    s, s_n = sigmoid((h * u).sum(2)), sigmoid(h @ n.transpose(0, 2, 1))  # [G, L], [G, L, S]
    times = shares(centres, negatives, K).astype(mask.dtype)
    bend, bend_n = s * (1 - s), times * s_n * (1 - s_n)
    positive_part, negative_part = (s - 1)[..., None], times * s_n
    grad_h = positive_part * u + negative_part @ n
    curvature_h = bend * squares(u) + np.einsum('gls,gs->gl', bend_n, squares(n))
    grad_out = np.concatenate([positive_part * h, negative_part.transpose(0, 2, 1) @ h], 1)
    curvature_out = np.concatenate([bend * squares(h), np.einsum('gls,gl->gs', bend_n, squares(h))], 1)
    return ((contexts, mean.transpose(0, 2, 1) @ grad_h, np.einsum('glx,gl->gx', mean, curvature_h)),
            (np.concatenate([centres, negatives], 1), grad_out, curvature_out))


GRADIENTS = {'skip-gram': skipgram_gradients, 'CBOW': cbow_gradients}


def squares(x):
    return np.einsum('...d,...d->...', x, x)


def shares(targets, negatives, K):
    """How often each negative counts for each target: [G, n, S], K in all for each target, and 0 for itself."""
    other = targets[:, :, None] != negatives[:, None, :]
    return other * (K / np.maximum(other.sum(2, keepdims=True), 1))


def train(text, method, seed, *, dim=100, window=5, negatives=5, epochs=5, learning_rate=0.2, least_rate=1e-4,
          block=16, blocks=8, drawn=32):
    """Stochastic gradient descent on (3) as in the authors' code. `method` is of GRADIENTS. Returns (inputs, outputs).

    Both tables are float32 [V, dim]; inputs are the word vectors.

    Each epoch keeps an occurrence of a word of relative frequency f with probability √(t/f) + t/f, t = SUBSAMPLING, gives
    each one kept a window of 1 to `window` words to either side within its sentence, and draws `drawn` negatives for each
    `block` of positions. A step is taken for `blocks` of them at once; the rate falls linearly to `least_rate`. The authors'
    code goes on from each pair, and so may take steps at which a sum of many gradients of one frequent word, all of them at
    the point where it stood, would overshoot. Hence a row moves by rate · g / (1 + rate · h), with h a DAMPING-th of the sum
    of its curvatures: a proximal step, x ← argmin gᵀx + h ‖x − x₀‖² / 2 + ‖x − x₀‖² / (2 rate), that is the plain one where
    rate · h is small (compare Toulis and Airoldi, arXiv:1408.2923).

    Raises ValueError if the vectors are no longer finite.
    """
    generator, noise = np.random.default_rng([seed, 0]), Noise(text.counts, [seed, 1])
    inputs = ((generator.random((len(text.words), dim)) - 0.5) / dim).astype(np.float32)
    outputs = np.zeros_like(inputs)
    tables, bent = (torch.from_numpy(inputs), torch.from_numpy(outputs)), torch.zeros(len(inputs))  # the tables' own memory
    frequency = text.counts / text.counts.sum()
    kept_share = np.sqrt(SUBSAMPLING / frequency) + SUBSAMPLING / frequency
    window, widest = min(window, int(np.bincount(text.sentences).max())), window  # a wider one would reach nothing more
    distance = np.abs(np.arange(block)[:, None] + window - np.arange(block + 2 * window))  # [L, X]
    least_rate = min(least_rate, learning_rate)
    for epoch in range(epochs):
        kept = np.flatnonzero(generator.random(len(text.tokens)) < kept_share[text.tokens])
        count = -(-len(kept) // block)
        end = count * block - len(kept)
        tokens = np.pad(text.tokens[kept], (window, window + end))
        sentences = np.pad(text.sentences[kept], (window, window + end), constant_values=-1)
        reach = np.pad(generator.integers(1, widest + 1, len(kept)), (0, end)).reshape(count, block, 1)
        drawn_rows = noise.draw((count, drawn))
        positions = np.arange(count)[:, None] * block + np.arange(block + 2 * window)  # [blocks of the epoch, X]
        for k in range(0, count, blocks):
            at, last = positions[k:k + blocks], slice(k, k + blocks)
            contexts, sentence = tokens[at], sentences[at]
            centre = slice(window, window + block)
            mask = (distance <= reach[last]) & (distance > 0) & (sentence[:, centre, None] == sentence[:, None, :])
            rate = max(least_rate, learning_rate - (learning_rate - least_rate) * (epoch + k / count) / epochs)
            with np.errstate(over='ignore', invalid='ignore'):  # looked for when the epoch is over
                found = GRADIENTS[method](inputs, outputs, contexts[:, centre], contexts, mask.astype(np.float32),
                                          drawn_rows[last], negatives)
            for table, parts in zip(tables, found):
                rows, gradients, curvatures = (torch.from_numpy(part).flatten(0, 1) for part in parts)
                bent[rows] = 0
                bent.index_add_(0, rows, curvatures)  # np.add.at, which adds up repeated rows too, takes ten times as long
                table.index_add_(0, rows, gradients * (-rate / (1 + rate * bent[rows, None] / DAMPING)))
        if not (np.isfinite(inputs).all() and np.isfinite(outputs).all()):
            raise ValueError(f'{method}: the vectors are no longer finite in epoch {epoch + 1}, expected a smaller '
                             f'--learning-rate: {learning_rate:g} is too much for this corpus')
    return inputs, outputs


def train_gensim(text, seed, method='skip-gram', *, dim, window, negatives, epochs, learning_rate, least_rate=1e-4):
    """The same by gensim, on one thread. Returns (vectors in the order of text.words, seconds without the vocabulary)."""
    from gensim.models import Word2Vec

    parts = np.split(text.tokens, 1 + np.flatnonzero(np.diff(text.sentences)))
    sentences = [[text.words[row] for row in part] for part in parts]
    model = Word2Vec(vector_size=dim, window=window, min_count=1, sample=SUBSAMPLING, sg=int(method == 'skip-gram'), hs=0,
                     negative=negatives, ns_exponent=POWER, alpha=learning_rate, min_alpha=min(least_rate, learning_rate),
                     seed=seed, workers=1)
    model.build_vocab(sentences)
    start = time.perf_counter()
    model.train(sentences, total_examples=len(sentences), epochs=epochs)
    seconds = time.perf_counter() - start
    if not np.isfinite(model.wv.vectors).all():
        raise ValueError(f'gensim {method}: the vectors are not finite, expected a smaller --learning-rate than '
                         f'{learning_rate:g}')
    return model.wv[text.words], seconds


def has_gensim():
    return importlib.util.find_spec('gensim') is not None


def methods_here():
    return [*GRADIENTS, *['gensim skip-gram'] * has_gensim()]


# ---------------------------------------------------------------------------------------------- SkipGram and CBOW in PyTorch

class SkipGram(nn.Module):
    """All words of a window at once from its centre: embedding → linear → ReLU → linear → log-softmax for each place."""

    def __init__(self, context_size, embedding_dim, vocab_size, hidden=128):
        super().__init__()
        self.context_size = context_size
        self.embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.linear1 = nn.Linear(embedding_dim, hidden)
        self.linear2 = nn.Linear(hidden, 2 * context_size * vocab_size)

    def forward(self, inputs):
        """inputs int64 [B], rows; log-probabilities [B, 2 context_size, vocab_size]."""
        x = F.relu(self.linear1(self.embeddings(inputs)))
        return F.log_softmax(self.linear2(x).view(len(inputs), 2 * self.context_size, -1), dim=2)

    def vector(self, row):
        """The embedding of a word, [embedding_dim].

        It is looked up by the word's number. A one-hot vector of the vocabulary's length is no index of a word to nn.Embedding
        but V of them, of which V − 1 are word 0: cosines of such tables, along the vocabulary, compare word 0 with itself.
        """
        return self.embeddings.weight[row].detach()


class CBOW(nn.Module):
    """The centre from the mean of its window's embeddings; otherwise as SkipGram, with one place instead of 2 context_size."""

    def __init__(self, context_size, embedding_dim, vocab_size, hidden=128):
        super().__init__()
        self.context_size = context_size
        self.embeddings = nn.Embedding(vocab_size, embedding_dim)
        self.linear1 = nn.Linear(embedding_dim, hidden)
        self.linear2 = nn.Linear(hidden, vocab_size)

    def forward(self, inputs):
        """inputs int64 [B, 2 context_size], rows; log-probabilities [B, 1, vocab_size]."""
        x = F.relu(self.linear1(self.embeddings(inputs).mean(1)))
        return F.log_softmax(self.linear2(x), dim=1)[:, None]


def windows(text, context_size):
    """(centres [n], contexts [n, 2 context_size]), of the positions whose whole window lies in their sentence."""
    n, reach = len(text.tokens), context_size
    if n <= 2 * reach:
        return np.empty(0, dtype=np.int64), np.empty((0, 2 * reach), dtype=np.int64)
    at = np.arange(reach, n - reach)
    at = at[text.sentences[at - reach] == text.sentences[at + reach]]
    offsets = [k for k in range(-reach, reach + 1) if k]
    return text.tokens[at], text.tokens[at[:, None] + offsets]


def matches(predicted, targets):
    """Of each row of `targets`, how many are in the row of `predicted`, each prediction used once: the accuracy of the text.

    Both int64 [n, k]. Returns int64 [n].
    """
    total = np.zeros(len(targets), dtype=np.int64)
    free = np.ones(predicted.shape, dtype=bool)
    everyone = np.arange(len(targets))
    for j in range(targets.shape[1]):
        found = (predicted == targets[:, j:j + 1]) & free
        hit = found.any(1)
        free[everyone[hit], found[hit].argmax(1)] = False
        total += hit
    return total


def ceilings(centres, contexts):
    """The largest accuracies on these windows that anything could reach which predicts from the centre, and from the context.

    SkipGram says the same for every window of a centre. Saying word w n times is right as often as windows hold w at least n
    times, so the best answer takes the 2 context_size most frequent of all (w, n). CBOW says the same for every window with
    the same words, and the best answer is their most frequent centre.
    """
    n, width = contexts.shape
    ordered = np.sort(contexts, 1)
    nth = np.zeros_like(ordered)
    for j in range(1, width):
        nth[:, j] = np.where(ordered[:, j] == ordered[:, j - 1], nth[:, j - 1] + 1, 0)
    size = 1 + max(centres.max(), contexts.max())
    events, times = np.unique((centres[:, None] * size + ordered) * width + nth, return_counts=True)
    centre = events // (size * width)
    order = np.lexsort((-times, centre))
    centre, times = centre[order], times[order]
    start = np.searchsorted(centre, centre)  # where each centre's events begin
    skip = times[np.arange(len(times)) - start < width].sum() / (n * width)
    whole, times = np.unique(np.concatenate([ordered, centres[:, None]], 1), axis=0, return_counts=True)
    first = np.flatnonzero(np.concatenate([[True], (whole[1:, :-1] != whole[:-1, :-1]).any(1)]))
    return {'SkipGram': float(skip), 'CBOW': float(np.maximum.reduceat(times, first).sum() / n)}


def fit_predictor(text, name, seed, epochs, context_size=2, embedding_dim=20, batch_size=128, rate=3e-3):
    """Train SkipGram or CBOW with Adam; a record with the accuracy on its own training windows after each epoch."""
    centres, contexts = map(torch.from_numpy, windows(text, context_size))
    x, y = (centres, contexts) if name == 'SkipGram' else (contexts, centres[:, None])
    history, losses = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = {'SkipGram': SkipGram, 'CBOW': CBOW}[name](context_size, embedding_dim, len(text.words))
        optimizer = torch.optim.Adam(model.parameters(), rate)
        for _ in range(epochs):
            losses.append(0.0)
            for batch in torch.randperm(len(x)).split(batch_size):
                optimizer.zero_grad()
                loss = F.nll_loss(model(x[batch]).flatten(0, 1), y[batch].flatten())
                loss.backward()
                optimizer.step()
                losses[-1] += loss.item() * len(batch) / len(x)
            with torch.no_grad():
                predicted = torch.cat([model(part).argmax(2) for part in x.split(batch_size)])
            history.append(matches(predicted.numpy(), y.numpy()).mean().item() / y.shape[1])
    return {'job': 'accuracy', 'method': name, 'seed': seed, 'loss': losses, 'accuracy': history}


# ---------------------------------------------------------------------------------------------- jobs

def judged_pairs(text, forms=FORMS, tuning=False):
    """Every second pair of word forms; with `tuning` the others, so that what is chosen on these is not reported on them."""
    return form_pairs(text.index, forms)[int(not tuning)::2]


def measure(text, method, seed, settings, tuning=False):
    """Train one table and judge it. Returns (record, table)."""
    start = time.perf_counter()
    if method.startswith('gensim'):
        table, _ = train_gensim(text, seed, 'skip-gram', **settings)
    else:
        table, _ = train(text, method, seed, **settings)
    seconds = time.perf_counter() - start
    pairs = judged_pairs(text, tuning=tuning)
    found = form_measure(table, pairs, text.counts) if len(pairs) else {'mrr': None, 'top10': None, 'by_count': []}
    plurals = judged_pairs(text, ('s',), tuning)
    common = plurals[np.argsort(-text.counts[plurals].min(1), kind='stable')[:30]]
    return {'job': 'vectors', 'method': method, 'seed': seed, 'seconds': seconds, **found,
            'analogies': analogy_accuracy(table, common) if len(common) > 1 else None}, table


def measure_rate(text, method, seed, settings):
    """The mean reciprocal rank at one learning rate, on the pairs for tuning; None where the vectors diverge."""
    try:
        mrr = measure(text, method, seed, settings, tuning=True)[0]['mrr']
    except ValueError:
        mrr = None
    return {'method': method, 'learning_rate': settings['learning_rate'], 'seed': seed, 'mrr': mrr}


def compare_speed(text, settings, words, repetitions):
    """Words a second of `train` and of gensim's, one after the other, on the beginning of the corpus, an epoch each time."""
    part = text._replace(tokens=text.tokens[:words], sentences=text.sentences[:words])
    part, settings = recounted(part), {**settings, 'epochs': 1}
    records = []
    for repetition in range(repetitions):
        clocks = time.perf_counter(), time.process_time()
        train(part, 'skip-gram', repetition, **settings)
        seconds, cpu = time.perf_counter() - clocks[0], time.process_time() - clocks[1]
        records.append({'job': 'speed', 'repetition': repetition, 'words': len(part.tokens),
                        'ours_words_a_second': len(part.tokens) / seconds, 'ours_cores': cpu / seconds})
        if has_gensim():
            _, theirs = train_gensim(part, repetition, **settings)
            records[-1] |= {'gensim_words_a_second': len(part.tokens) / theirs, 'ratio': theirs / seconds}
    return records


def recounted(text):
    """`text` without the words that do not occur in its tokens."""
    rows, tokens = np.unique(text.tokens, return_inverse=True)
    return Text([text.words[row] for row in rows], np.bincount(tokens), tokens, text.sentences)


def compare_steps(size, dim, K, steps, repetitions):
    """Microseconds of one pair's step, gradient and update, at V = `size`: medians over repetitions.

    By the full softmax; by negative sampling through the K + 1 rows; and by negative sampling with a whole ∂J/∂U, which
    throws the saving away.
    """
    generator = np.random.default_rng(0)
    noise = Noise(np.ones(size), 1)
    inputs, outputs = generator.standard_normal((2, size, dim)).astype(np.float32) / dim
    pairs = generator.integers(size, size=(steps, 2))

    def softmax(c, o):
        _, grad_v, grad = softmaxCostAndGradient(inputs[c], o, outputs)
        inputs[c] -= 0.01 * grad_v
        np.subtract(outputs, 0.01 * grad, out=outputs)

    def whole(c, o):
        _, grad_v, grad = negSamplingCostAndGradient(inputs[c], o, outputs, noise, K)
        inputs[c] -= 0.01 * grad_v
        np.subtract(outputs, 0.01 * grad, out=outputs)

    def rows(c, o):
        at = [o, *getNegativeSamples(o, noise, K)]
        _, grad_v, grad = negative_sampling_rows(inputs[c], outputs[at])
        inputs[c] -= 0.01 * grad_v
        np.subtract.at(outputs, at, 0.01 * grad)

    seconds = {'softmax': [], 'negative, whole gradient': [], 'negative': []}
    for _ in range(repetitions):
        for name, step in zip(seconds, (softmax, whole, rows)):
            start = time.perf_counter()
            for c, o in pairs:
                step(c, o)
            seconds[name].append((time.perf_counter() - start) / steps)
    return {'job': 'steps', 'vocabulary': size, 'dim': dim, 'K': K,
            'microseconds': {name: 1e6 * float(np.median(times)) for name, times in seconds.items()},
            'factor': float(np.median(np.array(seconds['softmax']) / np.array(seconds['negative'])))}


# Pairs that define a direction, and other words to which it belongs: gender (the ten of Bolukbasi et al., NIPS 2016,
# Figure 2), and two that technical texts hold as well.
DIRECTIONS = {
    'gender': ('she he, her his, woman man, mary john, herself himself, daughter son, mother father, gal guy, girl boy, '
               'female male',
               'him women men wife husband sister brother queen king actress actor lady gentleman mrs mr miss aunt uncle'),
    'size': ('max min, maximum minimum, upper lower, larger smaller, largest smallest, highest lowest, greater less, '
             'high low, above below',
             'maxima minima maximize minimize maximization minimization higher fewer more large small top bottom'),
    'plural': ('values value, functions function, arrays array, numbers number, lists list, methods method, objects object, '
               'files file, words word, films film', '')}
FEWEST_PAIRS = 3


def study_bias(text, table, name, strengths=(0.2, 10.0, 1000.0)):
    """A record of the direction `name`: what debiasing along it does, or how many pairs it has if those are too few."""
    index, forms = text.index, judged_pairs(text)
    unit = unit_rows(table.astype(np.float64))
    defining, others = DIRECTIONS[name]
    named = [pair.split() for pair in defining.split(', ')]
    held = [pair for pair in named if all(word in index for word in pair)]
    record = {'job': 'bias', 'direction': name, 'pairs': held, 'of': len(named)}
    pairs = np.array([[index[word] for word in pair] for pair in held], dtype=np.int64)
    specific = {*pairs.ravel().tolist(), *(index[word] for word in others.split() if word in index)}
    if name == 'plural':
        specific |= {*form_pairs(index, ('s',)).ravel().tolist()}
    neutral = np.array([row for row in range(len(unit)) if row not in specific], dtype=np.int64)
    if len(held) < FEWEST_PAIRS or len(neutral) == 0:
        return record
    g, share = bias_direction(unit, pairs)
    tables = {'as trained': (unit, g), 'hard': (hard_debias(unit, g, neutral, pairs), g),
              **{f'soft, λ = {strength:g}': soft_debias(unit, g, neutral, strength) for strength in strengths}}
    frequent = neutral[:2000]
    ends = frequent[np.argsort(unit[frequent] @ g, kind='stable')]
    return {**record, 'variance_held': share, **dict(zip(('by_all_others', 'by_one_other'), agreement(unit, pairs))),
            'ends': [[text.words[row] for row in end] for end in (ends[:8], ends[:-9:-1])],
            'debiased': {kind: {'bias': bias(t, along, neutral),
                                'pairs_apart': float(np.abs((t[pairs[:, 0]] - t[pairs[:, 1]]) @ along).mean()),
                                'mrr': form_measure(t, forms, text.counts)['mrr'] if len(forms) else None}
                         for kind, (t, along) in tables.items()}}


# ---------------------------------------------------------------------------------------------- tables and figures

QUERIES = 'matrix file plot probability thread integer error gradient film actor story music king good'.split()
ANALOGIES = [('min', 'max', 'minimum'), ('row', 'rows', 'column'), ('compute', 'computed', 'return'),
             ('array', 'arrays', 'value'), ('man', 'woman', 'king'), ('good', 'better', 'bad'), ('film', 'films', 'actor')]


def queries(text, count=8):
    """Words to look at: those of QUERIES in the vocabulary, then the most frequent ones that are longer than three letters."""
    index = text.index
    known = [word for word in QUERIES if word in index]
    return list(dict.fromkeys(known + [word for word in text.words if len(word) > 3] + text.words))[:count]


def examples(text, table):
    """{'neighbours': {word: its eight nearest}, 'analogies': [[a, b, c, what was found], …]}"""
    index, unit = text.index, unit_rows(table)
    near = {word: nearest(unit, unit[index[word]], 8, (index[word],)) for word in queries(text)}
    return {'neighbours': {word: [text.words[row] for row in rows] for word, rows in near.items()},
            'analogies': [[*words, text.words[analogy(unit, *(index[word] for word in words))]]
                          for words in ANALOGIES if all(word in index for word in words) and len(text.words) > 3]}


def plot_vectors(path, text, table):
    """The words of `queries`, with their neighbours among the 3000 most frequent, on their first two principal components."""
    unit, groups, index = unit_rows(table), [], text.index
    asked = [index[word] for word in queries(text)]
    taken = {*asked}
    for row in asked:
        near = nearest(unit[:3000], unit[row], 8, [other for other in taken if other < 3000]).tolist()
        groups.append([row, *near])
        taken |= {*near}
    rows = np.concatenate(groups).astype(int)
    centred = unit[rows] - unit[rows].mean(0)
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    at = centred @ axes[:2].T
    figure = Figure(figsize=(12, 9), layout='constrained')
    ax = figure.subplots()
    styles = [(f'C{k}', 'normal' if place else 'bold') for k, near in enumerate(groups) for place in range(len(near))]
    ax.scatter(*at.T, c=[color for color, _ in styles], s=12)
    ax.set(xlabel='first principal component', ylabel='second principal component',
           title=f'Words (bold) and their nearest neighbours: {100 * (s[:2] ** 2).sum() / (s ** 2).sum():.0f} % of the '
                 f'variance is in this plane')
    ax.margins(0.12)
    figure.draw_without_rendering()
    placed = spread_labels(ax.transData.transform(at) * 72 / figure.dpi, [text.words[row] for row in rows], 9)
    line = {'arrowstyle': '-', 'lw': 0.4, 'shrinkA': 0, 'shrinkB': 0}
    for point, row, offset, (color, weight) in zip(at, rows, placed, styles):
        far = np.hypot(*offset) > 20
        ax.annotate(text.words[row], point, offset, textcoords='offset points', fontsize=9, color=color, weight=weight,
                    ha='center', va='center', arrowprops={**line, 'color': color} if far else None)
    save_figure(path, figure)


def spread_labels(points, labels, size):
    """Offsets [n, 2] of the labels' centres from their points, all in 1/72 inch, of which no two labels overlap.

    Each takes the nearest place that is free of the labels placed before it and of all points.
    """
    boxes, offsets = [], []
    for point, label in zip(points, labels):
        half = np.array([0.31 * size * len(label), 0.65 * size])
        for step in range(400):
            angle, radius = 2.4 * step, 9 + 1.2 * step  # a spiral, wider than high as labels are
            offset = radius * np.array([np.cos(angle), np.sin(angle)]) + np.array([np.cos(angle) * half[0], 0])
            middle = point + offset
            free = all((np.abs(middle - other) >= half + wide).any() for other, wide in boxes)
            if free and (np.abs(points - middle) >= half + 1.5).any(1).all():
                break
        boxes.append((middle, half))
        offsets.append(offset)
    return np.array(offsets)


def of_job(records, job):
    return [record for record in records if record['job'] == job]


def methods(records):
    return list(dict.fromkeys(record['method'] for record in records))


def plot_results(path, records):
    """The form measure against the word's count, and the predictors' accuracy against the epoch with its ceiling."""
    figure = Figure(figsize=(12, 4.8), layout='constrained')
    ax, other = figure.subplots(1, 2)
    vectors = [record for record in of_job(records, 'vectors') if record['by_count']]
    for method in methods(vectors):
        y = 100 * np.array([[row[3] for row in record['by_count']] for record in vectors if record['method'] == method])
        ax.errorbar(range(y.shape[1]), y.mean(0), y.std(0, ddof=1) if len(y) > 1 else None, fmt='o-', capsize=3, label=method)
    if vectors:
        names = [count_range(row) for row in vectors[0]['by_count']]
        ax.set_xticks(range(len(names)), names)
        ax.legend()
    ax.set(title='Forms of one word near each other', xlabel="the rarer word's count",
           ylabel='mean reciprocal rank of the partner (%)', ylim=(0, None))
    accuracies = of_job(records, 'accuracy')
    for k, name in enumerate(methods(accuracies)):
        y = 100 * np.array([record['accuracy'] for record in accuracies if record['method'] == name])
        deviation = y.std(0, ddof=1) if len(y) > 1 else None
        other.errorbar(range(1, 1 + y.shape[1]), y.mean(0), deviation, capsize=2, color=f'C{k}', label=name)
        ceiling = 100 * of_job(records, 'ceilings')[0]['small'][name]
        other.axhline(ceiling, color=f'C{k}', linestyle=':', label=f'{name}, the most that is possible')
    other.set(title='Predicting words of a window', xlabel='epoch', ylabel='accuracy on the training windows (%)',
              ylim=(0, 100))
    other.legend()
    for each in (ax, other):
        each.grid(alpha=0.3)
    save_figure(path, figure)


def count_range(row):
    return f'{row[0]} – {row[1] - 1}' if row[1] else f'≥ {row[0]}'


def rate_table(records):
    """Markdown: what each learning rate gives on the pairs for tuning."""
    lines = [f'| vectors | {" | ".join(f"rate {rate:g}" for rate in RATES)} |', '|---' * (1 + len(RATES)) + '|']
    for method in methods(records):
        rows = [[r['mrr'] for r in records if (r['method'], r['learning_rate']) == (method, rate)] for rate in RATES]
        cells = [spread([mrr for mrr in row if mrr is not None], of=len(row)) for row in rows]
        lines.append(f'| {method} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def vector_table(records):
    """Markdown: how good the vectors are, by the measures of vectors.py; empty where the corpus holds no pairs of forms."""
    judged = [record for record in of_job(records, 'vectors') if record['by_count']]
    if not judged:
        return ''
    groups = judged[0]['by_count']
    columns = ' | '.join(f'MRR, count {count_range(row)} ({row[2]} pairs)' for row in groups)
    lines = [f'| vectors | mean reciprocal rank (MRR), % | in the top ten, % | analogies right, % | {columns} |',
             '|---' * (4 + len(groups)) + '|']
    for method in methods(judged):
        rows = [record for record in judged if record['method'] == method]
        cells = [spread([record[key] for record in rows if record[key] is not None]) for key in ('mrr', 'top10', 'analogies')]
        cells += [spread([record['by_count'][k][3] for record in rows]) for k in range(len(groups))]
        lines.append(f'| {method} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def report(records):
    """Markdown: everything measured."""
    parts = [vector_table(records)]
    speed = of_job(records, 'speed')
    words = f'{np.median([record["ours_words_a_second"] for record in speed]):,.0f} words a second'
    if 'ratio' in speed[0]:
        ratios = [record['ratio'] for record in speed]
        words += (f", {np.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f}) times gensim's "
                  f'{np.median([record["gensim_words_a_second"] for record in speed]):,.0f}')
    else:
        words += '; gensim is not installed, so there is no comparison with it'
    parts.append(f'Speed of skip-gram on one thread: {words}.')
    step, = of_job(records, 'steps')
    times = '; '.join(f'{name} {value:.0f} µs' for name, value in step['microseconds'].items())
    parts.append(f"One pair's step at V = {step['vocabulary']}, d = {step['dim']}, K = {step['K']}: {times}; "
                 f"a factor of {step['factor']:.1f}.")
    ceiling, = of_job(records, 'ceilings')
    for name in methods(of_job(records, 'accuracy')):
        last = [record['accuracy'][-1] for record in of_job(records, 'accuracy') if record['method'] == name]
        parts.append(f'{name}: accuracy {spread(last)} % of at most {100 * ceiling["small"][name]:.1f} %; on the whole corpus '
                     f'at most {100 * ceiling["all"][name]:.1f} %.')
    example, = of_job(records, 'examples')
    parts.append('\n'.join(f'{word}: {", ".join(near)}' for word, near in example['neighbours'].items()))
    parts.append('\n'.join(f'{a} : {b} :: {c} : {d}' for a, b, c, d in example['analogies']))
    parts += [bias_report(record) for record in of_job(records, 'bias')]
    return '\n\n'.join(part for part in parts if part)


def bias_report(record):
    name, held = record['direction'], len(record['pairs'])
    if 'debiased' not in record:
        return f'{name}: {held} of {record["of"]} pairs are in the vocabulary, {FEWEST_PAIRS} are needed.'
    (others, right), (one, alone) = record['by_all_others'], record['by_one_other']
    first, second = (', '.join(words) for words in zip(*record['pairs']))
    lines = [f'{name}: {held} pairs; a pair left out has cosine {others:.2f} with the direction of the others '
             f'({100 * right:.0f} % the right way round), {one:.2f} with one other pair alone ({100 * alone:.0f} %).',
             f'Neutral words nearest to {second}: {", ".join(record["ends"][0])};',
             f'to {first}: {", ".join(record["ends"][1])}.', '',
             f'| {name} | mean cosine of neutral words | pairs apart | MRR, % |', '|---|---|---|---|']
    for kind, values in record['debiased'].items():
        mrr = '' if values['mrr'] is None else f'{100 * values["mrr"]:.1f}'
        lines.append(f'| {kind} | {values["bias"]:.4f} | {values["pairs_apart"]:.3f} | {mrr} |')
    return '\n'.join(lines)


# ---------------------------------------------------------------------------------------------- the command line

SMALL = {'words': 10_000, 'vocabulary': 500, 'epochs': 40}  # of the corpus for SkipGram, whose last layer has 4 V units


def small_text(sentences, text, words, vocabulary):
    """A Text of sentences of five words or more that hold nothing but the `vocabulary` most frequent words."""
    frequent = set(text.words[:vocabulary])
    kept = [sentence for sentence in sentences if len(sentence) >= 5 and frequent.issuperset(sentence)]
    if len({word for sentence in kept for word in sentence}) < 2:
        raise ValueError(f'no sentence of five words or more holds only the {vocabulary} most frequent words, or but one word '
                         f'over and over, expected a larger corpus')
    return text_of(corpora.thinned(kept, words), 1)


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='word2vec by hand, fast, and judged.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_arguments(parser)
    source = parser.add_mutually_exclusive_group()
    source.add_argument('--text', type=Path, metavar='FILE', default=argparse.SUPPRESS, help='learn from this text, UTF-8, '
                        'instead of docstrings')
    source.add_argument('--sst', type=Path, metavar='DIR', default=argparse.SUPPRESS, help='… from datasetSentences.txt of '
                        'the Stanford Sentiment Treebank')
    parser.add_argument('--tune', action='store_true', help='compare learning rates on the word pairs that are kept for it, '
                        'instead')
    parser.add_argument('--max-words', type=positive_int, default=2_000_000, help='leave out sentences, evenly, until so many '
                        'words remain')
    parser.add_argument('--min-count', type=positive_int, default=5, help='words that occur less often are left out')
    for name, kind in (('dim', positive_int), ('window', positive_int), ('negatives', positive_int), ('epochs', positive_int),
                       ('learning-rate', positive)):
        parser.add_argument(f'--{name}', type=kind, default=SETTINGS[name.replace('-', '_')])
    args = parser.parse_args(argv)
    args.text, args.sst = getattr(args, 'text', None), getattr(args, 'sst', None)
    if args.dim < 2:
        parser.error('argument --dim: expected at least 2, to draw')
    if args.dry_run:
        args.seeds, args.epochs, args.dim, args.max_words = 1, 1, 10, min(args.max_words, 20_000)
    complete(args)
    return parser, args


def read_corpus(args):
    if args.text:
        return corpora.text_file(args.text, args.max_words)
    if args.sst:
        return corpora.treebank(args.sst, args.max_words)
    return corpora.docstrings(args.max_words, args.jobs, ('numpy',) if args.dry_run else tuple(corpora.LIBRARIES))


def study(args):
    make_folders(args)
    plots = args.output_dir / 'plots'
    corpus = read_corpus(args)
    text = text_of(corpus.sentences, args.min_count)
    settings = {name: getattr(args, name) for name in SETTINGS}
    header = {'corpus': corpus.name, 'sha256': corpus.sha256, 'sources': corpus.sources, 'words': len(text.tokens),
              'vocabulary': len(text.words), 'min_count': args.min_count, **settings,
              'torch': torch.__version__, 'numpy': np.__version__,
              'gensim': importlib.metadata.version('gensim') if has_gensim() else None}
    print(f'{corpus.name}: {len(text.tokens):,} words of {len(text.words):,} different ones, sha256 {corpus.sha256[:16]}…')
    if args.tune:
        if len(judged_pairs(text, tuning=True)) == 0:
            raise ValueError(f'{corpus.name}: no word in it stands there with s, ed or ing at its end too, expected a larger '
                             f'corpus')
        tasks = [{'text': text, 'method': method, 'seed': seed, 'settings': {**settings, 'learning_rate': rate}}
                 for method in methods_here() for rate in RATES for seed in range(args.seeds)]
        records = in_parallel(args.jobs, measure_rate, tasks, 'learning rates')
        write(plots / 'tune_word2vec.json', records_json({**header, 'learning_rate': RATES}, records))
        print(f'\n{rate_table(records)}\n')
        return
    small = small_text(corpus.sentences, text, SMALL['words'], SMALL['vocabulary'])
    rates = {'CBOW': CBOW_RATE * args.learning_rate}
    tasks = [{'function': measure, 'text': text, 'method': method, 'seed': seed,
              'settings': {**settings, 'learning_rate': rates.get(method, args.learning_rate)}}
             for method in methods_here() for seed in range(args.seeds)]
    epochs = 2 if args.dry_run else SMALL['epochs']
    tasks += [{'function': fit_predictor, 'text': small, 'name': name, 'seed': seed, 'epochs': epochs}
              for name in ('SkipGram', 'CBOW') for seed in range(args.seeds)]
    done = in_parallel(args.jobs, call, tasks, 'training')
    judged = len(methods_here()) * args.seeds
    table = done[0][1]
    records = [record for record, _ in done[:judged]] + done[judged:]
    records.append({'job': 'ceilings', 'small': ceilings(*windows(small, 2)), 'all': ceilings(*windows(text, 2))})
    timed = call if args.dry_run else alone
    records += timed(compare_speed, text=text, settings=settings, words=5_000 if args.dry_run else 300_000,
                     repetitions=1 if args.dry_run else 5)
    records.append(timed(compare_steps, size=len(text.words), dim=args.dim, K=args.negatives, steps=5 if args.dry_run else 50,
                         repetitions=1 if args.dry_run else 9))
    records.append({'job': 'examples', **examples(text, table)})
    tasks = [{'text': text, 'table': table, 'name': name} for name in DIRECTIONS]
    with joblib.parallel_config('loky', inner_max_num_threads=1):  # its products of whole tables round by how they are shared
        records += in_parallel(args.jobs if args.dry_run else max(2, args.jobs), study_bias, tasks, 'bias')
    write(plots / 'word2vec.json', records_json({**header, 'cbow_learning_rate': rates['CBOW']}, records))
    plot_vectors(plots / 'word2vec_vectors.png', text, table)
    plot_results(plots / 'word2vec.png', records)
    print(f'\n{report(records)}\n')


def call(function, **arguments):
    return function(**arguments)


def alone(function, **arguments):
    """function(**arguments) in a process whose libraries have one thread each, with nothing beside it."""
    with joblib.parallel_config('loky', inner_max_num_threads=1):
        return joblib.Parallel(n_jobs=2)([joblib.delayed(function)(**arguments)])[0]


def main():
    parser, args = get_args()
    carry_out(parser, study, args)
    print(f'Written to {args.output_dir / "plots"}')


if __name__ == '__main__':
    main()
