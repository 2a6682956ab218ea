"""The numbers and pictures of this folder's page: python -m companions.pages amp"""

from pathlib import Path

import numpy as np

from companions.amp import images, sequences
from support.pages import load_results
from support.statistics import Effect

FOLDER = Path(__file__).parent
RESULTS = FOLDER / 'results'


def load(name):
    return load_results(RESULTS / f'{name}.json')


def names():
    """Return what page.md uses."""
    return {'images': describe_images(), 'sequences': describe_sequences()}


def describe_images():
    content, tuned = load('amp_images'), load('tune_amp_images')['runs']
    records = content['runs']
    effects = images.effects_of(records)
    lr_table, ball_table = images.tuning_tables(tuned)

    def mean(key, groups):
        """Return {steps: the mean of a result over groups and seeds, at the last epoch}."""
        found = {steps: [images.results_of(records, *group, steps)[key] for group in groups]
                 for steps in images.METHODS}
        return {steps: np.mean([x[:, -1] if x.ndim == 2 else x for x in values])
                for steps, values in found.items()}

    significant = ', '.join(
        f'{effect.mean:+.1f} points ({optimizer}, N = {steps}, labels {labels})'
        for (labels, optimizer, steps), effect in effects.items() if effect.p_holm < 0.05)
    return {**content, 'seeds': len({r['seed'] for r in records}),
            'effects': list(effects.values()), 'significant': significant or 'none',
            'comparison': images.comparison_table(records), 'learning_rates': lr_table,
            'balls': ball_table, 'seconds': mean('seconds', images.GROUPS),
            'loss': {labels: mean('train_loss', [g for g in images.GROUPS if g[0] == labels])
                     for labels in images.LABELS}}


def describe_sequences():
    records = load('amp_sequences')['runs']
    results = {method: sequences.results_of(records, method) for method in sequences.METHODS}
    for found in results.values():
        around = np.median(found['around'], axis=0)
        found |= {'loss_at': dict(zip((0, *sequences.RADII), around))}

    def gain(method, key='accuracy'):
        """Compare a method with plain training."""
        return Effect(method, *(100 * results[m][key] for m in (method, 'plain')))

    return {**results, 'gain': gain, 'chosen': sequences.AMP_SETTINGS,
            'seeds': len(results['plain']['seed']),
            'comparison': sequences.comparison_table(records),
            'tuning': sequences.tuning_table(load('tune_amp_sequences')['runs'])}


def draw_figures():
    for experiment, name in ((images, 'amp_images'), (sequences, 'amp_sequences')):
        experiment.plot_comparison(RESULTS / f'{name}.png', load(name)['runs'])
