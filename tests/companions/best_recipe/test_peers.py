"""The comparison with peers is paired by partition, and its p-values are corrected."""

import numpy as np
import pytest
from scipy.stats import wilcoxon

from companions.best_recipe.peers import compare_with_peers, peers_table
from support.statistics import holm


def test_comparisons_are_paired_by_partition_and_corrected():
    rng = np.random.default_rng(0)
    correct = {'MiniRocket': 355 + rng.permutation(24) // 2}  # of 370, by partition
    correct['MultiRocketHydra'] = correct['MiniRocket'] + 1
    correct['best recipe'] = correct['MiniRocket'] + np.array(
        2 * [1, 2, 1, -1, 1, 3, 2, 0, 1, 2, -2, 1])
    correct['FCN'] = correct['MiniRocket'] + 3
    records = [{'classifier': name, 'partition': k, 'seed': k, 'accuracy': counts[k] / 370,
                'fit_seconds': 1.0, 'predict_seconds': 1.0}
               for name, counts in correct.items() for k in rng.permutation(24)]
    records += [{'classifier': name, 'partition': 0, 'seed': seed, 'accuracy': 0.9 + seed / 100,
                 'fit_seconds': 1.0, 'predict_seconds': 1.0}
                for name, seeds in {'FCN': (1, 2), 'ResNet': (0, 1, 2)}.items() for seed in seeds]
    compared = compare_with_peers(records)
    lead = compared['MiniRocket']
    assert lead.difference == pytest.approx(
        (correct['best recipe'] - correct['MiniRocket']) / 3.7, abs=1e-6)
    # On counts, whose ties are exact.
    raw = {peer: wilcoxon(correct['best recipe'] - correct[peer]).pvalue for peer in compared}
    assert [e.p_rank_holm for e in compared.values()] == pytest.approx(holm(list(raw.values())))
    assert (f'{lead.mean:+.2f} ± {lead.deviation:.2f}; 18 better, 2 equal, 4 worse'
            in peers_table(records))
    assert '| ResNet | 91.0 ± 1.0 |  |  | 1.0 | 1.00 |' in peers_table(records)
