"""Files are written whole or not at all.

    python -m pytest tests/support/test_checkpoints.py
"""

import json
from pathlib import Path

import pytest

from support.checkpoints import write, write_json
from tests.helpers import files


def test_a_write_that_fails_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / 'base_seed0.pt'
    path.write_bytes(b'old')

    def full(self, content):
        with open(self, 'wb') as file:
            file.write(content[:2])
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match=r'base_seed0.pt: could not be written \(No space left'):
        write(path, b'newer')
    assert files(tmp_path) == {'base_seed0.pt': b'old'}


def test_json_has_a_record_per_line_and_no_nan(tmp_path):
    path = tmp_path / 'results.json'
    write_json(path, {'config': {'a': 1}}, [{'x': 0.1}, {'x': None}])
    assert json.loads(path.read_text()) == {'config': {'a': 1}, 'runs': [{'x': 0.1}, {'x': None}]}
    assert len(path.read_text().splitlines()) == 5
    with pytest.raises(ValueError):
        write_json(path, {'config': {}}, [{'x': float('nan')}])
