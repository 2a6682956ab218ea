"""Operations on word vectors: neighbors, analogies, word forms, debiasing; saving them.

A table is a float array [V, d] of one row per word; `unit` is a table whose rows have norm 1.
"""

import io

import numpy as np
from scipy.optimize import minimize

from support.checkpoints import write

FORMS = 's', 'ed', 'ing'
BOUNDS = 1, 5, 10, 30, 100, 300  # lower bounds of the groups of word counts in `evaluate_forms`


def save_vectors(path, words, table):
    """Write {path}.txt, in the text format of word2vec, and {path}.npz, with exact values.

    The text's first line is V and d, every other line a word and its vector. The .npz has `words`
    (str [V]) and `vectors` (float32 [V, d]). Raises OSError with one sentence.
    """
    lines = [f'{len(words)} {table.shape[1]}',
             *(f'{word} {" ".join(map(str, row))}' for word, row in zip(words, table))]
    write(f'{path}.txt', '\n'.join([*lines, '']).encode())
    buffer = io.BytesIO()
    np.savez(buffer, words=np.array(words), vectors=table)
    write(f'{path}.npz', buffer.getvalue())


def normalize_rows(table):
    return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)


def find_nearest(unit, query, count, exclude=()):
    """Return the `count` rows of largest cosine with `query` [d], except those in `exclude`."""
    scores, exclude = unit @ query, list({*exclude})
    scores[exclude] = -np.inf
    return np.argsort(-scores, kind='stable')[:min(count, len(unit) - len(exclude))]


def find_form_pairs(index, forms=FORMS):
    """Return the pairs (word, word + form) in `index`, word: row, as int64 [P, 2].

    A few are not forms of one word (`clas`, `class`).
    """
    pairs = [(row, index[word + form]) for form in forms for word, row in index.items()
             if len(word) > 2 and word + form in index]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def rank_partners(table, pairs):
    """Return each word's rank, from 1, among its partner's neighbors, both ways: int64 [2, P]."""
    unit = normalize_rows(np.asarray(table, dtype=np.float32))
    ranks = np.empty((2, len(pairs)), dtype=np.int64)
    for way, (own, other) in enumerate((pairs.T, pairs.T[::-1])):
        for part in np.array_split(np.arange(len(pairs)), 1 + len(pairs) // 256):
            scores = unit[own[part]] @ unit.T
            wanted = scores[np.arange(len(part)), other[part]][:, None]
            scores[np.arange(len(part)), own[part]] = -np.inf
            ranks[way, part] = (~(scores < wanted)).sum(1)  # ties and NaN count against it
    return ranks


def evaluate_forms(table, pairs, counts):
    """Return how close the forms of a word are: the mean reciprocal rank (MRR) of the partner.

    {'mrr': …, 'top10': share of ranks up to 10, 'by_count': [[low, high, pairs, mrr], …]}, where
    low <= count of the rarer word < high, and the last high is None. counts: int [V].
    """
    ranks = rank_partners(table, pairs)
    rarer = counts[pairs].min(1)
    rows = []
    for low, high in zip(BOUNDS, (*BOUNDS[1:], None)):
        chosen = (rarer >= low) & (rarer < (high or np.inf))
        if chosen.any():
            rows.append([low, high, int(chosen.sum()), float((1 / ranks[:, chosen]).mean())])
    return {'mrr': float((1 / ranks).mean()), 'top10': float((ranks <= 10).mean()),
            'by_count': rows}


def solve_analogy(unit, a, b, c):
    """Return d of 'a is to b as c is to d': the row nearest to b − a + c (arXiv:1301.3781)."""
    return find_nearest(unit, unit[b] - unit[a] + unit[c], 1, (a, b, c))[0]


def analogy_accuracy(table, pairs):
    """Return the share of correct analogies among all ordered couples of `pairs`."""
    unit = normalize_rows(np.asarray(table, dtype=np.float32))
    right = [solve_analogy(unit, a, b, c) == d for a, b in pairs for c, d in pairs if a != c]
    return float(np.mean(right))


def find_bias_direction(unit, pairs):
    """Return the unit vector [d] along which pairs [P, 2] of rows differ most.

    It is the first principal component of the words of all pairs, each pair centered on its own
    mean (Bolukbasi et al., arXiv:1607.06520, sections 5.1 and 6, step 1), and points from the
    pairs' second words to their first.
    """
    half = (unit[pairs[:, 0]] - unit[pairs[:, 1]]) / 2
    _, _, (g, *_) = np.linalg.svd(np.concatenate([half, -half]), full_matrices=False)
    return g * (1 if (half @ g).sum() >= 0 else -1)


def direction_agreement(unit, pairs):
    """Compare each pair's difference with a direction found without it.

    Returns the mean cosine with the direction of all other pairs, and with the difference of a
    single other pair.
    """
    difference = normalize_rows(unit[pairs[:, 0]] - unit[pairs[:, 1]])
    rest = [find_bias_direction(unit, np.delete(pairs, k, 0)) @ difference[k]
            for k in range(len(pairs))]
    single = (difference @ difference.T)[~np.eye(len(pairs), dtype=bool)]
    return float(np.mean(rest)), float(single.mean())


def direct_bias(unit, direction, neutral):
    """Return the mean |cosine| of the rows `neutral` with the direction (the paper's, c = 1)."""
    return float(np.abs(normalize_rows(unit[neutral]) @ direction).mean())


def hard_debias(unit, direction, neutral, pairs):
    """Neutralize and equalize (arXiv:1607.06520, section 6, step 2a); a new table of unit rows.

    Neutral words lose their component along `direction`: w ← (w − w_B) / ‖w − w_B‖. The words of a
    pair, with mean μ and ν = μ − μ_B, become ν ± √(1 − ‖ν‖²) g, equally far from all neutral words.
    """
    table = unit.copy()
    table[neutral] = normalize_rows(unit[neutral]
                                    - np.outer(unit[neutral] @ direction, direction))
    mean = (unit[pairs[:, 0]] + unit[pairs[:, 1]]) / 2
    nu = mean - np.outer(mean @ direction, direction)
    # Each word stays on its side of the pair's mean.
    sign = np.where((unit[pairs[:, 0]] - unit[pairs[:, 1]]) @ direction >= 0, 1, -1)
    offset = np.outer(sign * np.sqrt(np.maximum(0, 1 - (nu ** 2).sum(1))), direction)
    table[pairs[:, 0]], table[pairs[:, 1]] = nu + offset, nu - offset
    return table


def soft_objective(T, unit, direction, neutral, strength):
    """Return ‖(TW)ᵀ(TW) − WᵀW‖²_F + λ ‖(TN)ᵀ(TB)‖²_F and its gradient [d, d].

    (arXiv:1607.06520, section 6, step 2b.) The columns of W are all words, those of N the neutral
    ones, B is `direction`, λ is `strength`. With X = TᵀT, C = WWᵀ and D = X − I the terms are
    tr(DCDC) and λ Bᵀ X NNᵀ X B, so that no matrix over words is formed. The derivative with respect
    to X is P = 2 CDC + 2λ NNᵀ X B Bᵀ, that with respect to T is T (P + Pᵀ).
    """
    C, N, X = unit.T @ unit, unit[neutral].T @ unit[neutral], T.T @ T
    D, XB = X - np.eye(len(T)), X @ direction
    P = 2 * C @ D @ C + 2 * strength * np.outer(N @ XB, direction)
    return np.trace(D @ C @ D @ C) + strength * XB @ N @ XB, T @ (P + P.T)


def soft_debias(unit, direction, neutral, strength=0.2):
    """Multiply the table by the T that minimizes `soft_objective`, and normalize.

    Returns (table [V, d], transformed direction [d]). λ = 0.2 is the paper's. The objective depends
    on TᵀT alone; of its roots the symmetric one is used, which does not rotate.
    """
    wide, g, d = unit.astype(np.float64), direction.astype(np.float64), unit.shape[1]

    def objective(t):
        value, gradient = soft_objective(t.reshape(d, d), wide, g, neutral, strength)
        return value / len(unit), gradient.ravel() / len(unit)

    found = minimize(objective, np.eye(d).ravel(), jac=True, method='L-BFGS-B',
                     options={'maxiter': 500})
    _, s, axes = np.linalg.svd(found.x.reshape(d, d))
    T = (axes.T * s) @ axes
    table = normalize_rows(wide @ T).astype(unit.dtype)
    return table, normalize_rows((T @ direction)[None])[0]
