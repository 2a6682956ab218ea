"""The companions' programs in little, and the images that they read.

    pip install -r requirements.txt -r requirements-companions.txt
    python -m pytest tests/test_companions.py
"""

import importlib
import inspect
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('sklearn')
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / 'companions'))

import amp  # noqa: E402
import attacks  # noqa: E402
import images  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')


# ---------------------------------------------------------------------------------------------- images

def test_the_digits_are_parted_once_and_for_all():
    data, again = images.digits(), images.digits()
    assert torch.equal(data.test, again.test) and len(data.train) + len(data.test) == 1797
    assert data.train.min() == 0 and data.train.max() == 1 and data.train.shape[1:] == (1, 8, 8)
    known = {x.numpy().tobytes() for x in data.train}
    assert not any(x.numpy().tobytes() in known for x in data.test)
    shares = data.test_labels.bincount() / (data.test_labels.bincount() + data.train_labels.bincount())
    assert ((shares - 0.25).abs() < 0.01).all()


def test_the_network_learns_the_same_from_the_same_seed():
    data = images.digits()
    a, b, other = (images.fit(data, lambda model: torch.optim.Adam(model.parameters(), 2e-3), 2, seed) for seed in (0, 0, 1))
    assert images.accuracy(a, data.test, data.test_labels) > 0.85
    assert torch.equal(images.logits(a, data.test), images.logits(b, data.test))
    assert not torch.equal(images.logits(a, data.test), images.logits(other, data.test))


CIFAR10 = [*(f'data_batch_{k}.bin' for k in range(1, 6)), 'test_batch.bin']


def write_cifar10(folder, count):
    records = np.random.default_rng(0).integers(0, 256, (6, count, 3073), dtype=np.uint8)
    records[:, :, 0] %= 10
    for name, record in zip(CIFAR10, records):
        (folder / name).write_bytes(record.tobytes())
    return records


def test_cifar10_is_read_and_a_damaged_batch_named(tmp_path):
    records = write_cifar10(tmp_path, 2)
    data = images.cifar10(tmp_path)
    assert data.train.shape == (10, 3, 32, 32) and data.train.dtype == torch.float32
    assert data.train_labels.tolist() == records[:5, :, 0].ravel().tolist()
    assert data.test[1, 2, 3, 4].item() == pytest.approx(records[5, 1, 1 + 2 * 1024 + 3 * 32 + 4] / 255)
    (tmp_path / CIFAR10[2]).write_bytes(records[2].tobytes()[:-1])
    with pytest.raises(ValueError, match='data_batch_3.bin: not a CIFAR-10 batch'):
        images.cifar10(tmp_path)
    (tmp_path / CIFAR10[0]).unlink()
    with pytest.raises(FileNotFoundError, match='data_batch_1.bin: no such file'):
        images.cifar10(tmp_path)


def test_traffic_signs_are_read_by_their_boxes(tmp_path):
    from PIL import Image
    header = 'Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n'
    for folder, table, label in (('Final_Training/Images/00000', 'GT-00000.csv', 0),
                                 ('Final_Training/Images/00001', 'GT-00001.csv', 1),
                                 ('Final_Test/Images', 'GT-final_test.csv', 1)):
        path = tmp_path / folder
        path.mkdir(parents=True)
        pixels = np.zeros((20, 30, 3), dtype=np.uint8)
        pixels[5:15, 10:20] = 255, 51, 0  # the sign
        Image.fromarray(pixels).save(path / '00000.ppm')
        (path / table).write_text(f'{header}00000.ppm;30;20;10;5;20;15;{label}\n')
    data = images.gtsrb(tmp_path)
    assert data.train.shape == (2, 3, 32, 32) and data.train_labels.tolist() == [0, 1] and data.test_labels.tolist() == [1]
    torch.testing.assert_close(data.test[0], torch.tensor([1, 0.2, 0])[:, None, None].expand(3, 32, 32))
    (tmp_path / 'Final_Test/Images/GT-final_test.csv').write_text('Filename,ClassId\n00000.ppm,1\n')
    with pytest.raises(ValueError, match='GT-final_test.csv: expected columns Filename'):
        images.gtsrb(tmp_path)
    table = tmp_path / 'Final_Test/Images/GT-final_test.csv'
    for row, words in (('00000.ppm;30;20;20;5;10;15;1', 'GT-final_test.csv: 00000.ppm has an empty box'),
                       ('00000.ppm;30;20;10;5;20;15;-1', 'a ClassId below 0'), ('9.ppm;30;20;1;1;2;2;0', '9.ppm: no such file'),
                       ('damaged.ppm;30;20;1;1;2;2;0', 'damaged.ppm: damaged'), ('\0' * 9, 'expected columns Filename')):
        (tmp_path / 'Final_Test/Images/damaged.ppm').write_bytes(b'P6 30 20 255 short')
        table.write_text(f'{header}{row}\n')
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            images.gtsrb(tmp_path)
    with pytest.raises(FileNotFoundError, match='no images, expected'):
        images.gtsrb(tmp_path / 'nowhere')


# ---------------------------------------------------------------------------------------------- programs

def program(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, 'argv', [f'{module.__name__}.py', *map(str, arguments)])
    module.main()


@pytest.mark.parametrize('name', ['amp', 'attacks', 'best', 'embeddings', 'gan', 'word2vec'])
def test_every_function_can_be_sent_to_another_process(name):
    """As it is when the file is the program: its code by value, with whatever of torch it seems to name."""
    cloudpickle, module = pytest.importorskip('cloudpickle'), importlib.import_module(name)
    cloudpickle.register_pickle_by_value(module)
    try:
        for _, function in inspect.getmembers(module, lambda x: inspect.isfunction(x) and x.__module__ == name):
            assert cloudpickle.loads(cloudpickle.dumps(function)) is not function
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def test_attacks_in_little(tmp_path, monkeypatch, capsys):
    program(monkeypatch, attacks, '--dry-run', '--jobs', 1, '--output-dir', tmp_path)
    out = capsys.readouterr().out
    written = {name: json.loads((tmp_path / 'plots' / f'attacks_{name}.json').read_text())['runs']
               for name in ('images', 'sequences')}
    assert attacks.images_table(written['images']) in out and attacks.masking_table(written['sequences']) in out
    assert all(attacks.sequences_table(written['sequences'], on) in out for on in ('raw', 'normalised'))
    assert {r['model'] for r in written['sequences']} == {*attacks.MODELS, *attacks.CONTROLS}
    assert {path.name for path in (tmp_path / 'plots').glob('*.png')} == {
        'attacks_images.png', 'attacks_samples.png', 'attacks_smallest.png', 'attacks_sequences.png'}


def test_attacks_on_cifar10_where_nobody_reads(tmp_path, monkeypatch, capsys):
    write_cifar10(tmp_path, 12)
    program(monkeypatch, attacks, 'images', '--cifar10', tmp_path, '--dry-run', '--jobs', 1, '--output-dir', tmp_path, '--width', 1)
    records = json.loads((tmp_path / 'plots' / 'attacks_images.json').read_text())['runs']
    out = capsys.readouterr().out
    assert attacks.images_table(records) in out and 'nan' not in out and 'L∞ | PGD' in out
    assert {r['epsilon'] for r in records if r['meaning'] == 'L∞'} == {k / 255 for k in (1, 2, 4, 8, 16)}


@pytest.mark.parametrize('tuned', [False, True])
def test_amp_in_little(tuned, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(amp, 'CANDIDATES', [{'epsilon': 0.0}, {'epsilon': 0.1, 'inner_lr': math.inf}])
    program(monkeypatch, amp, '--dry-run', '--jobs', 1, '--output-dir', tmp_path, *['--tune'] * tuned)
    out = capsys.readouterr().out
    records = json.loads((tmp_path / 'plots' / ('tune_amp.json' if tuned else 'amp.json')).read_text())['runs']
    table = amp.tuning_table if tuned else amp.comparison_table
    assert {r['job'] for r in records} == {'sequences', 'digits'}
    assert all(table(records, job) in out for job in ('sequences', 'digits'))
    assert tuned or (tmp_path / 'plots' / 'amp.png').exists()
