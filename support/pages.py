"""Pages of results: a folder's README.md is its template page.md with the numbers filled in."""

import functools
import json
from pathlib import Path

from support.checkpoints import write
from support.program import import_optional


def render(template_path, names):
    """Return the text of a jinja2 template in which `names` (a dictionary) can be used.

    Raises ValueError if jinja2 is not installed, jinja2.UndefinedError for a name that is missing.
    """
    jinja2 = import_optional('jinja2', template_path)
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(Path(template_path).read_text(encoding='utf-8')).render(names)


def write_page(folder, names):
    """Render folder/page.md with `names` to folder/README.md."""
    write(Path(folder) / 'README.md', render(Path(folder) / 'page.md', names).encode())


@functools.cache
def load_results(path):
    """Return the content of a JSON file; every caller gets the same object, so do not change it."""
    try:
        return json.loads(Path(path).read_text(encoding='utf-8'))
    except ValueError as error:
        raise ValueError(f'{path}: damaged or not JSON') from error
