"""One dry run of the attacks on sequences, for the tests of its output and of the certificates."""

import contextlib
import io

import pytest

from companions.attacks import sequences


@pytest.fixture(scope='package')
def dry_run(tmp_path_factory):
    """Return the folder of a dry run, and what it printed."""
    folder = tmp_path_factory.mktemp('attacks')
    with contextlib.redirect_stdout(io.StringIO()) as out:
        sequences.main(sequences.get_args(['--dry-run', '--jobs', '1', '--output-dir',
                                           str(folder)]))
    return folder, out.getvalue()
