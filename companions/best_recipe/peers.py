"""Compare the best recipe with its peers, from the records of benchmarks/accuracy.py."""

import numpy as np

from support.figures import markdown_table, mean_std
from support.statistics import holm, signed_rank

OURS = {'best recipe': 1, 'five of it averaged': 5}  # number of models
PEERS = 'MiniRocket', 'MultiRocketHydra', 'FCN'
UCI_ONLY = 'ResNet',  # fitted on UCI's own partition only


def values_of(records, classifier, key):
    """Return an entry of a classifier's fit on each partition, in order: array [partitions]."""
    own = (r for r in records if r['classifier'] == classifier and r['seed'] == r['partition'])
    return np.array([r[key] for r in sorted(own, key=lambda r: r['partition'])])


def compare_with_peers(records, key='accuracy'):
    """Return {(ours, peer): (differences in points [partitions], p)}.

    p is of Wilcoxon's signed-rank test, corrected for the number of comparisons (Holm 1979).
    """
    pairs = [(ours, peer) for ours in OURS for peer in PEERS]
    # Rounded, so that equal numbers of sequences are ties for the ranks.
    differences = [np.round(100 * (values_of(records, ours, key) - values_of(records, peer, key)),
                            6) for ours, peer in pairs]
    p = holm(list(map(signed_rank, differences)))
    return dict(zip(pairs, zip(differences, p)))


def peers_table(records):
    """Return Markdown: each classifier over the partitions, and the best recipe minus it."""
    compared, rows = compare_with_peers(records), []
    for name in (*OURS, *PEERS, *UCI_ONLY):
        uci = [r['accuracy'] for r in records if r['classifier'] == name and r['partition'] == 0]
        everywhere = '' if name in UCI_ONLY else mean_std(values_of(records, name, 'accuracy'))
        leads = [describe(*compared[ours, name]) if name in PEERS else '' for ours in OURS]
        fit, predict = (np.median([r[key] for r in records if r['classifier'] == name])
                        for key in ('fit_seconds', 'predict_seconds'))
        rows.append((name, mean_std(uci), everywhere, *leads, f'{fit:.1f}', f'{predict:.2f}'))
    return markdown_table(('classifier', "UCI's own partition (%)", 'all partitions (%)',
                           *(f'{ours} minus it' for ours in OURS), 'fit (s)', 'predict (s)'), rows)


def describe(difference, p):
    signs = ', '.join(f'{(np.sign(difference) == sign).sum()} {word}'
                      for sign, word in ((1, 'better'), (0, 'equal'), (-1, 'worse')))
    return f'{difference.mean():+.2f} ± {difference.std(ddof=1):.2f}; {signs}; p = {p:.2g}'
