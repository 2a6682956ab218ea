"""Images are read as they are in the files, damaged files are named; training is reproducible."""

import gzip
import struct
import sys

import numpy as np
import pytest
import torch

from companions.common import images


def test_the_split_of_the_digits_is_fixed():
    pytest.importorskip('sklearn')
    data, again = images.digits(), images.digits()
    assert torch.equal(data.test, again.test) and len(data.train) + len(data.test) == 1797
    assert data.train.min() == 0 and data.train.max() == 1 and data.train.shape[1:] == (1, 8, 8)
    known = {x.numpy().tobytes() for x in data.train}
    assert not any(x.numpy().tobytes() in known for x in data.test)
    counts = [y.bincount() for y in (data.test_labels, data.train_labels)]
    assert ((counts[0] / sum(counts) - 0.25).abs() < 0.01).all() and data.classes == 10
    assert images.load('digits') is images.load('digits')


def test_missing_scikit_learn_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    with pytest.raises(ValueError, match='needs the package scikit-learn: python -m pip install'):
        images.digits()


def test_the_network_learns_the_same_from_the_same_seed():
    pytest.importorskip('sklearn')
    data = images.digits()

    def fit(seed):
        return images.fit(data, lambda model: torch.optim.Adam(model.parameters(), 2e-3), 2, seed)

    a, b, other = map(fit, (0, 0, 1))
    assert images.accuracy(a, data.test, data.test_labels) > 0.85 and not a.training
    logits = images.predict_logits(a, data.test)
    assert torch.equal(logits, images.predict_logits(b, data.test))
    assert not torch.equal(logits, images.predict_logits(other, data.test))


def test_every_epoch_is_reported_and_another_network_can_be_trained():
    x, y = torch.eye(4).view(4, 1, 2, 2), torch.arange(4)
    data, seen, modes = images.Images('x', x, y, x, y), [], []

    def make_model():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 4))

    def make_optimizer(model):
        model.register_forward_hook(lambda model, *_: modes.append(model.training))
        return torch.optim.SGD(model.parameters(), 0.0)

    def after_epoch(model, loss):
        assert not model.training
        seen.append(loss)

    model = images.fit(data, make_optimizer, 3, 0, 3, make_model=make_model,
                       after_epoch=after_epoch)
    assert modes == [True] * 6
    loss = torch.nn.functional.cross_entropy(model(x), y).item()  # a mean over images, not batches
    assert seen == pytest.approx([loss] * 3) and len(model) == 2


@pytest.mark.parametrize('wrong', [0.0, 0.3])
def test_a_small_training_set_is_drawn_with_wrong_labels(wrong):
    y = torch.arange(300) % 3
    data = images.Images('x', torch.arange(300.0), y, torch.arange(5.0), torch.arange(5) % 3)
    drawn = [images.draw_training_set(data, 20, wrong, seed) for seed in (0, 0, 1)]
    for found in drawn:
        true = y[found.train.long()]
        assert true.bincount().tolist() == [20] * 3 and len(found.train.unique()) == 60
        assert true[found.train_labels != true].bincount(minlength=3).tolist() == [20 * wrong] * 3
        assert torch.equal(found.test, data.test) and found.train_labels.max() == 2
    assert torch.equal(drawn[0].train, drawn[1].train)
    assert torch.equal(drawn[0].train_labels, drawn[1].train_labels)
    assert not torch.equal(drawn[0].train, drawn[2].train)
    with pytest.raises(ValueError, match='class 0 of x has 100 training images, expected at least'):
        images.draw_training_set(data, 101, wrong, 0)


def test_equal_accuracies_are_equal_numbers():
    """Settings with equal means are told apart by rounding errors otherwise: 0.9 in float32."""
    x = torch.arange(10.0)[:, None]
    model = torch.nn.Threshold(0.5, -1.0)  # one column: class 0
    assert images.accuracy(model, x, (torch.arange(10) == 0).long()) == 0.9


def test_a_data_set_moves_as_a_whole():
    data = images.Images('name', *(torch.zeros(2) for _ in range(4)))
    moved = data.to('meta')
    assert moved.name == 'name' and all(tensor.device.type == 'meta' for tensor in moved[1:])


# ------------------------------------------------------------------------------------ CIFAR-10

CIFAR10 = [*(f'data_batch_{k}.bin' for k in range(1, 6)), 'test_batch.bin']


def write_cifar10(folder, per_class):
    """Write six small batches with `per_class` images of each class; return them, uint8."""
    records = np.random.default_rng(0).integers(0, 256, (6, 10 * per_class, 3073), dtype=np.uint8)
    records[:, :, 0] = np.arange(10 * per_class) % 10
    for name, record in zip(CIFAR10, records):
        (folder / name).write_bytes(record.tobytes())
    return records


def test_cifar10_is_read_and_a_damaged_batch_named(tmp_path):
    records = write_cifar10(tmp_path, 1)
    data = images.load('CIFAR-10', tmp_path)
    assert data.train.shape == (50, 3, 32, 32) and data.train.dtype == torch.float32
    assert data.train_labels.tolist() == records[:5, :, 0].ravel().tolist()
    pixel = records[5, 1, 1 + 2 * 1024 + 3 * 32 + 4]
    assert data.test[1, 2, 3, 4].item() == pytest.approx(pixel / 255)
    (tmp_path / CIFAR10[2]).write_bytes(records[2].tobytes()[:-1])
    with pytest.raises(ValueError, match='data_batch_3.bin: not a CIFAR-10 batch'):
        images.cifar10(tmp_path)
    (tmp_path / CIFAR10[0]).unlink()
    with pytest.raises(FileNotFoundError, match='data_batch_1.bin: no such file'):
        images.cifar10(tmp_path)


# --------------------------------------------------------------------------------------- GTSRB

HEADER = 'Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n'


def write_gtsrb(folder, per_class):
    """Write two classes of `per_class` training images, and a test image of the second."""
    Image = pytest.importorskip('PIL.Image')
    for place, table, label, count in (
            ('Final_Training/Images/00000', 'GT-00000.csv', 0, per_class),
            ('Final_Training/Images/00001', 'GT-00001.csv', 1, per_class),
            ('Final_Test/Images', 'GT-final_test.csv', 1, 1)):
        path = folder / place
        path.mkdir(parents=True)
        pixels = np.zeros((20, 30, 3), dtype=np.uint8)
        pixels[5:15, 10:20] = 255, 51, 0  # the sign
        names = [f'{k:05d}.ppm' for k in range(count)]
        for name in names:
            Image.fromarray(pixels).save(path / name)
        lines = [f'{name};30;20;10;5;20;15;{label}\n' for name in names]
        (path / table).write_text(HEADER + ''.join(lines))


def test_traffic_signs_are_read_by_their_boxes(tmp_path):
    write_gtsrb(tmp_path, 1)
    data = images.gtsrb(tmp_path)
    assert data.train.shape == (2, 3, 32, 32) and data.train_labels.tolist() == [0, 1]
    assert data.test_labels.tolist() == [1]
    sign = torch.tensor([1, 0.2, 0])[:, None, None].expand(3, 32, 32)
    torch.testing.assert_close(data.test[0], sign)

    table = tmp_path / 'Final_Test/Images/GT-final_test.csv'
    (tmp_path / 'Final_Test/Images/damaged.ppm').write_bytes(b'P6 30 20 255 short')
    for content, words in (
            ('Filename,ClassId\n00000.ppm,1\n', 'GT-final_test.csv: expected columns Filename'),
            (f'{HEADER}00000.ppm;30;20;20;5;10;15;1\n', 'test.csv: 00000.ppm has an empty box'),
            (f'{HEADER}00000.ppm;30;20;10;5;20;15;-1\n', 'a ClassId below 0'),
            (f'{HEADER}9.ppm;30;20;1;1;2;2;0\n', '9.ppm: no such file'),
            (f'{HEADER}damaged.ppm;30;20;1;1;2;2;0\n', 'damaged.ppm: damaged'),
            (HEADER + '\0' * 9, 'expected columns Filename')):
        table.write_text(content)
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            images.gtsrb(tmp_path)
    with pytest.raises(FileNotFoundError, match='no images, expected'):
        images.gtsrb(tmp_path / 'nowhere')


# --------------------------------------------------------------------------------------- MNIST

def idx(values):
    return struct.pack(f'>HBB{values.ndim}I', 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_mnist(folder):
    """Write small idx files; return what they hold."""
    random, files = np.random.default_rng(0), {}
    for part, n in (('train', 7), ('t10k', 3)):
        files[f'{part}-images-idx3-ubyte'] = random.integers(0, 256, (n, 5, 4), dtype=np.uint8)
        files[f'{part}-labels-idx1-ubyte'] = random.integers(0, 10, n, dtype=np.uint8)
    for name, values in files.items():
        (folder / name).write_bytes(idx(values))
    return files


@pytest.fixture
def mnist(tmp_path):
    return tmp_path, write_mnist(tmp_path)


def test_mnist_is_read_plain_and_compressed(mnist):
    folder, files = mnist
    data = images.mnist(folder)
    assert data.train.shape == (7, 1, 5, 4) and data.test.shape == (3, 1, 5, 4)
    assert data.train.dtype == torch.float32 and data.train_labels.dtype == torch.int64
    pixel = files['train-images-idx3-ubyte'][6, 4, 3]
    assert data.train[6, 0, 4, 3].item() == pytest.approx(pixel / 255)
    assert data.test_labels.tolist() == files['t10k-labels-idx1-ubyte'].tolist()
    for name in files:
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        (folder / f'{name}.gz').write_bytes(gzip.compress(content))
    assert all(torch.equal(a, b) for a, b in zip(data[1:], images.mnist(folder)[1:]))


@pytest.mark.parametrize('name, change, words', [
    ('train-images-idx3-ubyte', lambda c: c[:-1], 'incomplete, or not an idx file of 3-D bytes'),
    ('train-images-idx3-ubyte', lambda c: c + b'0', 'not an idx file'),
    ('t10k-images-idx3-ubyte', lambda c: c[:6], 'not an idx file'),
    ('train-images-idx3-ubyte', lambda c: c[:4] + bytes(4) + c[8:16], 'not an idx file'),
    ('t10k-images-idx3-ubyte', lambda c: idx(np.zeros((3, 5, 5), np.uint8)),
     'training images of 5×4 pixels, test images of 5×5'),
    ('t10k-labels-idx1-ubyte', lambda c: c[:2] + b'\x0d' + c[3:], 'not an idx file of 1-D bytes'),
    ('train-labels-idx1-ubyte', lambda c: idx(np.zeros(6, np.uint8)),
     '7 images in train-images-idx3-ubyte, but 6 labels in train-labels-idx1-ubyte'),
    ('train-labels-idx1-ubyte', None, 'no such file, nor with .gz')])
def test_a_damaged_file_of_mnist_is_named(name, change, words, mnist):
    folder, _ = mnist
    content = (folder / name).read_bytes()
    (folder / name).unlink() if change is None else (folder / name).write_bytes(change(content))
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        images.mnist(folder)
    assert name in str(error.value) or str(folder) in str(error.value)


@pytest.mark.parametrize('damage', [lambda c: c[:-9], lambda c: c[:12] + b'???' + c[15:],
                                    lambda c: c[:-8] + bytes(8), lambda c: b'PK'])
def test_a_damaged_gz_is_named(damage, mnist):
    folder, _ = mnist
    path = folder / 'train-images-idx3-ubyte'
    path.with_name(f'{path.name}.gz').write_bytes(damage(gzip.compress(path.read_bytes())))
    path.unlink()
    with pytest.raises(ValueError, match='train-images-idx3-ubyte.gz: damaged'):
        images.mnist(folder)
