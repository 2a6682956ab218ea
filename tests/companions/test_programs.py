"""What all programs of the companions have in common."""

import importlib
import inspect

import pytest

from tests.helpers import ROOT

PROGRAMS = sorted('.'.join(path.relative_to(ROOT).with_suffix('').parts)
                  for path in ROOT.glob('companions/*/*.py')
                  if 'run_program(main' in path.read_text(encoding='utf-8'))


@pytest.mark.parametrize('name', PROGRAMS)
def test_every_function_can_be_sent_to_another_process(name):
    """By value, as joblib sends it when the module is the program, with all that it refers to."""
    cloudpickle, module = pytest.importorskip('cloudpickle'), importlib.import_module(name)
    cloudpickle.register_pickle_by_value(module)
    try:
        for _, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == name:
                assert cloudpickle.loads(cloudpickle.dumps(function)) is not function
    finally:
        cloudpickle.unregister_pickle_by_value(module)


@pytest.mark.parametrize('name', PROGRAMS)
def test_help_is_shown(name, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(name).get_args(['--help'])
    assert end.value.code == 0 and 'usage' in capsys.readouterr().out
