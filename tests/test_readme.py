"""What README.md shows is what the code and the committed run give.

    python -m pytest tests/test_readme.py
"""

import json
import re
import sys
from pathlib import Path

from training import BEST_EPSILON, SWEEPS, closing_table, tuning_table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / 'companions'), str(ROOT / 'benchmarks')]

from accuracy import accuracy_table  # noqa: E402

README = (ROOT / 'README.md').read_text(encoding='utf-8')


def test_the_example_of_the_layer_runs():
    code, = re.findall(r'```python\n(.*?)```', README, flags=re.DOTALL)
    assert len(code.splitlines()) <= 12
    exec(compile(code, 'README.md', 'exec'), {})


def test_the_result_table_is_the_committed_runs():
    results = json.loads((ROOT / 'report' / 'results.json').read_text())
    shown = [run for run in results['runs'] if run['variant'] in ('', 'dropout lstm_input 0.5', 'batch norm conv')
             and run['epsilon'] in (0, BEST_EPSILON.get(run['mode']), *SWEEPS.get(run['mode'], {'epsilons': ()})['epsilons'])]
    assert closing_table(shown) in README
    assert results['config']['adv_epsilon'] == BEST_EPSILON['AdvLSTM']
    assert results['config']['prox_epsilon'] == BEST_EPSILON['ProxLSTM']
    assert results['config']['seeds'] == 8 and results['config']['epochs'] == 100


def test_the_search_tables_are_the_committed_ones_and_the_best_epsilons_theirs():
    tables = {name: tuning_table(json.loads((ROOT / 'report' / f'tune_{name}.json').read_text())['runs'])
              for name in ('adv', 'prox')}
    assert all(table in README for table, _ in tables.values())
    assert (tables['adv'][1], tables['prox'][1]) == (BEST_EPSILON['AdvLSTM'], BEST_EPSILON['ProxLSTM'])


def test_the_comparison_with_peers_is_the_committed_one():
    assert accuracy_table(json.loads((ROOT / 'report' / 'accuracy.json').read_text())['runs']) in README


def test_every_figure_shown_and_every_file_named_is_there():
    names = re.findall(r'\]\(([^):]+)\)', README) + re.findall(r'`([\w/]+\.(?:py|md|txt|mat))`', README)
    assert len(names) > 8
    for name in names:
        assert (ROOT / name).exists(), name


def test_both_commands_install_what_they_need_first():
    commands = re.findall(r'```sh\n(.*?)```', README, flags=re.DOTALL)
    assert 'pip install -r requirements.txt && python training.py\n' in commands
    assert 'pip install -r requirements.txt && python -m pytest\n' in commands
