"""`pip install .` gives another project ProxLSTM.py, and nothing else.

    python -m pytest tests/test_packaging.py
"""

import shutil
import subprocess
import sys
import zipfile

from tests.helpers import ROOT


def test_the_package_is_the_one_file_and_works_by_itself(tmp_path):
    source = tmp_path / 'source'
    source.mkdir()
    for name in ('pyproject.toml', 'ProxLSTM.py', 'training.py'):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / 'support', source / 'support')
    build = 'import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])'
    subprocess.run([sys.executable, '-c', build, tmp_path], cwd=source, check=True,
                   stdout=subprocess.DEVNULL)
    wheel, = tmp_path.glob('*.whl')
    names = [name for name in zipfile.ZipFile(wheel).namelist() if '.dist-info/' not in name]
    assert names == ['ProxLSTM.py']
    program = ('import torch; from ProxLSTM import ProxLSTM, describe_solver; import ProxLSTM as m;'
               'print(ProxLSTM(3, 4)(torch.randn(5, 2, 3))[0].shape, describe_solver(), m.__file__)')
    done = subprocess.run([sys.executable, '-c', program], cwd=tmp_path, text=True, check=True,
                          stdout=subprocess.PIPE, env={'PYTHONPATH': str(wheel), 'PATH': ''})
    assert done.stdout == f'torch.Size([5, 2, 4]) PyTorch {wheel}/ProxLSTM.py\n'
