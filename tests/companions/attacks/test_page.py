"""The page agrees with its template and its results.

    python -m pytest tests/companions/attacks
"""

import re

import pytest

from companions.attacks import page
from support.pages import render


def test_the_page_is_rendered_from_the_results():
    pytest.importorskip('jinja2')
    text = render(page.FOLDER / 'page.md', page.names())
    assert (page.FOLDER / 'README.md').read_text(encoding='utf-8') == text


def test_the_links_of_the_page_exist():
    text = (page.FOLDER / 'README.md').read_text(encoding='utf-8')
    links = [link for link in re.findall(r'\]\(([^)]+)\)', text) if '://' not in link]
    assert len(links) >= 9
    for link in links:
        assert (page.FOLDER / link).exists(), link
