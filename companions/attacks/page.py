"""The numbers and pictures of this folder's page: python -m companions.pages attacks"""

from pathlib import Path

import numpy as np
from scipy.stats import norm

from companions.attacks.certified import certified_table, plot_certified
from companions.attacks.images import (FIXED, curve, images_table, plot_curves, plot_training,
                                       readable_epsilon)
from companions.attacks.sequences import (ALL, INPUTS, accuracies, accuracy_table,
                                          differences_table, plot_sequences, strength_columns)
from support.figures import mean_std
from support.pages import load_results

FOLDER = Path(__file__).parent
IMAGES, SEQUENCES, CERTIFIED = (FOLDER / f'results/attacks_{name}.json'
                                for name in ('images', 'sequences', 'certified'))


def names():
    """Return what page.md uses; its functions return formatted means over seeds."""
    images, sequences, certificates = (load_results(path)['runs']
                                       for path in (IMAGES, SEQUENCES, CERTIFIED))
    training = load_results(IMAGES)['training']
    thresholds = {attack: readable_epsilon(curve(images, 'unbounded', attack))
                  for attack in ('one-shot', 'iterated', FIXED)}

    def image(what, bound, attack, epsilon):
        mean = curve(images, bound, attack)[epsilon][what].mean()
        return f'{mean:.2f}' if what == 'l2_change' else f'{100 * mean:.0f}'

    def difference(bound, attack, epsilon, other, other_epsilon=None):
        """Return the accuracy under `attack` minus that under `other`, paired over seeds."""
        one, two = (curve(images, bound, name)[e]['accuracy'] for name, e in
                    ((attack, epsilon), (other, other_epsilon or epsilon)))
        return mean_std(one - two, sign='+')

    def sequence(model, attacked, attack, epsilon):
        return f'{100 * accuracies(sequences, model, attacked, attack, epsilon).mean():.0f}'

    def certified(model, radius):
        values = accuracies(certificates, model, 'raw', 'certified', radius)
        return f'{100 * values.mean():.0f}'

    def gain(model, other, epsilon):
        """Return the robust accuracy of one model minus another's, paired over seeds."""
        one, two = (accuracies(sequences, name, 'raw', ALL, epsilon) for name in (model, other))
        return mean_std(one - two, sign='+')

    certificate = load_results(CERTIFIED)
    all_agree = certificate['alpha'] ** (1 / certificate['samples'])
    return {'image': image, 'sequence': sequence, 'gain': gain,
            'seeds': len({r['seed'] for r in sequences}),
            'image_seeds': len({r['seed'] for r in images}),
            'largest_radius': certificate['sigma'] * norm.ppf(all_agree),
            'difference': difference, 'thresholds': thresholds,
            'FIXED': FIXED, 'epochs': load_results(IMAGES)['epochs'],
            'cpu_seconds': np.mean([run['cpu_seconds'] for run in training]),
            'images_table': images_table(images),
            'sequences_table': {key: accuracy_table(sequences, key) for key in INPUTS},
            'differences_table': differences_table(sequences),
            'strength_table': accuracy_table(sequences, 'raw', strength_columns(sequences)),
            'ALL': ALL, 'effort': load_results(SEQUENCES), 'certified': certified,
            'certified_table': certified_table(certificates, sequences),
            'certificate': certificate}


def draw_figures():
    images = load_results(IMAGES)
    plot_curves(IMAGES.with_suffix('.png'), images['runs'], images['data'])
    plot_training(FOLDER / 'results/attacks_training.png', images['training'])
    attacked = load_results(SEQUENCES)['runs']
    plot_sequences(SEQUENCES.with_suffix('.png'), attacked)
    plot_certified(CERTIFIED.with_suffix('.png'), load_results(CERTIFIED)['runs'], attacked)
