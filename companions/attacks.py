"""Gradient attacks on any classifier, and who stands them: images against epsilon, and every model of the assignment.

    python companions/attacks.py                        # both jobs: digits, then the sequence classifiers
    python companions/attacks.py images                 # accuracy against epsilon, and pictures, on scikit-learn's digits
    python companions/attacks.py images --cifar10 DIR   # … on CIFAR-10, binary version
    python companions/attacks.py sequences --seeds 8    # base, Adv, Prox, their controls, AMP, SAM, the best recipe
    python companions/attacks.py --dry-run
    python -m pytest tests/test_attacks.py

An attack is a function (model, input, …) -> perturbed input. `model` is any callable that takes `input`, float [B, …], to
logits [B, C] and treats the samples of a batch apart from each other, so a torch module must be in evaluation mode; what
else it needs, bind: `lambda x: classifier(x, lengths)`. Common arguments:

    epsilon       how far; in the units of `input`, but for norm None
    norm          of what: 2 (Euclidean, over all entries of a sample), math.inf (the largest entry), or, for `one_shot` and
                  `iterated`, None: a step is epsilon times the gradient as it is, which is the assignment's way
    labels        int64 [B], the true classes
    mask          bool, broadcastable to `input`: the entries that may change, say those that are no padding
    valid_range   (low, high) that every entry which may change keeps within, as it must to begin with; None: no bounds
    generator     a torch.Generator of the CPU, whatever device `input` is on

What comes back is a constant, and no gradient reaches the model's parameters. ValueError where an argument is not as above.

The digits need requirements-companions.txt. Written under --output-dir:
plots/attacks_*.png and .json; models come from checkpoints/ or are trained into checkpoints/companions/.
"""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

import best
import images
from common import (MODELS, UCI_PATH, add_arguments, assignment_models, carry_out, complete, data_digests, in_parallel,
                    make_folders, obtained)
from Classifier import LSTMClassifier
from load_data import load_data, sequences_of, targets_of
from runs import write
from training import EVALUATION_BATCH, positive_int, records_json, save_figure, spread


# ---------------------------------------------------------------------------------------------- one step

def fgsm(model, input, labels, epsilon, *, norm=math.inf, mask=None, valid_range=None):
    """One step up the loss of the true class: x + ε sign(∇ℓ) for norm inf (Goodfellow et al., arXiv:1412.6572, section 4)."""
    input, mask = prepared(input, norm, mask, valid_range)
    g, _ = ascent(model, input, labels)
    return limit(input + epsilon * direction(g, norm, mask), input, None, norm, mask, valid_range)


def one_shot(model, input, epsilon, *, norm=None, mask=None, valid_range=None):
    """One step down the loss of the class that the model thinks least likely (Kurakin et al., arXiv:1611.01236, section 2)."""
    input, mask = prepared(input, norm, mask, valid_range, raw=True)
    g, _ = ascent(model, input, least_likely(model, input))
    return limit(input - epsilon * direction(g, norm, mask), input, None, norm, mask, valid_range)


def prepared(input, norm, mask, valid_range, raw=False):
    """(input without its graph, mask of its shape or None); ValueError if anything is not as the head of this file says."""
    if norm not in (2, math.inf) and not (raw and norm is None):
        raise ValueError(f'norm is {norm!r}, expected 2 or math.inf{", or None" if raw else ""}')
    input, mask = input.detach(), None if mask is None else mask.expand_as(input)
    if valid_range is not None:
        low, high = valid_range
        values = input if mask is None else input[mask]
        if values.numel() and not (values.min() >= low and values.max() <= high):
            raise ValueError(f'valid_range is {low:g} to {high:g}, but the input goes from {values.min():g} to '
                             f'{values.max():g}')
    return input, mask


def least_likely(model, input):
    """The class of the smallest logit, int64 [B]."""
    with torch.no_grad():
        return model(input).argmin(1)


def ascent(model, input, classes):
    """(g, logits): the gradient of each sample's cross-entropy for `classes` with respect to `input`, and [B, C]."""
    x = input.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(x)
        # In float32 p of a confident sample's class rounds to 1, so that p − 1, its logit's part of the gradient, is lost.
        loss = F.cross_entropy(logits.double(), classes, reduction='sum')
    return torch.autograd.grad(loss, x)[0], logits.detach()


def direction(g, norm, mask=None):
    """The step of size 1 in `norm` along which g rises fastest, zero where `mask` forbids; g itself for norm None."""
    if mask is not None:
        g = torch.where(mask, g, 0)
    if norm is None:
        return g
    if norm == math.inf:
        return g.sign()
    return unit(g)


def unit(g):
    """Each sample of g [B, …] divided by its L2 norm; zero stays zero."""
    peak = per_sample(size(g, math.inf), g)
    g = torch.where(peak > 0, g / peak, 0)  # first, because the squares of a small gradient would underflow
    return torch.where(peak > 0, g / per_sample(size(g, 2), g), 0)


def size(delta, norm):
    """The norm of each sample of delta [B, …]: float [B]."""
    return torch.linalg.vector_norm(delta.flatten(1), norm, dim=1)


def per_sample(values, x):
    """values [B], shaped to be broadcast over x [B, …]."""
    return values.view(-1, *[1] * (x.dim() - 1))


def limit(x, input, radius, norm, mask, valid_range):
    """x, brought back to within `radius` (None: anything goes) of `input`, into `valid_range`, and to `input` off the mask."""
    if radius is not None:
        delta = x - input
        if norm == math.inf:
            delta = delta.clamp(-radius, radius)
        else:
            delta = delta * per_sample((radius / size(delta, norm).clamp(min=1e-30)).clamp(max=1), x)
        x = input + delta
    if valid_range is not None:
        x = x.clamp(*valid_range)
    return x if mask is None else torch.where(mask, x, input)


# ---------------------------------------------------------------------------------------------- many steps

def iterated(model, input, labels, epsilon, steps=10, *, radius=None, norm=None, mask=None, valid_range=None,
             retarget=False, stop=True):
    """`one_shot` up to `steps` times, towards the class that was least likely at the start.

    Without `radius` nothing is projected, as in the assignment: `epsilon` is a step's, and the whole may be `steps` times
    as far. With it, and a norm, the whole stays within `radius`. With `stop` a sample goes no further once it is no longer
    taken for its own class. `retarget` looks the class up anew at every step, as a loop around `one_shot` would; what one step
    has made less unlikely the next then abandons.
    """
    input, mask = prepared(input, norm, mask, valid_range, raw=radius is None)
    target = least_likely(model, input)
    x = input
    for _ in range(steps):
        g, logits = ascent(model, x, least_likely(model, x) if retarget else target)
        moved = limit(x - epsilon * direction(g, norm, mask), input, radius, norm, mask, valid_range)
        x = where_standing(logits, labels, moved, x) if stop else moved
    return x


def pgd(model, input, labels, epsilon, steps=20, step_size=None, *, norm=math.inf, mask=None, valid_range=None,
        generator=None, stop=True):
    """Projected gradient ascent on the loss of the true class (Madry et al., arXiv:1706.06083): the whole within `epsilon`.

    `step_size` is 2.5 epsilon / steps unless given. With `generator` it starts elsewhere in the ball, at `noise` of a random
    size. With `stop` a sample goes no further once it is no longer taken for its own class, and one that never was is not
    moved.
    """
    input, mask = prepared(input, norm, mask, valid_range)
    step_size = 2.5 * epsilon / max(steps, 1) if step_size is None else step_size
    x = input
    if generator is not None:
        away = noise(input, 1, norm=norm, mask=mask, generator=generator) - input
        part = epsilon * per_sample(torch.rand(len(input), generator=generator).to(input), input)
        start = limit(input + part * away, input, epsilon, norm, mask, valid_range)
        x = where_standing(ascent(model, input, labels)[1], labels, start, input) if stop else start
    for _ in range(steps):
        g, logits = ascent(model, x, labels)
        moved = limit(x + step_size * direction(g, norm, mask), input, epsilon, norm, mask, valid_range)
        x = where_standing(logits, labels, moved, x) if stop else moved
    return x


def few_pixels(model, input, labels, pixels, *, valid_range, mask=None):
    """At most `pixels` entries set to an end of `valid_range`, one after the other, each the one that promises most (L0).

    After the saliency maps of Papernot et al., arXiv:1511.07528: what an entry promises is its gradient times its way.
    """
    input, mask = prepared(input, 2, mask, valid_range)
    low, high = (torch.full_like(input, end) for end in valid_range)
    free = torch.ones_like(input, dtype=torch.bool) if mask is None else mask
    x = input
    for _ in range(pixels):
        g, logits = ascent(model, x, labels)
        end = torch.where(g > 0, high, low)
        promise = torch.where(free, g * (end - x), -1).flatten(1)
        chosen = F.one_hot(promise.argmax(1), promise.shape[1]).bool().view_as(x) & free
        x = where_standing(logits, labels, torch.where(chosen, end, x), x)
    return x


def noise(input, epsilon, *, norm=math.inf, mask=None, valid_range=None, generator=None):
    """No attack: a random direction of size `epsilon`, uniform on the sphere (norm 2) or among the cube's corners (inf)."""
    input, mask = prepared(input, norm, mask, valid_range)
    z = torch.randn(input.shape, generator=generator).to(input)
    return limit(input + epsilon * direction(z, norm, mask), input, None, norm, mask, valid_range)


def where_standing(logits, labels, moved, x):
    """`moved` for the samples that are still taken for their own class, x for the others."""
    standing = logits.argmax(1) == labels
    return torch.where(per_sample(standing, x), moved, x)


# ---------------------------------------------------------------------------------------------- images

# By what ε means: the attacks, functions of model, x, labels and ε, where a pixel goes from 0 to 1.
BOX = {'valid_range': (0, 1)}
ATTACKS = {
    'step': {
        'one-shot': lambda m, x, y, e: one_shot(m, x, e, **BOX),
        'iterated': lambda m, x, y, e: iterated(m, x, y, e, **BOX),
        'iterated, class looked up anew': lambda m, x, y, e: iterated(m, x, y, e, retarget=True, **BOX)},
    'L2': {
        'one-shot': lambda m, x, y, e: one_shot(m, x, e, norm=2, **BOX),
        'iterated': lambda m, x, y, e: iterated(m, x, y, e / 4, radius=e, norm=2, **BOX),
        'FGM': lambda m, x, y, e: fgsm(m, x, y, e, norm=2, **BOX),
        'PGD': lambda m, x, y, e: pgd(m, x, y, e, 10, norm=2, **BOX),
        'noise': lambda m, x, y, e: noise(x, e, norm=2, generator=torch.Generator().manual_seed(0), **BOX)},
    'L∞': {
        'one-shot': lambda m, x, y, e: one_shot(m, x, e, norm=math.inf, **BOX),
        'iterated': lambda m, x, y, e: iterated(m, x, y, e / 4, radius=e, norm=math.inf, **BOX),
        'FGSM': lambda m, x, y, e: fgsm(m, x, y, e, **BOX),
        'PGD': lambda m, x, y, e: pgd(m, x, y, e, 10, **BOX),
        'noise': lambda m, x, y, e: noise(x, e, generator=torch.Generator().manual_seed(0), **BOX)},
    'L0': {
        'few pixels': lambda m, x, y, e: few_pixels(m, x, y, e, **BOX)}}
MEANING = {'step': 'ε, by which a step multiplies the gradient', 'L2': 'bound on the whole change, L2',
           'L∞': 'bound on the whole change of a pixel (L∞)', 'L0': 'bound on the number of changed pixels (L0)'}
GRIDS = {
    'digits': {'step': (0.0025, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2), 'L2': (0.125, 0.25, 0.5, 0.75, 1, 1.5, 2, 3),
               'L∞': (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4), 'L0': (1, 2, 3, 4, 6, 8)},
    'CIFAR-10': {'step': (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1), 'L2': (0.05, 0.1, 0.25, 0.5, 1, 2),
                 'L∞': tuple(k / 255 for k in (1, 2, 4, 8, 16)), 'L0': (1, 2, 4, 8, 16, 32)}}
READABLE, ENOUGH = 0.95, 0.05  # shares of the pictures: still legible; still right where an attack has done its work


def train_and_attack(source, seed, epochs, width, count):
    """A network trained on images.load(*source), and records of its attacks on the first `count` test images."""
    data = images.load(*source)
    model = images.fit(data, lambda model: torch.optim.Adam(model.parameters(), 2e-3), epochs, seed, width=width)
    return attack_images(data, model, seed, count), model


def attack_images(data, model, seed, count):
    """Records of every attack at every ε.

    'accuracy' counts what is classified right before and after; 'moved' is the mean L2 size of the change of those right
    before. 'readable' is the share of all changed pictures whose nearest training picture is of the true class.
    """
    x, y = data.test[:count], data.test_labels[:count]
    right = images.logits(model, x).argmax(1) == y

    def record(meaning, attack, epsilon, changed):
        after = images.logits(model, changed).argmax(1) == y
        moved = size(changed - x, 2)[right].sum() / max(1, right.sum())
        return {'seed': seed, 'meaning': meaning, 'attack': attack, 'epsilon': epsilon,
                'accuracy': (right & after).float().mean().item(), 'moved': moved.item(),
                'readable': nearest_is_right(data, changed, y)}

    records = [record('', 'none', 0, x)]
    for meaning, attacks in ATTACKS.items():
        for name, attack in attacks.items():
            for epsilon in GRIDS[data.name][meaning]:
                parts = [attack(model, *part, epsilon) for part in zip(x.split(500), y.split(500))]
                records.append(record(meaning, name, epsilon, torch.cat(parts)))
    return records


def nearest_is_right(data, x, labels):
    """The share of pictures x that one-nearest-neighbour takes for their own class; of digits only, where it can read."""
    if data.name != 'digits':
        return None
    nearest = torch.cdist(x.flatten(1), data.train.flatten(1)).argmin(1)
    return (data.train_labels[nearest] == labels).float().mean().item()


class Point(NamedTuple):
    """An attack at one ε, over seeds; shares from 0 to 1."""
    accuracy: float
    deviation: float  # of the accuracy
    moved: float
    readable: float   # NaN where nobody can read


def over_seeds(records, **wanted):
    """{ε: Point} of the records that have what is wanted."""
    groups = {}
    for r in records:
        if wanted.items() <= r.items():
            groups.setdefault(r['epsilon'], []).append(r)
    points = {}
    for epsilon, group in groups.items():
        accuracy = [r['accuracy'] for r in group]
        readable = [math.nan if r['readable'] is None else r['readable'] for r in group]
        points[epsilon] = Point(np.mean(accuracy), np.std(accuracy, ddof=1) if len(group) > 1 else 0.0,
                                np.mean([r['moved'] for r in group]), np.mean(readable))
    return points


def images_table(records):
    """Markdown: for each attack, what it takes to leave less than half and a twentieth, and what it leaves legibly."""
    lines = ['| ε is | attack | ε that leaves below 50 % | below 5 % | L2 size of the change there | readable there (%) | '
             f'largest ε with {100 * READABLE:.0f} % readable | accuracy there (%) |', '|---|---|---|---|---|---|---|---|']
    for meaning, attacks in ATTACKS.items():
        for name in attacks:
            curve = over_seeds(records, meaning=meaning, attack=name)
            half, end = (next((e for e, point in curve.items() if point.accuracy < x), None) for x in (0.5, ENOUGH))
            cells = [meaning, name, *('' if e is None else f'{e:.3g}' for e in (half, end)), '', '', '', '']
            if end is not None:
                cells[4] = f'{curve[end].moved:.2f}'
                cells[5] = '' if math.isnan(curve[end].readable) else f'{100 * curve[end].readable:.0f}'
            if legible := [e for e, point in curve.items() if point.readable >= READABLE]:
                point = curve[legible[-1]]
                cells[6:8] = f'{legible[-1]:.3g}', f'{100 * point.accuracy:.1f} ± {100 * point.deviation:.1f}'
            lines.append(f'| {" | ".join(cells)} |')
    clean, = over_seeds(records, attack='none').values()
    readable = '' if math.isnan(clean.readable) else f', readable {100 * clean.readable:.1f} %'
    return '\n'.join(lines) + (f'\n\nUnattacked: accuracy {100 * clean.accuracy:.1f} ± {100 * clean.deviation:.1f} %'
                               f'{readable}.')


STYLES = {'one-shot': 'o-', 'iterated': 's-', 'iterated, class looked up anew': 'v--', 'FGM': '^:', 'FGSM': '^:',
          'PGD': 'D-', 'noise': 'x--', 'few pixels': 'P-'}
COLORS = {attack: f'C{k - (k > 3)}' for k, attack in enumerate(STYLES)}  # FGM and FGSM have one


def plot_curves(path, records, name):
    figure = Figure(figsize=(12, 9), layout='constrained')
    axes = figure.subplots(2, 2, sharey=True).ravel()
    clean, = over_seeds(records, attack='none').values()
    for ax, meaning in zip(axes, ATTACKS):
        for attack in ATTACKS[meaning]:
            curve = {0: clean} | over_seeds(records, meaning=meaning, attack=attack)
            accuracy, deviation, moved, _ = (100 * np.array(column) for column in zip(*curve.values()))
            color = COLORS[attack]
            ax.errorbar(list(curve), accuracy, deviation, fmt=STYLES[attack], color=color, capsize=2, markersize=5,
                        label=attack)
            if meaning == 'step' and 'anew' not in attack:  # the same against what they move in all
                axes[1].errorbar(moved / 100, accuracy, deviation, fmt=STYLES[attack][0] + ':', color=color, alpha=0.45,
                                 markersize=5, label=f"{attack}, the first panel's; its mean size")
        ax.set(xlabel=MEANING[meaning])
        ax.grid(alpha=0.3)
    axes[0].set_xscale('symlog', linthresh=GRIDS[name]['step'][0])
    for ax in axes:
        ax.legend(fontsize=8)
    figure.supylabel('accuracy (%), mean ± standard deviation over seeds')
    figure.suptitle(f'{name}: accuracy under attack')
    save_figure(path, figure)


def pictures_of(data, count):
    """The first test picture of each of the first classes, and their labels."""
    first = torch.stack([(data.test_labels == c).nonzero()[0, 0] for c in data.test_labels.unique()[:count]])
    return data.test[first], data.test_labels[first]


def plot_samples(path, data, model):
    """Test pictures under the one-shot and the iterated attack as the assignment has them, a row an ε."""
    x, y = pictures_of(data, 6)
    rows = [(f'ε = {e:g}', torch.cat([ATTACKS['step'][name](model, x, y, e) for name in ('one-shot', 'iterated')]))
            for e in (0, *GRIDS[data.name]['step'])]
    plot_pictures(path, rows, torch.cat([y, y]), model, 'Left half: one-shot, right half: iterated')


def plot_smallest(path, data, model, records):
    """Test pictures under each attack, at its smallest ε that leaves an accuracy below five per cent."""
    x, y = pictures_of(data, 10)
    rows = [('none', x)]
    for meaning, attacks in ATTACKS.items():
        for name, attack in attacks.items():
            curve = over_seeds(records, meaning=meaning, attack=name)
            enough = [e for e, point in curve.items() if point.accuracy < ENOUGH]
            if enough and 'anew' not in name:
                rows.append((f'{name}\n{meaning} {enough[0]:g}', attack(model, x, y, enough[0])))
    plot_pictures(path, rows, y, model, 'Each attack at its smallest ε that leaves less than 5 % accuracy')


def plot_pictures(path, rows, labels, model, title):
    figure = Figure(figsize=(0.5 + 0.75 * len(labels), 0.5 + 0.85 * len(rows)), layout='constrained')
    for axes, (name, x) in zip(figure.subplots(len(rows), len(labels), squeeze=False), rows):
        for ax, picture, label, predicted in zip(axes, x, labels, images.logits(model, x).argmax(1)):
            picture = picture.permute(1, 2, 0).clamp(0, 1)
            ax.imshow(picture if picture.shape[2] == 3 else picture[:, :, 0], cmap='gray_r', vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.set_title(f'{label} → {predicted}', fontsize=7, pad=2, color='black' if predicted == label else 'tab:red')
        axes[0].set_ylabel(name, fontsize=7)
    figure.suptitle(title, fontsize=9)
    save_figure(path, figure)


def images_job(args):
    source = ('CIFAR-10', args.cifar10) if args.cifar10 else ('digits', None)
    data = images.load(*source)
    count = 30 if args.dry_run else 1000
    tasks = [{'source': source, 'seed': seed, 'epochs': args.epochs, 'width': args.width, 'count': count}
             for seed in range(args.seeds)]
    records, models = zip(*in_parallel(args.jobs, train_and_attack, tasks, 'images'))
    records = sum(records, [])
    plots = args.output_dir / 'plots'
    settings = {'data': data.name, 'epochs': args.epochs, 'width': args.width}
    write(plots / 'attacks_images.json', records_json(settings, records))
    plot_curves(plots / 'attacks_images.png', records, data.name)
    plot_samples(plots / 'attacks_samples.png', data, models[0])
    plot_smallest(plots / 'attacks_smallest.png', data, models[0], records)
    print(f'\n{images_table(records)}\n')


# ---------------------------------------------------------------------------------------------- sequences

CONTROLS = {'Adv': 'Adv control', 'Prox': 'Prox control', 'AMP': 'Prox control', 'SAM': 'Prox control', 'best recipe': 'base'}
CHECKED = 0.5  # the ε at which gradient masking is looked for
EFFORT = {'epsilons': (0.1, 0.25, CHECKED, 1.0), 'steps': 10, 'restarts': 3, 'more_steps': 50, 'draws': 10}
LITTLE_EFFORT = {'epsilons': (CHECKED,), 'steps': 1, 'restarts': 1, 'more_steps': 1, 'draws': 1}  # of a dry run


def classifier(name, checkpoint, on):
    """(function of x [B, T, F] and lengths [B], function of raw sequences to x), attacked `on` 'raw' or 'normalised' input.

    The normalised input is what the convolution reads. The best recipe reads raw values as well, so it has none: None.
    """
    model = (best.BestClassifier if name == 'best recipe' else LSTMClassifier)(**checkpoint['arguments'])
    model.load_state_dict(checkpoint['state_dict'])
    model.eval().requires_grad_(False)
    mode, epsilon = MODELS.get(name, ('plain', 0.0))
    settings = {'mode': mode, 'epsilon': epsilon} if mode == 'ProxLSTM' else {}
    prepare = as_it_is
    if on == 'normalised':
        if name == 'best recipe':
            return None
        prepare, model.features = model.features, as_it_is
    return (lambda x, lengths: model(x, lengths, **settings)), prepare


def as_it_is(x):
    return x


def attack_sequences(name, seed, checkpoint, control, epsilons, steps, restarts, more_steps, draws):
    """Attack one model on UCI's 370 test sequences, on both inputs. Returns records.

    'noise' counts what is right after it, the mean over `draws`. 'PGD' counts what is right before and at this and every
    smaller ε. At ε = CHECKED on the raw input, 'PGD, restarts' goes on from there with random starts, 'PGD, more steps' from
    those, and 'PGD, transferred' is what was made with the control's gradients instead.
    """
    _, test = load_data(UCI_PATH, EVALUATION_BATCH)
    total = sum(len(batch.targets) for batch in test)
    records = []

    def add(attack, epsilon, right):
        records.append({'model': name, 'seed': seed, 'input': on, 'attack': attack, 'epsilon': epsilon,
                        'accuracy': right / total})

    for on in ('normalised', 'raw'):
        if (found := classifier(name, checkpoint, on)) is None:
            continue
        classify, prepare = found
        points = [(prepare(x), y, lengths) for x, y, lengths in test]
        generator = torch.Generator().manual_seed(seed)
        standing = unattacked = survivors(points, classify, nothing)
        add('none', 0.0, count(standing))
        for epsilon in epsilons:
            draw = partial(noisy, epsilon=epsilon, norm=2, generator=generator)
            add('noise', epsilon, np.mean([count(survivors(points, classify, draw)) for _ in range(draws)]).item())
            push = partial(pgd, epsilon=epsilon, norm=2)
            standing = survivors(standing, classify, partial(push, steps=steps))
            add('PGD', epsilon, count(standing))
            if on == 'raw' and epsilon == CHECKED:
                left = standing
                for _ in range(restarts):
                    left = survivors(left, classify, partial(push, steps=steps, generator=generator))
                add('PGD, restarts', epsilon, count(left))
                add('PGD, more steps', epsilon, count(survivors(left, classify, partial(push, steps=more_steps))))
                if control is not None:
                    source, _ = classifier(CONTROLS[name], control, on)
                    # Not stopped where the control is fooled: that point would hardly fool another.
                    foreign = partial(push, steps=steps, stop=False)
                    add('PGD, transferred', epsilon, count(survivors(unattacked, classify, foreign, source)))
    return records


def nothing(model, x, labels, mask):
    return x


def noisy(model, x, labels, epsilon, **arguments):
    return noise(x, epsilon, **arguments)


def survivors(points, classify, attack, source=None):
    """Of `points`, batches (x, labels, lengths), those classified right after an attack on `source`; unchanged.

    `source` is another function of (x, lengths) to logits, by default `classify` itself.
    """
    left = []
    for x, y, lengths in points:
        changed = attack(lambda x: (source or classify)(x, lengths), x, y, mask=valid_steps(x, lengths))
        with torch.no_grad():
            right = classify(changed, lengths).argmax(1) == y
        if right.any():
            left.append((x[right], y[right], lengths[right]))
    return left


def valid_steps(x, lengths):
    return (torch.arange(x.shape[1]) < lengths[:, None])[:, :, None]


def count(points):
    return sum(len(y) for _, y, _ in points)


def best_models(args):
    """Checkpoints of companions/best.py's recipe, by (name, seed)."""
    train, _ = load_data(UCI_PATH)
    epochs = 2 if args.dry_run else best.EPOCHS
    config = {**data_digests(), 'torch': torch.__version__, 'recipe': best.recipe_of(best.CHOSEN), 'epochs': epochs,
              'settings': [best.BATCH_SIZE, best.KERNEL_SIZE, best.PEAK_LR, best.CONSTANT_LR]}
    tasks = {f'best_seed{seed}': (config, train_best, {'train': train, 'seed': seed, 'epochs': epochs})
             for seed in range(args.seeds)}
    return {('best recipe', seed): made for seed, made in enumerate(obtained(args, tasks, 'best recipe').values())}


def train_best(train, seed, epochs):
    arguments, model = best.fit(sequences_of(train), targets_of(train), seed, epochs=epochs)
    return {'arguments': arguments, 'state_dict': model.state_dict()}


def accuracies(records, model, on, attack, epsilon):
    """An array over seeds, in their order."""
    wanted = {'model': model, 'input': on, 'attack': attack, 'epsilon': epsilon}
    return np.array([r['accuracy'] for r in sorted(records, key=lambda r: r['seed']) if wanted.items() <= r.items()])


def sequences_table(records, on):
    """Markdown: accuracy of every model under noise and attack; and the paired difference to its control."""
    epsilons = sorted({r['epsilon'] for r in records if r['attack'] == 'PGD'})
    columns = [('none', 0.0), ('noise', epsilons[-1]), *(('PGD', epsilon) for epsilon in epsilons)]
    names = ['unattacked', f'noise {epsilons[-1]:g}', *(f'PGD {epsilon:g}' for epsilon in epsilons)]
    models = [name for name in (*MODELS, *CONTROLS) if len(accuracies(records, name, on, 'none', 0.0))]
    lines = [f'| {on} input | {" | ".join(names)} |', '|---' * (len(names) + 1) + '|']
    for name in dict.fromkeys(models):
        lines.append(f'| {name} | {" | ".join(spread(accuracies(records, name, on, *column)) for column in columns)} |')
    for name, control in CONTROLS.items():
        if name in models:
            cells = [spread(accuracies(records, name, on, *column) - accuracies(records, control, on, *column), sign='+')
                     for column in columns]
            lines.append(f'| *{name} minus {control}* | {" | ".join(cells)} |')
    return '\n'.join(lines)


def masking_table(records):
    """Markdown: what more effort takes away from the attack's result, and what a foreign gradient leaves."""
    columns = ['PGD', 'PGD, restarts', 'PGD, more steps', 'PGD, transferred']
    lines = [f"| raw input, ε = {CHECKED:g} | PGD | + random starts | + more steps | made on its control's gradients |",
             '|---|---|---|---|---|']
    for name in dict.fromkeys((*MODELS, *CONTROLS)):
        cells = [spread(accuracies(records, name, 'raw', attack, CHECKED)) for attack in columns]
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def plot_sequences(path, records):
    """Accuracy against ε on both inputs: under attack, and under noise of the same size."""
    figure = Figure(figsize=(12, 5), layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    names = list(dict.fromkeys((*MODELS, *CONTROLS)))
    for ax, on in zip(axes, ('normalised', 'raw')):
        for k, name in enumerate(names):
            for attack, style in (('PGD', '-'), ('noise', ':')):
                epsilons = sorted({r['epsilon'] for r in records if r['attack'] == attack})
                columns = ('none', 0.0), *((attack, epsilon) for epsilon in epsilons)
                y = [100 * accuracies(records, name, on, *column) for column in columns]
                if len(y[0]):
                    deviation = [v.std(ddof=1) if len(v) > 1 else 0 for v in y]
                    ax.errorbar([0, *epsilons], [v.mean() for v in y], deviation, color=f'C{k}', capsize=2,
                                linestyle='--' if 'control' in name and attack == 'PGD' else style,
                                linewidth=1 if attack == 'noise' else 1.5, label=name if attack == 'PGD' else None)
        ax.set(title=f'attack on the {on} input', xlabel='ε, L2 over all steps of a sequence', ylim=(0, 101))
        ax.grid(alpha=0.3)
    axes[0].set_ylabel('accuracy (%), mean ± standard deviation over seeds\nlines: PGD; dotted: noise of the same size')
    figure.legend(*axes[1].get_legend_handles_labels(), loc='outside lower center', ncols=5)
    save_figure(path, figure)


def sequences_job(args):
    from amp import amp_models  # here, because amp.py imports this file

    epochs = {'epochs': 2} if args.dry_run else {}
    models = assignment_models(args, **epochs)
    models |= amp_models(args, models, **epochs) | best_models(args)
    effort = LITTLE_EFFORT if args.dry_run else EFFORT
    tasks = [{'name': name, 'seed': seed, 'checkpoint': checkpoint, 'control': models.get((CONTROLS.get(name), seed)),
              **effort} for (name, seed), checkpoint in models.items()]
    tasks.sort(key=lambda task: task['name'] != 'Prox')  # the longest first
    records = sum(in_parallel(args.jobs, attack_sequences, tasks, 'sequences'), [])
    plots = args.output_dir / 'plots'
    write(plots / 'attacks_sequences.json', records_json({'norm': 'L2', **effort}, records))
    plot_sequences(plots / 'attacks_sequences.png', records)
    for on in ('normalised', 'raw'):
        print(f'\n{sequences_table(records, on)}')
    print(f'\n{masking_table(records)}\n')


# ---------------------------------------------------------------------------------------------- the command line

JOBS = {'images': images_job, 'sequences': sequences_job}


def get_args(argv=None):
    parser = argparse.ArgumentParser(description='Gradient attacks, and who stands them.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('job', nargs='?', choices=JOBS, help='both, unless one is named')
    add_arguments(parser)
    parser.add_argument('--cifar10', type=Path, metavar='DIR', help='attack images of CIFAR-10, binary version, in this '
                        'folder (the first 1000 test images)', default=argparse.SUPPRESS)
    parser.add_argument('--epochs', type=positive_int, default=20, help='of the network for images')
    parser.add_argument('--width', type=positive_int, default=16, help='of that network: channels of its first layer')
    args = parser.parse_args(argv)
    if 'cifar10' not in args:
        args.cifar10 = None
    if args.cifar10 and args.job == 'sequences':
        parser.error('argument --cifar10: goes with the job images')
    if args.dry_run:
        args.seeds, args.epochs = 1, 1
    complete(args)
    return parser, args


def attack(args):
    make_folders(args)
    for name, job in JOBS.items():
        if args.job in (None, name):
            job(args)


def main():
    parser, args = get_args()
    carry_out(parser, attack, args)
    print(f'Written to {args.output_dir / "plots"}')


if __name__ == '__main__':
    main()
