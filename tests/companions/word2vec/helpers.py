"""What the tests of word2vec share: random tables, numerical gradients, a corpus."""

import numpy as np

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
