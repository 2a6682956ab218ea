import numpy as np
import pytest
from scipy.stats import ttest_rel, wilcoxon

from support.statistics import Effect, correct, format_p, holm


def test_an_effect_is_paired_over_seeds():
    a, b = np.array([90.0, 92, 95, 91, 93]), np.array([89.0, 92, 93, 90, 90])
    effect, test = Effect('x', a, b), ttest_rel(a, b)
    interval = test.confidence_interval()
    assert (effect.mean, effect.low, effect.high, effect.p) == pytest.approx(
        (1.4, interval.low, interval.high, test.pvalue))
    assert effect.p_rank == wilcoxon(a, b).pvalue
    diverged = Effect('x', np.append(a, np.nan), np.append(b, 99))
    assert (diverged.p, diverged.p_rank) == (effect.p, effect.p_rank)
    assert len(diverged.difference) == 5


def test_an_effect_without_spread_or_without_pairs():
    unchanged = Effect('x', [90.0, 91], [90, 91])
    assert unchanged.p == unchanged.p_rank == 1
    assert Effect('x', [90.0, 91], [89, 90]).p == 0
    with pytest.raises(ValueError, match='^x: 1 finite pairs'):
        Effect('x', [90.0, np.nan], [89, 90])


def test_p_values_are_corrected_together():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    a, b = Effect('a', [90.0, 92, 93], [89, 90, 93]), Effect('b', [90.0, 91], [90, 91])
    assert correct([a, b]) == {'a': a, 'b': b}
    assert (a.p_holm, b.p_holm) == (pytest.approx(2 * a.p), 1)
    assert (a.p_rank_holm, b.p_rank_holm) == (pytest.approx(2 * a.p_rank), 1)


def test_an_effect_shows_its_corrected_p():
    effect = Effect('a', [92.0, 94, 96, 95], [90, 93, 93, 93])
    assert str(effect) == '+2.0 points (95 % interval +0.7 to +3.3, p = 0.02)'
    effect.p_holm = 0.25
    assert str(effect).endswith('p = 0.25)')
    assert [format_p(p) for p in (0.5, 0.0951, 0.094, 0.00034, 9e-5)] == [
        'p = 0.50', 'p = 0.10', 'p = 0.09', 'p = 0.0003', 'p < 0.0001']
