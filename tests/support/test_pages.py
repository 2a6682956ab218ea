import sys

import pytest

from support.pages import load_results, render, write_page


def test_a_page_is_its_template_with_the_names_filled_in(tmp_path):
    jinja2 = pytest.importorskip('jinja2')
    (tmp_path / 'page.md').write_text('# ε & λ\n\n{{ "%.1f" % gain }} <b>\n', encoding='utf-8')
    write_page(tmp_path, {'gain': 1.26})
    assert (tmp_path / 'README.md').read_text(encoding='utf-8') == '# ε & λ\n\n1.3 <b>\n'
    with pytest.raises(jinja2.UndefinedError, match='gain'):
        render(tmp_path / 'page.md', {})


def test_a_page_without_jinja2_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'jinja2', None)
    with pytest.raises(ValueError, match='needs the package jinja2: .*requirements-extra.txt'):
        render(tmp_path / 'page.md', {})


def test_results_are_read_once_and_damage_is_named(tmp_path):
    path = tmp_path / 'x.json'
    path.write_text('{"runs": [1]}')
    assert load_results(path) is load_results(path) == {'runs': [1]}
    (tmp_path / 'y.json').write_text('{"runs": [1')
    with pytest.raises(ValueError, match='y.json: damaged'):
        load_results(tmp_path / 'y.json')
