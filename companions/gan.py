"""A generative adversarial network of fully connected layers, and figures beside the eye that say what it has learnt to draw.

    python companions/gan.py                                 # digits: both losses, beta1 0.5 and 0.9, three seeds
    python companions/gan.py --loss minimax --beta1 0.5 --seeds 1
    python companions/gan.py --side 28                       # the digits enlarged, bilinearly
    python companions/gan.py --mnist DIR --epochs 10 --widths 256 1024 --seeds 1     # its four idx files, plain or .gz
    python companions/gan.py --dry-run
    python -m pytest tests/test_gan.py

The layers are those of the assignment for MNIST, their number of pixels and their widths arguments. By default scikit-learn's
digits (requirements-companions.txt), 1,347 of 8×8 pixels, and 512 hidden units in the generator where MNIST has 1,024 (that is
`--widths 256 1024`): in about the same time, 170 epochs against 80, its samples come nearer to the digits. README.md beside
this file has both, and the failure that the assignment warns of: Adam's usual beta1 of 0.9 instead of 0.5 (Radford et al.,
arXiv:1511.06434, section 4).

Only the training images are trained on, by the networks and by the classifier that judges what they draw. What is measured
of COUNT samples from fixed noise, beside the same of real images (class Judge):

    confidence            the classifier's mean largest probability, times its own accuracy on the test images
    conditional_entropy   mean entropy of its probabilities for one sample, in nats: low where each looks like some class
    marginal_entropy      entropy of its mean probabilities: ln 10 where all ten classes come up as often. The inception score
                          (Salimans et al., arXiv:1606.03498) is exp(marginal - conditional)
    total_variation       distance of the predicted classes' frequencies from uniform, 0 to 1 - 1/classes: mode collapse
    nearest               mean distance (L2, pixels 0 to 1) to the nearest training image, over that of a test image
    closer                share of samples nearer to a training image than 99 % of the test images are: memorising
    covering              mean distance of a test image to the nearest sample, over that to the nearest of COUNT training ones

A run counts as `won` by the discriminator if its loss, averaged over the last tenth of the epochs, is below WON (2 ln 2 = 1.39
where it cannot tell), and as `collapsed` if the total variation at the end is COLLAPSED or more. Written under --output-dir:
plots/gan.json, gan_samples.png, gan_curves.png and gan_figures.png.
"""

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

import images
from common import add_arguments, carry_out, complete, in_parallel, make_folders, on_one_thread
from runs import write
from training import positive, positive_int, records_json, save_figure

LOSSES = 'non-saturating', 'minimax'
COUNT = 1000      # samples that are judged
KEPT = 10         # of them drawn
WON = 0.1         # the discriminator's loss below which it has won
COLLAPSED = 0.5   # total variation from which on the generator has collapsed


# ---------------------------------------------------------------------------------------------- the two networks

def discriminator(pixels=784, width=256):
    """float [B, pixels] -> logits [B, 1] that an image is real; LeakyReLU as in Xu et al., arXiv:1505.00853, section 2.2."""
    return nn.Sequential(nn.Linear(pixels, width), nn.LeakyReLU(0.01),
                         nn.Linear(width, width), nn.LeakyReLU(0.01), nn.Linear(width, 1))


def generator(pixels=784, dimensions=96, width=1024):
    """Noise, float [B, dimensions] -> images [B, pixels] in [-1, 1]."""
    return nn.Sequential(nn.Linear(dimensions, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                         nn.Linear(width, pixels), nn.Tanh())


def uniform_noise(count, dimensions, draws):
    """float32 [count, dimensions], uniform in [-1, 1), from the torch.Generator `draws`."""
    return 2 * torch.rand(count, dimensions, generator=draws) - 1


# ---------------------------------------------------------------------------------------------- the two losses

def discriminator_loss(real, fake):
    """-E[log D(x)] - E[log(1 - D(G(z)))] of the logits of real and generated images (Goodfellow et al., arXiv:1406.2661)."""
    return (F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
            + F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake)))


def generator_loss(fake, kind='non-saturating'):
    """-E[log D(G(z))], or for 'minimax' E[log(1 - D(G(z)))], whose gradient vanishes where D is sure (the same, section 3)."""
    if kind == 'minimax':
        return -F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))


def discriminator_step(D, G, optimizer, x, z):
    """One step of D on real images x and on G(z). Returns its loss and the means of D(x) and D(G(z)), all before the step."""
    with torch.no_grad():
        fake = G(z)
    real_logits, fake_logits = D(x), D(fake)
    loss = discriminator_loss(real_logits, fake_logits)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), real_logits.sigmoid().mean().item(), fake_logits.sigmoid().mean().item()


def generator_step(D, G, optimizer, z, kind='non-saturating'):
    """One step of G; D keeps its weights, and its gradients as they were. Returns the loss before the step."""
    loss = generator_loss(D(G(z)), kind)
    optimizer.zero_grad()
    loss.backward(inputs=list(G.parameters()))
    optimizer.step()
    return loss.item()


def train(judge, loss, beta1, seed, epochs, batch_size, lr, dimensions, widths):
    """Train both networks by turns on judge.data, the discriminator first (Goodfellow et al., Algorithm 1 with k = 1).

    Everything random hangs on `seed` alone, so runs of one seed begin with the same weights and see the same
    minibatches and the same noise. Returns a record of the curves, epoch by epoch, and of the judge's figures in the epochs of
    `judged`; and pictures, float [rows, KEPT, channels, height, width] in [0, 1]: a row of samples for each of these epochs,
    and the training images nearest to the last row's.

    Raises ValueError if a loss is no longer finite.
    """
    weights, order, noise, fixed = np.random.SeedSequence(seed).generate_state(4).tolist()
    order, noise, fixed = (torch.Generator().manual_seed(s) for s in (order, noise, fixed))
    x = 2 * judge.data.train.flatten(1) - 1  # as the generator's tanh
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights)
        D, G = discriminator(x.shape[1], widths[0]), generator(x.shape[1], dimensions, widths[1])
    D_optimizer, G_optimizer = (torch.optim.Adam(m.parameters(), lr, betas=(beta1, 0.999), fused=True) for m in (D, G))
    fixed = uniform_noise(judge.count, dimensions, fixed)
    curves, evaluations, pictures = [], [], []
    for epoch in range(1, epochs + 1):
        steps = []
        for batch in torch.randperm(len(x), generator=order).split(batch_size):
            seen = discriminator_step(D, G, D_optimizer, x[batch], uniform_noise(len(batch), dimensions, noise))
            steps.append((*seen, generator_step(D, G, G_optimizer, uniform_noise(len(batch), dimensions, noise), loss)))
        curves.append(np.mean(steps, 0))
        if not np.isfinite(curves[-1]).all():
            raise ValueError(f'{loss} loss, beta1 {beta1:g}, seed {seed}: no longer finite in epoch {epoch}')
        if epoch in judged(epochs):
            with torch.no_grad():
                samples = (G(fixed).view(-1, *judge.data.train.shape[1:]) + 1) / 2
            evaluations.append({'epoch': epoch, **judge(samples)})
            pictures.append(samples[:KEPT])
    pictures.append(judge.data.train[judge.nearest(samples[:KEPT])[1]])
    names = 'discriminator_loss', 'D(x)', 'D(G(z))', 'generator_loss'
    record = {'loss': loss, 'beta1': beta1, 'seed': seed,
              **{name: curve.tolist() for name, curve in zip(names, np.transpose(curves))}, 'evaluations': evaluations}
    record |= {'won': bool(final_loss(record) < WON), 'collapsed': evaluations[-1]['total_variation'] >= COLLAPSED}
    return record, torch.stack(pictures)


def final_loss(record):
    """The discriminator's, averaged over the last tenth of the epochs."""
    losses = record['discriminator_loss']
    return np.mean(losses[-max(1, len(losses) // 10):])


def judged(epochs):
    """Seven epochs from the first to the last, closer together at the start; fewer of few epochs."""
    return sorted({round(e) for e in np.geomspace(1, epochs, 7).tolist()})


# ---------------------------------------------------------------------------------------------- figures beside the eye

class Judge:
    """What samples are held against: a classifier of the training images, these, and test images that nobody trained on.

    judge(x) of images x, float [N, channels, height, width] in [0, 1], gives a dictionary of the figures that this file begins
    with. `real` holds those of `count` test images, drawn with replacement, and of as many training images, without.
    """

    def __init__(self, data, count=COUNT, images_seen=30_000):
        self.data, self.count = data, count
        epochs = max(1, round(images_seen / len(data.train)))
        self.classifier = images.fit(data, lambda model: torch.optim.Adam(model.parameters(), 2e-3), epochs, seed=0)
        self.accuracy = images.accuracy(self.classifier, data.test, data.test_labels)
        draws = torch.Generator().manual_seed(0)
        self.held_out = data.test[torch.randint(len(data.test), (count,), generator=draws)]
        training = data.train[torch.randperm(len(data.train), generator=draws)[:count]]
        self.distances = self.nearest(self.held_out)[0]
        self.reach = distances(self.held_out, training)[0].mean()
        self.real = {'test images': {**self(self.held_out), 'covering': None}, 'training images': self(training)}

    def nearest(self, x):
        """The distance of each image to the nearest training image, and that one's number: float and int64 [N]."""
        return distances(x, self.data.train)

    def __call__(self, x):
        probabilities = images.logits(self.classifier, x).softmax(1)
        classes = probabilities.shape[1]
        frequencies = probabilities.argmax(1).bincount(minlength=classes) / len(x)
        distance = self.nearest(x)[0]
        values = {'confidence': self.accuracy * probabilities.amax(1).mean(),
                  'conditional_entropy': torch.special.entr(probabilities).sum(1).mean(),
                  'marginal_entropy': torch.special.entr(probabilities.mean(0)).sum(),
                  'total_variation': (frequencies - 1 / classes).abs().sum() / 2,
                  'nearest': distance.mean() / self.distances.mean(),
                  'closer': (distance < self.distances.quantile(0.01)).float().mean(),
                  'covering': distances(self.held_out, x)[0].mean() / self.reach}
        return {name: value.item() for name, value in values.items()}


def distances(x, others):
    """(L2 distance, number) of the nearest of `others` to each image of x, float and int64 [N]."""
    found = [torch.cdist(part.flatten(1), others.flatten(1)).min(1) for part in x.split(500)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


# ---------------------------------------------------------------------------------------------- table and figures

COLUMNS = {'confidence': 'confidence', 'conditional_entropy': 'H(y given x)', 'marginal_entropy': 'H(y)',
           'total_variation': 'total variation', 'nearest': 'nearest training image (ratio)',
           'closer': 'closer than 99 % of test images', 'covering': 'covering the test images (ratio)'}


def compared(records):
    """Their losses and their beta1."""
    return (list(dict.fromkeys(r[key] for r in records)) for key in ('loss', 'beta1'))


def table(records, real):
    """Markdown: every setting at its last epoch, how often it failed, and the paired difference to the first beta1."""
    losses, betas = compared(records)
    names = ['loss', 'beta1', 'discriminator loss', *COLUMNS.values(), f'D won (loss < {WON:g})',
             f'collapsed (total variation ≥ {COLLAPSED:g})']
    lines = [f'| {" | ".join(names)} |', '|---' * len(names) + '|']
    for loss, beta1 in itertools.product(losses, betas):
        runs, control = ([r for r in records if (r['loss'], r['beta1']) == (loss, b)] for b in (beta1, betas[0]))
        values, others = (np.array([[final_loss(r), *(r['evaluations'][-1][c] for c in COLUMNS)] for r in rs])
                          for rs in (runs, control))
        failures = [f'{sum(r[key] for r in runs)} of {len(runs)}' for key in ('won', 'collapsed')]
        lines.append(f'| {loss} | {beta1:g} | {" | ".join(map(mean_spread, values.T))} | {" | ".join(failures)} |')
        if beta1 != betas[0]:
            cells = [mean_spread(column, '+') for column in (values - others).T]
            lines.append(f'| | *minus {betas[0]:g}* | {" | ".join(cells)} | | |')
    for name, figures in real.items():
        cells = ['' if figures[c] is None else f'{figures[c]:.2f}' for c in COLUMNS]
        lines.append(f'| *{name}* | | | {" | ".join(cells)} | | |')
    return '\n'.join(lines)


def mean_spread(values, sign=''):
    """Mean ± standard deviation, of one value without."""
    return f'{np.mean(values):{sign}.2f}' + (f' ± {np.std(values, ddof=1):.2f}' if len(values) > 1 else '')


def plot_samples(path, data, records, pictures):
    """A panel a setting: samples from one noise, a row an epoch; at the bottom the training images nearest to the last."""
    figure = Figure(figsize=(11, 9.5), layout='constrained')
    losses, betas = compared(records)
    height = data.train.shape[2]
    for ax, (record, rows) in zip(figure.subplots(len(losses), len(betas), squeeze=False).ravel(), zip(records, pictures)):
        tiles = F.pad(rows[:, :, 0], (0, 1, 0, 1), value=0.5).permute(0, 2, 1, 3)  # with a line between them
        ax.imshow(tiles.flatten(2).flatten(0, 1).numpy(), cmap='gray_r', vmin=0, vmax=1)
        labels = [*(f'epoch {e["epoch"]}' for e in record['evaluations']), 'nearest\nof training']
        ax.set_yticks([(k + 0.5) * (height + 1) - 1 for k in range(len(labels))], labels, fontsize=8)
        ax.set(xticks=[], title=f'{record["loss"]}, beta1 {record["beta1"]:g}')
    figure.suptitle(f'{data.name}: samples from fixed noise, seed {records[0]["seed"]}')
    save_figure(path, figure)


def plot_curves(path, records):
    """Both losses and D's mean answers against the epoch, a column a loss, a colour a beta1, a line a seed."""
    losses, betas = compared(records)
    figure = Figure(figsize=(3 + 5 * len(losses), 10), layout='constrained')
    axes = figure.subplots(3, len(losses), sharex=True, squeeze=False)
    for record in records:
        column, k = losses.index(record['loss']), betas.index(record['beta1'])
        epochs = range(1, len(record['D(x)']) + 1)
        for row, name, style in ((0, 'discriminator_loss', '-'), (1, 'generator_loss', '-'), (2, 'D(x)', '-'),
                                 (2, 'D(G(z))', ':')):
            label = f'beta1 {record["beta1"]:g}' + (f', {name}' if row == 2 else '')
            axes[row, column].plot(epochs, record[name], style, color=f'C{k}', linewidth=1,
                                   label=label if record['seed'] == records[0]['seed'] else None)
    for ax, loss in zip(axes[0], losses):
        ax.axhline(2 * math.log(2), color='black', linewidth=0.8, linestyle='--', label='2 ln 2: cannot tell')
        ax.axhline(WON, color='black', linewidth=0.8, linestyle=':', label=f'{WON:g}: has won')
        ax.set(yscale='log', title=f'{loss} loss')
    for ax, name in zip(axes[:, 0], ("discriminator's loss", "generator's loss", "the discriminator's mean answer")):
        ax.set_ylabel(name)
    for ax in axes.ravel():
        ax.grid(alpha=0.3)
    for ax in axes[:, -1]:
        ax.legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize=8)
    for ax in axes[-1]:
        ax.set_xlabel('epoch')
    save_figure(path, figure)


def plot_figures(path, records, real):
    """Every figure of the judge against the epoch, mean ± standard deviation over seeds, beside that of real images."""
    losses, betas = compared(records)
    figure = Figure(figsize=(16, 8), layout='constrained')
    axes = figure.subplots(2, 4).ravel()
    for ax, (key, name) in zip(axes, COLUMNS.items()):
        for loss, beta1 in itertools.product(losses, betas):
            runs = [r['evaluations'] for r in records if (r['loss'], r['beta1']) == (loss, beta1)]
            y = np.array([[e[key] for e in run] for run in runs])
            deviation = y.std(0, ddof=1) if len(y) > 1 else np.zeros(y.shape[1])
            ax.errorbar([e['epoch'] for e in runs[0]], y.mean(0), deviation, fmt='o-' if loss == LOSSES[0] else 's--',
                        color=f'C{betas.index(beta1)}', capsize=3, markersize=4, label=f'{loss}, beta1 {beta1:g}')
        for (kind, figures), style in zip(real.items(), ('-', ':')):
            if figures[key] is not None:
                ax.axhline(figures[key], color='black', linewidth=0.8, linestyle=style, label=kind)
        ax.set(title=name, xlabel='epoch')
        ax.grid(alpha=0.3)
    axes[-1].axis('off')
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc='center')
    save_figure(path, figure)


# ---------------------------------------------------------------------------------------------- the command line

def enlarged(data, side):
    """The images at `side`×`side` pixels, interpolated bilinearly."""
    size = {'size': (side, side), 'mode': 'bilinear', 'antialias': True}
    return data._replace(train=F.interpolate(data.train, **size), test=F.interpolate(data.test, **size))


def share(text):
    value = float(text)
    if not 0 <= value < 1:
        raise ValueError
    return value


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='A generative adversarial network, and what it learns to draw.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_arguments(parser)
    parser.add_argument('--mnist', type=Path, metavar='DIR', default=argparse.SUPPRESS,
                        help="MNIST in this folder, in its four idx files, plain or .gz (default: scikit-learn's digits)")
    parser.add_argument('--side', type=positive_int, default=argparse.SUPPRESS, help='enlarge images to so many pixels a side')
    parser.add_argument('--loss', nargs='+', choices=LOSSES, default=LOSSES, help="the generator's")
    parser.add_argument('--beta1', nargs='+', type=share, default=(0.5, 0.9),
                        help="Adam's; the others are compared with the first")
    parser.add_argument('--lr', type=positive, default=1e-3, help="Adam's learning rate")
    parser.add_argument('--epochs', type=positive_int, default=170)
    parser.add_argument('--batch-size', type=positive_int, default=128)
    parser.add_argument('--dimensions', type=positive_int, default=96, help='of the noise')
    parser.add_argument('--widths', nargs=2, type=positive_int, default=(256, 512), metavar=('D', 'G'),
                        help='of the hidden layers of discriminator and generator')
    args = parser.parse_args(argv)
    args.mnist, args.side = getattr(args, 'mnist', None), getattr(args, 'side', None)
    args.loss, args.beta1 = list(dict.fromkeys(args.loss)), list(dict.fromkeys(args.beta1))
    if args.dry_run:
        args.seeds, args.epochs = 1, 2
    complete(args)
    return parser, args


def compare(args):
    make_folders(args)
    data = images.mnist(args.mnist) if args.mnist else images.digits()
    if args.side:
        data = enlarged(data, args.side)
    judge = on_one_thread(Judge, {'data': data, **({'count': 100, 'images_seen': 0} if args.dry_run else {})})
    shared = {'epochs': args.epochs, 'batch_size': args.batch_size, 'lr': args.lr, 'dimensions': args.dimensions,
              'widths': args.widths}
    tasks = [{'judge': judge, 'loss': loss, 'beta1': beta1, 'seed': seed, **shared}
             for seed in range(args.seeds) for loss in args.loss for beta1 in args.beta1]
    records, pictures = zip(*in_parallel(args.jobs, train, tasks, data.name))
    plots = args.output_dir / 'plots'
    header = {'data': data.name, 'pixels': data.train[0].numel(), **shared, 'samples': judge.count,
              'classifier_accuracy': judge.accuracy, 'real': judge.real}
    write(plots / 'gan.json', records_json(header, records))
    plot_samples(plots / 'gan_samples.png', data, records[:len(args.loss) * len(args.beta1)], pictures)
    plot_curves(plots / 'gan_curves.png', records)
    plot_figures(plots / 'gan_figures.png', records, judge.real)
    print(f'\n{table(records, judge.real)}\n\nThe classifier is right about {100 * judge.accuracy:.1f} % of the test images.')


def main():
    parser, args = get_args()
    carry_out(parser, compare, args)
    print(f'\nWritten to {args.output_dir / "plots"}')


if __name__ == '__main__':
    main()
