"""Write the companions' pages, README.md, and the pictures that need no model, from results/.

    python -m companions.pages              # all six
    python -m companions.pages amp gan
"""

import argparse
import importlib
from pathlib import Path

from support.pages import write_page
from support.program import run_program

FOLDER = Path(__file__).parent
NAMES = sorted(path.parent.name for path in FOLDER.glob('*/page.py'))


def get_args(argv=None):
    parser = argparse.ArgumentParser(description="Write the companions' pages and pictures.")
    parser.add_argument('names', nargs='*', metavar='NAME',
                        help=f'any of {", ".join(NAMES)}; default: all')
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in NAMES:
            parser.error(f'argument NAME: {name!r}, expected one of {", ".join(NAMES)}')
    return args


def main(args):
    for name in args.names or NAMES:
        page = importlib.import_module(f'companions.{name}.page')
        if hasattr(page, 'draw_figures'):
            page.draw_figures()
        write_page(FOLDER / name, page.names())


if __name__ == '__main__':
    run_program(main, get_args)
