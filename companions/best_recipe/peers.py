"""Compare the best recipe with its peers, from the records of benchmarks/accuracy.py."""

import numpy as np

from support.figures import markdown_table, mean_std, plus_minus
from support.statistics import Effect, correct

RECIPE = 'best recipe'
ROCKETS = 'MiniRocket', 'MultiRocketHydra'
PEERS = (*ROCKETS, 'FCN')
UCI_ONLY = 'ResNet',  # fitted on UCI's own partition only
TRAINING = {'FCN': {'epochs': 2000, 'batch_size': 16}, 'ResNet': {'epochs': 1500, 'batch_size': 64}}
PADDINGS = 'last step repeated', 'linear interpolation', 'cubic splines'  # but for zeros


def values_of(records, classifier, key='accuracy'):
    """Return an entry of a classifier's fit on each partition, in order, an array [partitions]."""
    return np.array([value for _, value in sorted(
        (r['partition'], r[key]) for r in records
        if r['classifier'] == classifier and r['seed'] == r['partition'])])


def compare_with_peers(records, key='accuracy'):
    """Return {peer: Effect of the best recipe over partitions, minus that peer}, in points.

    Their `p_rank_holm` is of Wilcoxon's signed-rank test, corrected for the number of comparisons.
    """
    return correct([Effect(peer, *(100 * values_of(records, name, key) for name in (RECIPE, peer)))
                    for peer in PEERS])


def peers_table(records):
    """Return Markdown: each classifier over the partitions, and the best recipe minus it."""
    compared, rows = compare_with_peers(records), []
    for name in (RECIPE, *PEERS, *UCI_ONLY):
        fits = [r for r in records if r['classifier'] == name]
        uci = [r['accuracy'] for r in fits if r['partition'] == 0]
        everywhere = '' if name in UCI_ONLY else mean_std(values_of(records, name))
        lead = describe(compared[name]) if name in PEERS else ''
        fit, predict = (np.median([r[key] for r in fits])
                        for key in ('fit_seconds', 'predict_seconds'))
        rows.append((name, mean_std(uci), everywhere, lead, f'{fit:.1f}', f'{predict:.2f}'))
    return markdown_table(('classifier', "UCI's own partition (%)", 'all partitions (%)',
                           'best recipe minus it', 'fit (s)', 'predict (s)'), rows)


def padding_table(records):
    """Return Markdown: the accuracy of ROCKETS by how sequences get equal lengths."""
    rows = [[name, *(mean_std(values_of(records, title))
                     for title in (name, *(f'{name}, {padding}' for padding in PADDINGS)))]
            for name in ROCKETS]
    return markdown_table(('all partitions (%)', 'zeros', *PADDINGS), rows)


def describe(effect):
    signs = ', '.join(f'{(np.sign(effect.difference) == sign).sum()} {word}'
                      for sign, word in ((1, 'better'), (0, 'equal'), (-1, 'worse')))
    return f"{plus_minus(effect.difference, 2, '+')}; {signs}; p = {effect.p_rank_holm:.2g}"
