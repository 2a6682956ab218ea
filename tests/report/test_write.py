"""The report says what its files say."""

import re
from pathlib import Path

import pytest

from report import write
from support.pages import render

TEMPLATE, PAGE = (Path(write.FOLDER) / name for name in ('page.md', 'README.md'))


def test_the_page_is_what_the_results_give():
    pytest.importorskip('jinja2')
    assert render(TEMPLATE, write.names()) == PAGE.read_text(encoding='utf-8')


def test_every_file_that_the_page_shows_is_there():
    names = re.findall(r'\]\(([^):]+)\)', PAGE.read_text(encoding='utf-8'))
    assert len(names) >= 8
    for name in names:
        assert (PAGE.parent / name).exists(), name


def test_no_number_of_a_result_is_typed_into_the_text():
    """Apart from {{ }}, code and addresses, the few decimal fractions are settings."""
    text = re.sub(r'{{.*?}}|{%.*?%}|`[^`]*`|\(https?:[^)]*\)|```.*?```', '',
                  TEMPLATE.read_text(encoding='utf-8'), flags=re.DOTALL)
    assert re.findall(r'\d+\.\d+ (?:points|%|±)|± ?\d|p [=<] ?\d', text) == []
