"""README.md is what page.md and results/ give."""

import re

import pytest

from companions.word2vec import page
from support.pages import render


def test_the_page_is_what_the_results_give():
    pytest.importorskip('jinja2')
    text = (page.FOLDER / 'README.md').read_text(encoding='utf-8')
    assert render(page.FOLDER / 'page.md', page.names()) == text
    links = re.findall(r'\]\(([^):#]+)\)', text)
    assert len(links) >= 6 and all((page.FOLDER / link).exists() for link in links)
