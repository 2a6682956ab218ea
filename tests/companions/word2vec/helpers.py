"""What the tests of word2vec share: random tables, numerical gradients, a corpus, training."""

import numpy as np

from companions.word2vec.by_hand import cbow, negSamplingCostAndGradient, skipgram
from companions.word2vec.fast import Noise

TOKENS = {word: row for row, word in enumerate('abcde')}


class Fixed:
    """Draws these rows, over and over."""

    def __init__(self, *rows):
        self.rows, self.drawn = rows, 0

    def sampleTokenIdx(self):
        self.drawn += 1
        return self.rows[(self.drawn - 1) % len(self.rows)]


def tables(size=5, dim=3, seed=0):
    return np.random.default_rng(seed).standard_normal((2, size, dim))


def numerical(f, x, step=1e-6):
    """The gradient of f() with respect to the array x, which f reads, by central differences."""
    gradient = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        before = x[at]
        x[at] = before + step
        above = f()
        x[at] = before - step
        gradient[at] = (above - f()) / (2 * step)
        x[at] = before
    return gradient


def sentences(count=300, seed=0):
    """Two kinds of sentences that share no word but 'the', which is in all of them."""
    generator = np.random.default_rng(seed)
    kinds = [f'animal{k}' for k in range(6)], [f'number{k}' for k in range(6)]
    return [['the', *generator.choice(kinds[k % 2], 6).tolist()] for k in range(count)]


LITTLE = {'dim': 8, 'window': 3, 'negatives': 3, 'learning_rate': 0.05}


def train_by_hand(text, method, seed, *, dim, window, negatives, epochs, learning_rate, block,
                  blocks, drawn):
    """`fast.train` with the assignment's functions, one window after the other, in float64.

    It draws the same random numbers, and keeps every word; its steps are plain gradient descent.
    """
    model = {'skip-gram': skipgram, 'CBOW': cbow}[method]
    generator, noise = np.random.default_rng([seed, 0]), Noise(text.counts, [seed, 1])
    n, size = len(text.tokens), block * blocks
    tables = np.stack([(generator.random((len(text.words), dim)) - 0.5) / dim,
                       np.zeros((len(text.words), dim))])
    for epoch in range(epochs):
        generator.random(n)  # for subsampling
        reach = generator.integers(1, window + 1, n)
        shared = noise.draw((-(-n // block), drawn))
        for start in range(0, n, size):
            gradients = np.zeros_like(tables)
            for at in range(start, min(start + size, n)):
                near = [text.words[text.tokens[k]]
                        for k in range(max(0, at - reach[at]), min(n, at + reach[at] + 1))
                        if k != at and text.sentences[k] == text.sentences[at]]

                def cost(v, target, U, _):
                    others = Fixed(*(row for row in shared[at // block] if row != target))
                    return negSamplingCostAndGradient(v, target, U, others, negatives)

                gradients += model(text.words[text.tokens[at]], window, near, text.index, *tables,
                                   None, cost)[1:]
            progress = (epoch + start / block / len(shared)) / epochs
            tables -= (learning_rate - (learning_rate - 1e-4) * progress) * gradients
    return tables
