"""One dry run of the attacks on sequences, for the tests of its output and of the certificates."""

import contextlib
import io

import pytest

from companions.attacks import sequences
from load_data import UCI_PATH, load_data


def few_sequences(*_):
    """Return what load_data does, with 64 test sequences and none to train on."""
    return [], load_data(UCI_PATH, 32)[1][:2]


@pytest.fixture(scope='package')
def dry_run(tmp_path_factory):
    """Return the folder of a dry run on few_sequences, and what it printed."""
    folder = tmp_path_factory.mktemp('attacks')
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, 'load_data', few_sequences)
        sequences.main(sequences.get_args(['--dry-run', '--jobs', '1', '--output-dir',
                                           str(folder)]))
    return folder, out.getvalue()
