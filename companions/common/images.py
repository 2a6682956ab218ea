"""Image data sets, and a small convolutional network that classifies them.

    data = digits()  # or cifar10(folder), gtsrb(folder), mnist(folder)
    model = fit(data, lambda model: torch.optim.Adam(model.parameters(), 2e-3), epochs=20, seed=0)
    accuracy(model, data.test, data.test_labels)

The readers raise FileNotFoundError or ValueError with one sentence that names the file.
"""

import argparse
import csv
import functools
import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from support.parallel import seeded
from support.program import import_optional


class Images(NamedTuple):
    name: str
    train: torch.Tensor         # float32 [N, channels, height, width], 0 to 1
    train_labels: torch.Tensor  # int64 [N], counted from 0
    test: torch.Tensor
    test_labels: torch.Tensor

    @property
    def classes(self):
        return 1 + int(max(self.train_labels.max(), self.test_labels.max()))

    @property
    def suffix(self):
        """What the names of results' files end with: nothing for the digits."""
        return '' if self.name == 'digits' else f'_{self.name.lower().replace("-", "")}'

    def to(self, device):
        """Copy the tensors to `device`."""
        return Images(self.name, *(x.to(device) for x in self[1:]))


def digits():
    """Load scikit-learn's 1,797 digits of 8×8 pixels; a quarter of each class is the test set."""
    import_optional('sklearn', 'the digits data set')
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    data = load_digits()
    x, y = torch.tensor(data.images[:, None] / 16, dtype=torch.float32), torch.tensor(data.target)
    train, test = train_test_split(np.arange(len(y)), test_size=0.25, random_state=0, stratify=y)
    return Images('digits', x[train], y[train], x[test], y[test])


def cifar10(folder):
    """Read CIFAR-10's binary version: data_batch_1.bin to data_batch_5.bin and test_batch.bin."""
    def read(name):
        path = Path(folder) / name
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file, expected CIFAR-10's binary version")
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
        if len(content) == 0 or len(content) % 3073 or content[::3073].max() > 9:
            raise ValueError(f'{path}: not a CIFAR-10 batch, expected 3073 bytes an image')
        records = torch.tensor(content).view(-1, 3073)
        return records[:, 1:].reshape(-1, 3, 32, 32) / 255, records[:, 0].long()

    x, y = (torch.cat(parts) for parts in zip(*(read(f'data_batch_{k}.bin') for k in range(1, 6))))
    return Images('CIFAR-10', x, y, *read('test_batch.bin'))


def gtsrb(folder):
    """Read the German Traffic Sign Recognition Benchmark, signs scaled to 32×32 pixels.

    Final_Training/Images/*/GT-*.csv and Final_Test/Images/GT-final_test.csv list files and boxes.
    """
    def read(part, pattern):
        images, labels = [], []
        for table in sorted((Path(folder) / part / 'Images').glob(pattern)):
            try:
                lines = table.read_text(encoding='utf-8').splitlines()
                rows = [([int(row[f'Roi.{key}']) for key in ('X1', 'Y1', 'X2', 'Y2')],
                         int(row['ClassId']), table.parent / row['Filename'])
                        for row in csv.DictReader(lines, delimiter=';')]
            except (KeyError, TypeError, ValueError, csv.Error):
                raise ValueError(f'{table}: expected columns Filename, Roi.X1, Roi.Y1, Roi.X2, '
                                 f'Roi.Y2 and ClassId, separated by semicolons') from None
            for box, label, path in rows:
                if not (0 <= box[0] < box[2] and 0 <= box[1] < box[3] and label >= 0):
                    raise ValueError(f'{table}: {path.name} has an empty box or a ClassId below 0')
                try:
                    with Image.open(path) as image:
                        image = image.convert('RGB').crop(box).resize((32, 32), Image.BILINEAR)
                except FileNotFoundError:
                    raise FileNotFoundError(f'{path}: no such file, see {table.name}') from None
                except (OSError, ValueError) as error:
                    raise ValueError(f'{path}: damaged or not an image ({error})') from None
                images.append(np.asarray(image).transpose(2, 0, 1) / np.float32(255))
                labels.append(label)
        if not images:
            raise FileNotFoundError(f'{folder}: no images, expected {part}/Images/{pattern}')
        return torch.tensor(np.stack(images)), torch.tensor(labels)

    return Images('GTSRB', *read('Final_Training', '*/GT-*.csv'),
                  *read('Final_Test', 'GT-final_test.csv'))


def mnist(folder):
    """Read MNIST, or other data in its four files (train-images-idx3-ubyte …), plain or .gz."""
    def read(name, dimensions):
        plain = Path(folder) / name
        path = plain if plain.exists() else plain.with_name(f'{name}.gz')
        if not path.exists():
            raise FileNotFoundError(f'{plain}: no such file, nor with .gz')
        content = path.read_bytes()
        try:
            content = gzip.decompress(content) if path.suffix == '.gz' else content
        except (OSError, EOFError, zlib.error):
            raise ValueError(f'{path}: damaged, gzip cannot unpack it') from None
        # Two bytes 0, the type (8: unsigned bytes), the number of sizes, the big-endian sizes.
        start = 4 + 4 * dimensions
        sizes = np.frombuffer(content[4:start].ljust(4 * dimensions, b'\0'), dtype='>u4').tolist()
        if (content[:4] != bytes([0, 0, 8, dimensions])
                or not 0 < math.prod(sizes) == len(content) - start):
            raise ValueError(f'{path}: incomplete, or not an idx file of {dimensions}-D bytes')
        return torch.tensor(np.frombuffer(content, np.uint8, offset=start).reshape(sizes))

    def read_pair(part):
        x, y = read(f'{part}-images-idx3-ubyte', 3), read(f'{part}-labels-idx1-ubyte', 1)
        if len(x) != len(y):
            raise ValueError(f'{folder}: {len(x)} images in {part}-images-idx3-ubyte, but {len(y)} '
                             f'labels in {part}-labels-idx1-ubyte')
        return x[:, None] / 255, y.long()

    (x, y), (test_x, test_y) = read_pair('train'), read_pair('t10k')
    if x.shape[1:] != test_x.shape[1:]:
        raise ValueError(f'{folder}: training images of {x.shape[2]}×{x.shape[3]} pixels, '
                         f'test images of {test_x.shape[2]}×{test_x.shape[3]}')
    return Images('MNIST', x, y, test_x, test_y)


READERS = {'CIFAR-10': cifar10, 'GTSRB': gtsrb, 'MNIST': mnist}


@functools.cache
def load(name, folder=None):
    """Read 'digits', or one of READERS in `folder`, once per process."""
    return digits() if name == 'digits' else READERS[name](folder)


def add_data_arguments(parser, *names):
    """Add an option for each of READERS in `names`; `args.source` is then what `load` takes."""
    parser.set_defaults(source=('digits', None))
    group = parser.add_mutually_exclusive_group()
    for name in names:
        group.add_argument(f'--{name.lower().replace("-", "")}', metavar='DIR', dest='source',
                           default=argparse.SUPPRESS,
                           type=lambda folder, name=name: (name, folder),
                           help=f'{READERS[name].__doc__.splitlines()[0]} Default: the digits.')


def draw_training_set(data, per_class, wrong, seed):
    """Return `data` with a training set of `per_class` of its training images of each class.

    Of each class, a share `wrong` of the labels is replaced by labels drawn from the other classes.
    Raises ValueError if a class has fewer images. The test set stays as it is.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen, labels = [], []
    for label in range(data.classes):
        found = torch.nonzero(data.train_labels == label).flatten()
        if len(found) < per_class:
            raise ValueError(f'class {label} of {data.name} has {len(found)} training images, '
                             f'expected at least {per_class}')
        chosen.append(found[torch.randperm(len(found), generator=generator)[:per_class]])
        labels.append(torch.full((per_class,), label))
        n = round(wrong * per_class)
        labels[-1][:n] += torch.randint(1, data.classes, (n,), generator=generator)
    return data._replace(train=data.train[torch.cat(chosen)],
                         train_labels=torch.cat(labels) % data.classes)


class SmallCNN(nn.Sequential):
    """Conv 3×3 → ReLU → conv 3×3 → batch norm → ReLU → average over a 4×4 grid → linear."""

    def __init__(self, channels=1, classes=10, width=16):
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(4 * 4 * 2 * width, classes))


def fit(data, make_optimizer, epochs, seed, batch_size=64, width=16, make_model=None,
        after_epoch=None):
    """Train a network on the device of `data`; return it in evaluation mode.

    Args:
        make_optimizer: model -> an optimizer, which is stepped with a closure.
        make_model: () -> the network; default: a SmallCNN of that `width`.
        after_epoch: if given, after_epoch(model, loss) is called after every epoch, with the model
            in evaluation mode and its mean training loss in that epoch.
    """
    device = data.train.device
    with seeded(seed, device):
        model = make_model() if make_model else SmallCNN(data.train.shape[1], data.classes, width)
        model.to(device)  # created on the CPU: the same initial weights on every device
        optimizer = make_optimizer(model)
        for _ in range(epochs):
            model.train()
            total = 0.0
            for batch in torch.randperm(len(data.train)).split(batch_size):

                def closure():
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(data.train[batch]), data.train_labels[batch])
                    loss.backward()
                    return loss

                total += optimizer.step(closure).item() * len(batch)
            if after_epoch:
                after_epoch(model.eval(), total / len(data.train))
    return model.eval()


def predict_logits(model, x):
    """Compute the logits of images x, float32 [N, classes], without gradients."""
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(500)])


def accuracy(model, x, labels):
    """Return the fraction of images x that `model` classifies as `labels`."""
    return (predict_logits(model, x).argmax(1) == labels).sum().item() / len(labels)
