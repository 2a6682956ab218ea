"""The numbers and pictures of this folder's page: python -m companions.pages attacks"""

from pathlib import Path

from companions.attacks.images import curve, images_table, plot_curves, readable_epsilon
from companions.attacks.sequences import (INPUTS, MASKING, accuracies, accuracy_table,
                                          differences_table, plot_sequences)
from support.pages import load_results

FOLDER = Path(__file__).parent
IMAGES, SEQUENCES = (FOLDER / f'results/attacks_{name}.json' for name in ('images', 'sequences'))


def names():
    """Return what page.md uses; its functions return formatted means over seeds."""
    images, sequences = (load_results(path)['runs'] for path in (IMAGES, SEQUENCES))

    def image(what, bound, attack, epsilon):
        mean = curve(images, bound, attack)[epsilon][what].mean()
        return f'{mean:.2f}' if what == 'l2_change' else f'{100 * mean:.0f}'

    def sequence(*args):
        return f'{100 * accuracies(sequences, *args).mean():.0f}'

    return {'image': image, 'sequence': sequence, 'seeds': len({r['seed'] for r in sequences}),
            'one_shot_threshold': readable_epsilon(curve(images, 'unbounded', 'one-shot')),
            'iterated_threshold': readable_epsilon(curve(images, 'unbounded', 'iterated')),
            'images_table': images_table(images),
            'sequences_table': {key: accuracy_table(sequences, key) for key in INPUTS},
            'differences_table': differences_table(sequences),
            'masking_table': accuracy_table(sequences, 'raw', MASKING)}


def draw_figures():
    images = load_results(IMAGES)
    plot_curves(IMAGES.with_suffix('.png'), images['runs'], images['data'])
    plot_sequences(SEQUENCES.with_suffix('.png'), load_results(SEQUENCES)['runs'])
