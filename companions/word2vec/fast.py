"""word2vec with negative sampling on a corpus: the gradients of `by_hand` in matrix products.

    text = text_of(bible().sentences)
    inputs, outputs = train(text, 'skip-gram', seed=0)
    inputs[text.index['king']]
"""

import time
from collections import Counter
from importlib.util import find_spec
from typing import NamedTuple

import joblib
import numpy as np
import torch

from companions.word2vec.by_hand import sigmoid
from support.parallel import local_workers

POWER = 0.75        # of the counts in the noise distribution (arXiv:1310.4546, section 2.2)
SUBSAMPLING = 1e-3  # threshold of relative frequency (section 2.3, as in the authors' code)
DAMPING = 4         # divisor of the trace of a Hessian, which bounds the curvature along a gradient
HAS_GENSIM = find_spec('gensim') is not None


class Diverged(ValueError):
    """The vectors are not finite."""


class Text(NamedTuple):
    words: list            # V words, by descending count, then in alphabetical order
    counts: np.ndarray     # int64 [V]
    tokens: np.ndarray     # int64 [N], the corpus as rows of the tables
    sentences: np.ndarray  # int64 [N], the number of the sentence of each token

    @property
    def index(self):
        return {word: row for row, word in enumerate(self.words)}


def text_of(sentences, min_count=5):
    """Make a Text of lists of words, without words that occur fewer than `min_count` times."""
    counts = Counter(word for sentence in sentences for word in sentence)
    words = sorted((word for word, count in counts.items() if count >= min_count),
                   key=lambda word: (-counts[word], word))
    if len(words) < 2:
        raise ValueError(f'the corpus has {len(words)} different words that occur {min_count} '
                         'times or more (--min-count), expected at least 2')
    index = {word: row for row, word in enumerate(words)}
    kept = [[index[word] for word in sentence if word in index] for sentence in sentences]
    return Text(words, np.array([counts[word] for word in words]),
                np.array([row for sentence in kept for row in sentence]),
                np.repeat(np.arange(len(kept)), [len(sentence) for sentence in kept]))


class Noise:
    """Draws rows with probability proportional to count^0.75, from its own random generator."""

    def __init__(self, counts, seed):
        share = np.cumsum(np.asarray(counts, dtype=float) ** POWER)
        self.cumulative, self.generator = share / share[-1], np.random.default_rng(seed)

    def draw(self, shape):
        """Return an int64 array of `shape`."""
        return np.searchsorted(self.cumulative, self.generator.random(shape), side='right')

    def sampleTokenIdx(self):
        return int(self.draw(()))


def skipgram_gradients(inputs, outputs, centers, contexts, mask, negatives, K):
    """Return gradients and curvatures of equation (3), summed over the pairs of G blocks of text.

    Args:
        inputs, outputs: the tables [V, d].
        centers: rows [G, L], the words at L consecutive positions.
        contexts: rows [G, X], the words at all positions that may be in their windows.
        mask: [G, L, X] of the tables' dtype, 1 if contexts[g, x] is in the window of centers[g, l].
        negatives: rows [G, S], drawn once for all pairs of a block.
        K: number of negatives per pair. The S' draws other than a pair's target are weighted by
            K / S', so that the expectation is that of K draws of its own. Sharing them makes matrix
            products of dot products (compare Ji et al., arXiv:1604.04661).

    Returns (rows, gradients, curvatures) of the inputs, and of the outputs: [G, n], [G, n, d] and
    [G, n]. Rows may repeat. A curvature is the trace of the Hessian for that row; because
    d²/dz² −log σ(±z) = σ(1 − σ), it is Σ σ(1 − σ) ‖u‖² for a v and Σ σ(1 − σ) ‖v‖² for a u.
    """
    rows, X = np.concatenate([contexts, negatives], 1), contexts.shape[1]
    v, u = inputs[centers], outputs[rows]
    drawn = mask @ negative_weights(contexts, negatives, K).astype(mask.dtype)
    weights = np.concatenate([mask, drawn], 2)  # [G, L, X + S]
    s = sigmoid(v @ u.transpose(0, 2, 1))
    curvature = weights * s * (1 - s)
    s[..., :X] -= 1
    delta = weights * s
    return ((centers, delta @ u, np.einsum('glx,gx->gl', curvature, squared_norms(u))),
            (rows, delta.transpose(0, 2, 1) @ v,
             np.einsum('glx,gl->gx', curvature, squared_norms(v))))


def cbow_gradients(inputs, outputs, centers, contexts, mask, negatives, K):
    """Return the same for CBOW, where a position has one pair: its window's mean h and its word.

    An input's curvature is 1 / m of that for h, not 1 / m²: the m words of a window move together.
    """
    mean = mask / np.maximum(mask.sum(2, keepdims=True), 1)
    h, u, n = mean @ inputs[contexts], outputs[centers], outputs[negatives]
    # With an empty window h = 0, and the mean passes nothing back: it adds no gradient.
    s, s_n = sigmoid((h * u).sum(2)), sigmoid(h @ n.transpose(0, 2, 1))  # [G, L], [G, L, S]
    weights = negative_weights(centers, negatives, K).astype(mask.dtype)
    curvature, curvature_n = s * (1 - s), weights * s_n * (1 - s_n)
    delta, delta_n = (s - 1)[..., None], weights * s_n
    grad_h = delta * u + delta_n @ n
    curvature_h = curvature * squared_norms(u) + np.einsum('gls,gs->gl', curvature_n,
                                                           squared_norms(n))
    shared_curvature = np.einsum('gls,gl->gs', curvature_n, squared_norms(h))
    return ((contexts, mean.transpose(0, 2, 1) @ grad_h,
             np.einsum('glx,gl->gx', mean, curvature_h)),
            (np.concatenate([centers, negatives], 1),
             np.concatenate([delta * h, delta_n.transpose(0, 2, 1) @ h], 1),
             np.concatenate([curvature * squared_norms(h), shared_curvature], 1)))


GRADIENTS = {'skip-gram': skipgram_gradients, 'CBOW': cbow_gradients}


def squared_norms(x):
    return np.einsum('...d,...d->...', x, x)


def negative_weights(targets, negatives, K):
    """Return each negative's weight for each target [G, n, S]: K in all, and 0 for the target."""
    other = targets[:, :, None] != negatives[:, None, :]
    return other * (K / np.maximum(other.sum(2, keepdims=True), 1))


def train(text, method, seed, *, dim=100, window=5, negatives=5, epochs=5, learning_rate=0.2,
          min_learning_rate=1e-4, block=16, blocks=8, drawn=32):
    """Minimize equation (3) by gradient descent. Returns (inputs, outputs), float32 [V, dim].

    `method` is a key of GRADIENTS; the inputs are the word vectors. As in the authors' code, an
    epoch keeps a word of relative frequency f with probability √(t/f) + t/f, t = SUBSAMPLING, a
    window has 1 to `window` words on either side within its sentence, and the learning rate falls
    linearly to `min_learning_rate`. Each `block` of positions shares `drawn` negatives, and a step
    uses `blocks` of them.

    A step sums many gradients of a frequent word, all taken at one point, and could overshoot. So a
    row moves by −rate · g / (1 + rate · h), with g the sum of its gradients and h that of its
    curvatures / DAMPING: the proximal step argmin_x gᵀx + h ‖x − x₀‖² / 2 + ‖x − x₀‖² / (2 rate)
    (compare Toulis and Airoldi, arXiv:1408.2923). At saturated pairs h vanishes and g does not, so
    that a high rate can still diverge: Diverged, a ValueError, is raised after that epoch.
    """
    generator, noise = np.random.default_rng([seed, 0]), Noise(text.counts, [seed, 1])
    inputs = ((generator.random((len(text.words), dim)) - 0.5) / dim).astype(np.float32)
    outputs = np.zeros_like(inputs)
    tables = torch.from_numpy(inputs), torch.from_numpy(outputs)  # the same memory
    curvature = torch.zeros(len(inputs))
    frequency = text.counts / text.counts.sum()
    keep = np.sqrt(SUBSAMPLING / frequency) + SUBSAMPLING / frequency
    max_window, window = window, min(window, int(np.bincount(text.sentences).max()))
    distance = np.abs(np.arange(block)[:, None] + window - np.arange(block + 2 * window))  # [L, X]
    center = slice(window, window + block)
    min_learning_rate = min(min_learning_rate, learning_rate)
    for epoch in range(epochs):
        kept = np.flatnonzero(generator.random(len(text.tokens)) < keep[text.tokens])
        count, end = -(-len(kept) // block), -len(kept) % block
        tokens = np.pad(text.tokens[kept], (window, window + end))
        sentences = np.pad(text.sentences[kept], (window, window + end), constant_values=-1)
        reach = np.pad(generator.integers(1, max_window + 1, len(kept)), (0, end))
        reach = reach.reshape(count, block, 1)
        drawn_rows = noise.draw((count, drawn))
        positions = np.arange(count)[:, None] * block + np.arange(block + 2 * window)
        for k in range(0, count, blocks):
            at, step = positions[k:k + blocks], slice(k, k + blocks)
            contexts, sentence = tokens[at], sentences[at]
            same_sentence = sentence[:, center, None] == sentence[:, None, :]
            mask = (distance <= reach[step]) & (distance > 0) & same_sentence
            progress = (epoch + k / count) / epochs
            rate = learning_rate - (learning_rate - min_learning_rate) * progress
            with np.errstate(over='ignore', invalid='ignore'):  # checked after the epoch
                gradients = GRADIENTS[method](inputs, outputs, contexts[:, center], contexts,
                                              mask.astype(np.float32), drawn_rows[step], negatives)
            for table, parts in zip(tables, gradients):
                rows, g, h = (torch.from_numpy(part).flatten(0, 1) for part in parts)
                curvature[rows] = 0
                curvature.index_add_(0, rows, h)  # also sums repeated rows; np.add.at is slow
                damping = 1 + rate * curvature[rows, None] / DAMPING
                table.index_add_(0, rows, g * (-rate / damping))
        if not (np.isfinite(inputs).all() and np.isfinite(outputs).all()):
            raise Diverged(f'{method}: the vectors are no longer finite in epoch {epoch + 1}, '
                           f'expected a smaller --learning-rate than {learning_rate:g}')
    return inputs, outputs


def train_gensim(text, seed, *, dim, window, negatives, epochs, learning_rate):
    """Train gensim's skip-gram on one thread: (vectors [V, dim], seconds without vocabulary)."""
    from gensim.models import Word2Vec

    parts = np.split(text.tokens, 1 + np.flatnonzero(np.diff(text.sentences)))
    sentences = [[text.words[row] for row in part] for part in parts]
    model = Word2Vec(vector_size=dim, window=window, min_count=1, sample=SUBSAMPLING, sg=1, hs=0,
                     negative=negatives, ns_exponent=POWER, alpha=learning_rate,
                     min_alpha=min(1e-4, learning_rate), seed=seed, workers=1)
    model.build_vocab(sentences)
    start = time.perf_counter()
    model.train(sentences, total_examples=len(sentences), epochs=epochs)
    return model.wv[text.words], time.perf_counter() - start


def run_alone(function, **arguments):
    """Return function(**arguments), called in a process whose libraries use one thread each."""
    with local_workers():  # and two jobs, since joblib runs a single job in this process
        return joblib.Parallel(n_jobs=2)([joblib.delayed(function)(**arguments)])[0]
