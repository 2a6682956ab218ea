"""Write README.md from page.md and results/*.json, and draw the figures that need no model.

    python -m companions.attacks.page
"""

import argparse
from pathlib import Path

from companions.attacks.images import READABLE, curve, images_table, plot_curves
from companions.attacks.sequences import (INPUTS, accuracies, differences_table, masking_table,
                                          plot_sequences, sequences_table)
from support.pages import load_results, write_page
from support.program import run_program

FOLDER = Path(__file__).parent
RESULTS = FOLDER / 'results'


def names():
    """Return what page.md uses; its functions return formatted means over seeds."""
    images, sequences = (load_results(RESULTS / f'attacks_{name}.json')['runs']
                         for name in ('images', 'sequences'))

    def image(what, bound, attack, epsilon):
        mean = getattr(curve(images, bound, attack)[epsilon], what).mean()
        return f'{mean:.2f}' if what == 'l2_change' else f'{100 * mean:.0f}'

    def readable_epsilon(bound, attack):
        return max(epsilon for epsilon, point in curve(images, bound, attack).items()
                   if point.readable.mean() >= READABLE)

    def sequence(*args):
        return f'{100 * accuracies(sequences, *args).mean():.0f}'

    return {'image': image, 'readable_epsilon': readable_epsilon, 'sequence': sequence,
            'seeds': len({r['seed'] for r in sequences}), 'images_table': images_table(images),
            'sequences_table': {key: sequences_table(sequences, key) for key in INPUTS},
            'differences_table': differences_table(sequences),
            'masking_table': masking_table(sequences)}


def get_args(argv=None):
    return argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)


def main(args):
    images = load_results(RESULTS / 'attacks_images.json')
    plot_curves(RESULTS / 'attacks_images.png', images['runs'], images['data'])
    plot_sequences(RESULTS / 'attacks_sequences.png',
                   load_results(RESULTS / 'attacks_sequences.json')['runs'])
    write_page(FOLDER, names())


if __name__ == '__main__':
    run_program(main, get_args)
