"""Compare the best recipe with its peers, from the records of benchmarks/accuracy.py.

A record holds 'classifier', 'partition', 'accuracy', 'fit_seconds' and 'predict_seconds'.
"""

import numpy as np
from scipy.stats import wilcoxon

from support.statistics import holm

OURS = {'best recipe': 1, 'five of it averaged': 5}  # number of models
PEERS = {'MiniRocket': 'MiniRocketClassifier', 'MultiRocketHydra': 'MultiRocketHydraClassifier'}


def compare_with_peers(records):
    """Return {(ours, peer): (differences in points [partitions], p)}.

    p is of Wilcoxon's signed-rank test, corrected for the number of comparisons (Holm 1979).
    """
    values = {(r['classifier'], r['partition']): r['accuracy'] for r in records}
    partitions = sorted({partition for _, partition in values})
    # Rounded, so that equal numbers of sequences are ties for the ranks.
    differences = {(ours, peer): np.round([100 * (values[ours, k] - values[peer, k])
                                           for k in partitions], 6)
                   for ours in OURS for peer in PEERS}
    p = holm([wilcoxon(d).pvalue if d.any() else 1.0 for d in differences.values()])
    return {pair: (d, p) for (pair, d), p in zip(differences.items(), p)}


def peers_table(records):
    """Return Markdown: each classifier over the partitions, and the best recipe minus it."""
    compared = compare_with_peers(records)
    minus = ' | '.join(f'{ours} minus it' for ours in OURS)
    lines = [f"| classifier | UCI's own partition (%) | all partitions (%) | {minus} | fit (s) | "
             'predict (s) |', '|---|---|---|---|---|---|---|']
    for name in (*OURS, *PEERS):
        rows = sorted((r for r in records if r['classifier'] == name), key=lambda r: r['partition'])
        x = np.array([100 * r['accuracy'] for r in rows])
        fit, predict = (np.median([r[f'{part}_seconds'] for r in rows])
                        for part in ('fit', 'predict'))
        cells = [describe(*compared[ours, name]) if name in PEERS else '' for ours in OURS]
        lines.append(f'| {name} | {x[0]:.2f} | {x.mean():.2f} ± {x.std(ddof=1):.2f} | '
                     f'{" | ".join(cells)} | {fit:.1f} | {predict:.2f} |')
    return '\n'.join(lines)


def describe(difference, p):
    signs = ', '.join(f'{(np.sign(difference) == sign).sum()} {word}'
                      for sign, word in ((1, 'better'), (0, 'equal'), (-1, 'worse')))
    return f'{difference.mean():+.2f} ± {difference.std(ddof=1):.2f}; {signs}; p = {p:.2g}'
