"""What README.md shows is what the code and the committed run give.

    python -m pytest tests/test_readme.py
"""

import json
import re

from report.analysis import primary_effects
from support.figures import results_table
from tests.helpers import ROOT

README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_the_example_of_the_layer_runs():
    code, = re.findall(r'```python\n(.*?)```', README, flags=re.DOTALL)
    assert len(code.splitlines()) <= 16
    exec(compile(code, 'README.md', 'exec'), {})


def test_the_results_are_rows_of_the_committed_runs_table():
    results = json.loads((ROOT / 'report' / 'results' / 'results.json').read_text())
    table = results_table(results['runs']).splitlines()
    shown = [line for line in README.splitlines() if re.match(r'\| (model|base|AdvLSTM|ProxLSTM)', line)]
    assert len(shown) == 7 and set(shown) <= set(table)
    assert results['config']['seeds'] == 32 and results['config']['epochs'] == 100
    gains = ' '.join(README.split())
    for mode, e in primary_effects().items():
        interval = rf'(?:95 % interval )?{e.low:.1f} to {e.high:.1f}'
        assert re.search(rf'{mode} (?:gains )?{e.mean:.1f} (?:points )?\({interval}\)', gains)
        assert e.low > 0 and max(e.p_holm, e.p_rank_holm) < 0.05


def test_every_picture_file_and_function_named_exists():
    names = re.findall(r'\]\(([^):]+)\)', README) + re.findall(r'`([\w/]+\.(?:py|md|txt|mat)|\w+/)`', README)
    assert len(names) > 15
    for name in names:
        assert (ROOT / name).exists(), name
    for row in re.findall(r'^\| .* \| (`[\w/]+\.py`: .*) \|$', README, flags=re.MULTILINE):
        for file, functions in re.findall(r'`([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)', row):
            for function in re.findall(r'`([\w.]+)`', functions):
                definition = rf'(def|class) {function.split(".")[-1]}\('
                assert re.search(definition, (ROOT / file).read_text()), function


def test_both_commands_install_what_they_need_first():
    commands = re.findall(r'```sh\n(.*?)```', README, flags=re.DOTALL)
    assert 'pip install -r requirements.txt && python training.py\n' in commands
    assert 'pip install -r requirements.txt && python -m pytest\n' in commands
