"""Small images for the companions, and a small network that tells them apart.

    data = digits()                      # scikit-learn's 1,797 handwritten digits, 8×8 (requirements-companions.txt)
    data = cifar10('cifar-10-batches-bin')
    data = gtsrb('GTSRB')                # traffic signs
    data = mnist('MNIST')                # or anything else in its four idx files
    model = fit(data, lambda model: torch.optim.Adam(model.parameters(), 2e-3), epochs=20, seed=0)
    accuracy(model, data.test, data.test_labels)
"""

import csv
import functools
import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


class Images(NamedTuple):
    name: str
    train: torch.Tensor         # float32 [N, channels, height, width], 0 to 1
    train_labels: torch.Tensor  # int64 [N], counted from 0
    test: torch.Tensor
    test_labels: torch.Tensor

    @property
    def classes(self):
        return 1 + int(max(self.train_labels.max(), self.test_labels.max()))


# ---------------------------------------------------------------------------------------------- data

def digits():
    """scikit-learn's digits, a quarter of each class for the test; always the same one. Raises ValueError without sklearn."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ModuleNotFoundError:
        raise ValueError('the digits need the package scikit-learn: '
                         'python -m pip install -r requirements-companions.txt') from None
    data = load_digits()
    x, y = torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)
    train, test = train_test_split(np.arange(len(y)), test_size=0.25, random_state=0, stratify=y)
    return Images('digits', x[train], y[train], x[test], y[test])


def cifar10(folder):
    """CIFAR-10's binary version: data_batch_1.bin to data_batch_5.bin and test_batch.bin, 3073 bytes an image.

    Raises FileNotFoundError or ValueError with one sentence that names the file.
    """
    def read(name):
        path = Path(folder) / name
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file, expected CIFAR-10's binary version (cifar-10-binary.tar.gz)")
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        if len(content) == 0 or len(content) % 3073 or content[::3073].max() > 9:
            raise ValueError(f'{path}: not a CIFAR-10 batch, expected records of a label, 0 to 9, and 3072 bytes of image')
        records = content.reshape(-1, 3073)
        return torch.tensor(records[:, 1:].reshape(-1, 3, 32, 32) / np.float32(255)), torch.tensor(records[:, 0]).long()

    x, y = (torch.cat(parts) for parts in zip(*(read(f'data_batch_{k}.bin') for k in range(1, 6))))
    return Images('CIFAR-10', x, y, *read('test_batch.bin'))


def gtsrb(folder, side=32):
    """The German Traffic Sign Recognition Benchmark, each sign cut out by its box and scaled to `side`×`side` pixels.

    Reads Final_Training/Images/*/GT-*.csv and Final_Test/Images/GT-final_test.csv with the .ppm files they name. Raises
    FileNotFoundError or ValueError with one sentence that names the file.
    """
    from PIL import Image

    def read(tables, wanted):
        images, labels = [], []
        for table in tables:
            with open(table, newline='', encoding='utf-8') as lines:
                try:
                    rows = [([int(row[f'Roi.{key}']) for key in ('X1', 'Y1', 'X2', 'Y2')], int(row['ClassId']),
                             table.parent / row['Filename']) for row in csv.DictReader(lines, delimiter=';')]
                except (KeyError, TypeError, ValueError, csv.Error):
                    raise ValueError(f'{table}: expected columns Filename, Roi.X1, Roi.Y1, Roi.X2, Roi.Y2 and ClassId, '
                                     f'the last five whole numbers, separated by semicolons') from None
            for (left, upper, right, lower), label, path in rows:
                if not (0 <= left < right and 0 <= upper < lower and label >= 0):
                    raise ValueError(f'{table}: {path.name} has an empty box or a ClassId below 0')
                try:
                    with Image.open(path) as image:
                        image = image.convert('RGB').crop((left, upper, right, lower))
                        image = image.resize((side, side), Image.Resampling.BILINEAR)
                except FileNotFoundError:
                    raise FileNotFoundError(f'{path}: no such file, but {table.name} names it') from None
                except (OSError, ValueError) as error:
                    raise ValueError(f'{path}: damaged or not an image ({error})') from None
                images.append(np.asarray(image).transpose(2, 0, 1) / np.float32(255))
                labels.append(label)
        if not images:
            raise FileNotFoundError(f'{folder}: no images, expected {wanted}')
        return torch.tensor(np.stack(images)), torch.tensor(labels)

    training, final = Path(folder) / 'Final_Training' / 'Images', Path(folder) / 'Final_Test' / 'Images'
    return Images('GTSRB', *read(sorted(training.glob('*/GT-*.csv')), f'{training}/*/GT-*.csv'),
                  *read(sorted(final.glob('GT-final_test.csv')), f'{final}/GT-final_test.csv'))


def mnist(folder):
    """MNIST's four idx files, each plain or .gz: train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k.

    Raises FileNotFoundError or ValueError with one sentence that names the file.
    """
    def read(name, dimensions):
        plain = Path(folder) / name
        path = plain if plain.exists() else plain.with_name(f'{name}.gz')
        if not path.exists():
            raise FileNotFoundError(f"{plain}: no such file, nor with .gz, expected one of MNIST's four idx files")
        content = path.read_bytes()
        try:
            content = gzip.decompress(content) if path.suffix == '.gz' else content
        except (OSError, EOFError, zlib.error):
            raise ValueError(f'{path}: damaged, gzip cannot unpack it') from None
        # Two bytes 0, one for the type (8: unsigned bytes), one for the number of sizes; the sizes, big-endian; the values.
        start = 4 + 4 * dimensions
        sizes = np.frombuffer(content[4:start].ljust(4 * dimensions, b'\0'), dtype='>u4').tolist()
        if content[:4] != bytes([0, 0, 8, dimensions]) or not 0 < math.prod(sizes) == len(content) - start:
            raise ValueError(f'{path}: not an idx file of unsigned bytes in {dimensions} dimension{"s" * (dimensions > 1)}, '
                             f'or not all of it')
        return torch.tensor(np.frombuffer(content, dtype=np.uint8, offset=start).reshape(sizes)), path

    def pair(part):
        (x, images_path), (y, path) = read(f'{part}-images-idx3-ubyte', 3), read(f'{part}-labels-idx1-ubyte', 1)
        if len(x) != len(y):
            raise ValueError(f'{path}: {len(y)} labels, but {len(x)} images in {images_path.name}')
        return x[:, None] / 255, y.long()

    (x, y), (test_x, test_y) = pair('train'), pair('t10k')
    if x.shape[1:] != test_x.shape[1:]:
        raise ValueError(f'{folder}: images of {x.shape[2]}×{x.shape[3]} pixels for training, of '
                         f'{test_x.shape[2]}×{test_x.shape[3]} for the test')
    return Images('MNIST', x, y, test_x, test_y)


@functools.cache
def load(name, folder=None):
    """'digits', or 'CIFAR-10' or 'GTSRB' in a folder; a process reads it once."""
    return {'digits': lambda _: digits(), 'CIFAR-10': cifar10, 'GTSRB': gtsrb}[name](folder)


# ---------------------------------------------------------------------------------------------- network

class SmallCNN(nn.Module):
    """Conv 3×3 → ReLU → conv 3×3 → batch norm → ReLU → average over a 4×4 grid → linear."""

    def __init__(self, channels=1, classes=10, width=16):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(4 * 4 * 2 * width, classes))

    def forward(self, x):
        return self.layers(x)


def fit(data, make_optimizer, epochs, seed, batch_size=64, width=16):
    """Train a SmallCNN: `make_optimizer(model)` makes what steps by a closure. Returns it, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SmallCNN(data.train.shape[1], data.classes, width)
        optimizer = make_optimizer(model)
        for _ in range(epochs):
            for batch in torch.randperm(len(data.train)).split(batch_size):

                def closure():
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(data.train[batch]), data.train_labels[batch])
                    loss.backward()
                    return loss

                optimizer.step(closure)
    return model.eval()


def logits(model, x, batch_size=500):
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(batch_size)])


def accuracy(model, x, labels):
    return (logits(model, x).argmax(1) == labels).float().mean().item()
