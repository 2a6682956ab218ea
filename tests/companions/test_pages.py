"""Each companion's README.md is what its page.md and results/ give."""

import importlib
import re

import pytest

from support.pages import render
from tests.helpers import ROOT

pytest.importorskip('jinja2')
pages = pytest.mark.parametrize(
    'name', sorted(path.parent.name for path in (ROOT / 'companions').glob('*/page.py')))


@pages
def test_the_page_is_what_the_results_give(name):
    page = importlib.import_module(f'companions.{name}.page')
    text = (page.FOLDER / 'README.md').read_text(encoding='utf-8')
    assert render(page.FOLDER / 'page.md', page.names()) == text
    links = re.findall(r'\]\(([^):#]+)\)', text)
    assert len(links) >= 3 and all((page.FOLDER / link).exists() for link in links)


@pages
def test_no_result_is_typed_into_the_template(name):
    """A decimal fraction, per cent or p in page.md stands in {{ }} or is a setting."""
    page = importlib.import_module(f'companions.{name}.page')
    template = (page.FOLDER / 'page.md').read_text(encoding='utf-8')
    text = re.sub(r'{{.*?}}|```.*?```|`[^`]*`', '', template, flags=re.DOTALL)
    assert re.findall(r'\d+\.\d+ (?:points|%|±)|± ?\d|p [=<] ?\d', text) == []
