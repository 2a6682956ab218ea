"""What can be done with a table of word vectors: neighbours, analogies, pairs of word forms, a bias direction and debiasing.

A table is a float array [V, d], a row a word; `unit_rows` gives every row length 1, and cosines are then products.
"""

import numpy as np
from scipy.optimize import minimize

FORMS = 's', 'ed', 'ing'
BOUNDS = 1, 5, 10, 30, 100, 300  # of the rarer word's count: where one group of word pairs ends and the next begins


def unit_rows(table):
    return table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)


def nearest(unit, query, count, without=()):
    """The indices of the `count` rows of largest cosine with the vector `query`, but for those in `without`."""
    scores, without = unit @ query, list({*without})
    scores[without] = -np.inf
    return np.argsort(-scores, kind='stable')[:min(count, len(unit) - len(without))]


# ---------------------------------------------------------------------------------------------- intrinsic evaluation

def form_pairs(index, forms=FORMS):
    """Pairs (word, word + form) of which `index`, word -> row, holds both: int64 [P, 2].

    Found by rule, so a few are no pairs of forms (`clas`, `class`); they weigh on all tables alike.
    """
    pairs = [(row, index[word + form]) for form in forms for word, row in index.items()
             if len(word) > 2 and word + form in index]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def partner_ranks(table, pairs):
    """The rank, from 1, of each word's partner among all other words by cosine, both ways: int64 [2, P]."""
    unit = unit_rows(np.asarray(table, dtype=np.float32))
    ranks = np.empty((2, len(pairs)), dtype=np.int64)
    for way, (own, other) in enumerate((pairs.T, pairs.T[::-1])):
        for part in np.array_split(np.arange(len(pairs)), 1 + len(pairs) // 256):
            scores = unit[own[part]] @ unit.T
            wanted = scores[np.arange(len(part)), other[part]][:, None]
            scores[np.arange(len(part)), own[part]] = -np.inf
            ranks[way, part] = (~(scores < wanted)).sum(1)  # itself, and against it what is as near or no number
    return ranks


def form_measure(table, pairs, counts, bounds=BOUNDS):
    """How near the forms of a word lie: the mean reciprocal rank of the partner, over all pairs and by the rarer word's count.

    Returns {'mrr': …, 'top10': the share of ranks up to 10, 'by_count': [[from, to, pairs, mrr], …]}, `to` None for the last.
    """
    ranks = partner_ranks(table, pairs)
    rarer = counts[pairs].min(1)
    rows = []
    for low, high in zip(bounds, (*bounds[1:], None)):
        chosen = (rarer >= low) & (rarer < (np.inf if high is None else high))
        if chosen.any():
            rows.append([low, high, int(chosen.sum()), float((1 / ranks[:, chosen]).mean())])
    return {'mrr': float((1 / ranks).mean()), 'top10': float((ranks <= 10).mean()), 'by_count': rows}


def analogy(unit, a, b, c):
    """The row d for which 'a is to b as c is to d': the nearest to b − a + c that is none of them (arXiv:1301.3781)."""
    return nearest(unit, unit[b] - unit[a] + unit[c], 1, (a, b, c))[0]


def analogy_accuracy(table, pairs):
    """The share of right answers to 'pair's first : second, other pair's first : ?', over all ordered couples of `pairs`."""
    unit = unit_rows(np.asarray(table, dtype=np.float32))
    right = [analogy(unit, a, b, c) == d for a, b in pairs for c, d in pairs if a != c]
    return float(np.mean(right))


# ---------------------------------------------------------------------------------------------- bias

def bias_direction(unit, pairs):
    """(g, share): the unit vector [d] along which pairs differ, and how much of their variance it holds.

    As in Bolukbasi et al., arXiv:1607.06520, section 5.1 and step 1 of section 6.

    It is the first principal component of the two words of every pair, each pair centred on its own mean, pointing from the
    pairs' second words to their first. What is particular to one pair (`he` − `she` alone is also their different uses) is
    not shared by the others, so that it averages out.
    """
    half = (unit[pairs[:, 0]] - unit[pairs[:, 1]]) / 2
    _, s, directions = np.linalg.svd(np.concatenate([half, -half]), full_matrices=False)
    g = directions[0]
    return g * (1 if (half @ g).sum() >= 0 else -1), float(s[0] ** 2 / (s ** 2).sum())


def agreement(unit, pairs):
    """How well a direction found without a pair tells its two words apart: [cosine, right way round], means over pairs.

    Two rows: the direction of all the other pairs, and of one other pair alone (the mean over them).
    """
    difference = unit_rows(unit[pairs[:, 0]] - unit[pairs[:, 1]])
    rest = [bias_direction(unit, np.delete(pairs, k, 0))[0] @ difference[k] for k in range(len(pairs))]
    single = (difference @ difference.T)[~np.eye(len(pairs), dtype=bool)]
    return [[float(np.mean(c)), float(np.mean(np.array(c) > 0))] for c in (rest, single)]


def hard_debias(unit, direction, neutral, pairs):
    """Neutralise and equalise (arXiv:1607.06520, section 6, step 2a). Returns a new table [V, d] of unit rows.

    Neutral words (rows `neutral`) lose their component along `direction` (a unit vector): w ← (w − w_B) / ‖w − w_B‖. The two
    words of a pair, with mean μ and ν = μ − μ_B, become ν ± √(1 − ‖ν‖²) g, so that they differ along `direction` only and
    are equally far from every neutral word.
    """
    table = unit.copy()
    table[neutral] = unit_rows(unit[neutral] - np.outer(unit[neutral] @ direction, direction))
    mean = (unit[pairs[:, 0]] + unit[pairs[:, 1]]) / 2
    nu = mean - np.outer(mean @ direction, direction)
    along = np.sqrt(np.maximum(0, 1 - (nu ** 2).sum(1)))
    # The two are mirror images about μ_B, so one takes the side that it is on and the other what is left.
    sign = np.where((unit[pairs[:, 0]] - unit[pairs[:, 1]]) @ direction >= 0, 1, -1)
    for k, side in ((0, 1), (1, -1)):
        table[pairs[:, k]] = nu + np.outer(side * sign * along, direction)
    return table


def soft_objective(T, unit, direction, neutral, strength):
    """‖(TW)ᵀ(TW) − WᵀW‖²_F + λ ‖(TN)ᵀ(TB)‖²_F and its gradient [d, d] (arXiv:1607.06520, section 6, step 2b).

    The columns of W are all words, those of N the neutral ones, B is `direction`, λ is `strength`. With X = TᵀT, C = WWᵀ and
    D = X − I the first term is tr(DCDC) and the second λ Bᵀ X NNᵀ X B, so no matrix over words is ever formed. Their
    derivatives by X are 2 CDC and 2λ NNᵀ X B Bᵀ, and from X = TᵀT the derivative by T is T (P + Pᵀ) for one P by X.
    """
    C, N, X = unit.T @ unit, unit[neutral].T @ unit[neutral], T.T @ T
    D, XB = X - np.eye(len(T)), X @ direction
    P = 2 * C @ D @ C + 2 * strength * np.outer(N @ XB, direction)
    return np.trace(D @ C @ D @ C) + strength * XB @ N @ XB, T @ (P + P.T)


def soft_debias(unit, direction, neutral, strength=0.2):
    """Every row times the T that minimises `soft_objective`, then brought to length 1: [V, d]; and the direction Tg, as long.

    The first term is a sum over V² inner products that are to be kept, the second one over the neutral words; λ weighs them,
    and 0.2 is the paper's. The objective knows TᵀT only, found by L-BFGS from T = I; of its roots the symmetric one is taken,
    which turns and mirrors nothing.
    """
    wide, d = unit.astype(np.float64), unit.shape[1]

    def flat(t):
        value, gradient = soft_objective(t.reshape(d, d), wide, direction.astype(np.float64), neutral, strength)
        return value / len(unit), gradient.ravel() / len(unit)

    found = minimize(flat, np.eye(d).ravel(), jac=True, method='L-BFGS-B', options={'maxiter': 500})
    _, s, axes = np.linalg.svd(found.x.reshape(d, d))
    T = (axes.T * s) @ axes
    return unit_rows(wide @ T).astype(unit.dtype), unit_rows((T @ direction)[None])[0]


def bias(unit, direction, neutral):
    """The mean of |cosine| of the neutral words with the direction (the paper's direct bias, c = 1)."""
    return float(np.abs(unit_rows(unit[neutral]) @ direction).mean())
