"""Compare the best recipe with its peers, from the records of benchmarks/accuracy.py."""

import numpy as np

from support.figures import markdown_table, mean_std
from support.statistics import holm, signed_rank

RECIPE = 'best recipe'
ROCKETS = 'MiniRocket', 'MultiRocketHydra'
PEERS = (*ROCKETS, 'FCN')
PADDINGS = 'last step repeated', 'linear interpolation', 'cubic splines'  # but for zeros
UCI_ONLY = 'ResNet',  # fitted on UCI's own partition only


def values_of(records, classifier, key, like):
    """Return an entry of a classifier's fit on each partition on which `like` was fitted, too.

    They are in order, an array [partitions].
    """
    fits = {name: {r['partition']: r[key] for r in records
                   if r['classifier'] == name and r['seed'] == r['partition']}
            for name in (classifier, like)}
    return np.array([fits[classifier][k] for k in sorted(fits[like])])


def compare_with_peers(records, key='accuracy'):
    """Return {peer: (best recipe minus it, in points [partitions], p)}.

    p is of Wilcoxon's signed-rank test, corrected for the number of comparisons (Holm 1979).
    """
    # Rounded, so that equal numbers of sequences are ties for the ranks.
    differences = [np.round(100 * (values_of(records, RECIPE, key, peer) -
                                   values_of(records, peer, key, peer)), 6) for peer in PEERS]
    return dict(zip(PEERS, zip(differences, holm(list(map(signed_rank, differences))))))


def peers_table(records):
    """Return Markdown: each classifier over the partitions, and the best recipe minus it."""
    compared, rows, present = compare_with_peers(records), [], {r['classifier'] for r in records}
    for name in filter(present.__contains__, (RECIPE, *PEERS, *UCI_ONLY)):
        uci = [r['accuracy'] for r in records if r['classifier'] == name and r['partition'] == 0]
        accuracy = values_of(records, name, 'accuracy', name)
        everywhere = '' if name in UCI_ONLY else mean_std(accuracy)
        lead = describe(*compared[name]) if name in PEERS else ''
        fit, predict = (np.median([r[key] for r in records if r['classifier'] == name])
                        for key in ('fit_seconds', 'predict_seconds'))
        rows.append((name, mean_std(uci), everywhere, lead, f'{fit:.1f}', f'{predict:.2f}'))
    return markdown_table(('classifier', "UCI's own partition (%)", 'all partitions (%)',
                           'best recipe minus it', 'fit (s)', 'predict (s)'), rows)


def padding_table(records):
    """Return Markdown: the accuracy of ROCKETS by how sequences get equal lengths."""
    rows = [[name, *(mean_std(values_of(records, title, 'accuracy', title))
                     for title in (name, *(f'{name}, {padding}' for padding in PADDINGS)))]
            for name in ROCKETS]
    return markdown_table(('all partitions (%)', 'zeros', *PADDINGS), rows)


def describe(difference, p):
    signs = ', '.join(f'{(np.sign(difference) == sign).sum()} {word}'
                      for sign, word in ((1, 'better'), (0, 'equal'), (-1, 'worse')))
    return f'{difference.mean():+.2f} ± {difference.std(ddof=1):.2f}; {signs}; p = {p:.2g}'
