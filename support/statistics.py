"""Paired comparisons over seeds: effects with intervals, p-values corrected for multiple tests."""

import math

import numpy as np
from scipy.stats import t as student
from scipy.stats import ttest_1samp, wilcoxon


class Effect:
    """The paired difference of two settings over seeds: mean, interval and p-value of Student's t.

    `treatment` and `control` [seeds] are in per cent; seeds that are NaN in either are left out.
    `difference` holds the pairs; it and `mean`, `deviation` (standard), `low`, `high` (95 %
    interval) are in percentage points. `p_rank` is the p-value of Wilcoxon's signed-rank test.
    `p_holm` and `p_rank_holm` are None until `correct` sets them. Raises ValueError with fewer than
    two pairs.
    """

    def __init__(self, label, treatment, control):
        # Rounded, so that equal numbers of sequences are equal differences.
        difference = np.round(np.asarray(treatment) - np.asarray(control), 6)
        self.label, self.difference = label, difference[np.isfinite(difference)]
        n = len(self.difference)
        if n < 2:
            raise ValueError(f'{label}: {n} finite pairs of values, expected at least 2')
        self.mean, self.deviation = self.difference.mean(), self.difference.std(ddof=1)
        margin = student.ppf(0.975, n - 1) * self.deviation / math.sqrt(n)
        self.low, self.high = self.mean - margin, self.mean + margin
        constant = self.deviation == 0  # Student's t is then infinite, or undefined at mean 0
        self.p = float(self.mean == 0) if constant else ttest_1samp(self.difference, 0).pvalue
        self.p_rank = signed_rank(self.difference)
        self.p_holm = self.p_rank_holm = None

    def __str__(self):
        p = format_p(self.p if self.p_holm is None else self.p_holm)
        mean, low, high = (f'{x:+z.1f}' for x in (self.mean, self.low, self.high))
        return f'{mean} points (95 % interval {low} to {high}, {p})'


def correct(effects):
    """Set the corrected p-values of effects that are tested together; return {label: effect}."""
    for effect, p, p_rank in zip(effects, holm([effect.p for effect in effects]),
                                 holm([effect.p_rank for effect in effects])):
        effect.p_holm, effect.p_rank_holm = p, p_rank
    return {effect.label: effect for effect in effects}


def signed_rank(difference):
    """Return the p-value of Wilcoxon's signed-rank test of paired differences."""
    return float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0


def holm(p):
    """Return the p-values of tests made together corrected for their number (Holm 1979)."""
    corrected, largest = {}, 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = corrected[i] = max(largest, min(1.0, (len(p) - rank) * p[i]))
    return [corrected[i] for i in range(len(p))]


def format_p(p):
    """Return 'p = 0.12', 'p = 0.003' or 'p < 0.0001'."""
    if p < 1e-4:
        return 'p < 0.0001'
    return f'p = {p:.2f}' if p >= 0.095 else f'p = {p:.1g}'
