"""Adversarial model perturbation: train the weights for the worst loss in a small ball around them, around a torch optimizer.

    python companions/amp.py                       # against plain training and SAM: the sequence classifier, then digits
    python companions/amp.py sequences --seeds 8
    python companions/amp.py images --gtsrb DIR    # or --cifar10 DIR
    python companions/amp.py --tune                # choose ε and ζ by cross-validation within the training sets
    python companions/amp.py --dry-run
    python -m pytest tests/test_amp.py

In a training loop of your own:

    optimizer = AMP(model.parameters(), lr=1e-3, epsilon=0.5, inner_lr=1.0, base_optimizer=torch.optim.Adam, model=model)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        return loss

    loss = optimizer.step(closure)

Needs requirements-companions.txt for the digits. Written under --output-dir: plots/amp.png and amp.json, or
tune_amp.json, and the sequence classifiers in checkpoints/companions/.
"""

import argparse
import contextlib
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.nn import functional as F

import images
from attacks import pgd
from common import (EPOCHS, UCI_PATH, add_arguments, assignment_models, carry_out, complete, data_digests, in_parallel,
                    make_folders, obtained, state_digest)
from Classifier import LSTMClassifier
from load_data import DEFAULT_PATH, load_data, sequences_of, targets_of
from runs import write
from training import (EVALUATION_BATCH, OPTIMISER, eval_model, fold_batches, get_args as settings_of_training,
                      hyperparameters, positive_int, records_json, save_figure, spread, stratified_folds, train_run)

# What is compared: the arguments of AMP, those of AMP and SAM as --tune chose them (companions/README.md).
CHOSEN = {'sequences': {'plain': {'epsilon': 0.0}, 'AMP': {'epsilon': 0.3, 'inner_lr': 3.0},
                        'SAM': {'epsilon': 0.3, 'inner_lr': math.inf}},
          'images': {'plain': {'epsilon': 0.0}, 'AMP': {'epsilon': 0.1, 'inner_lr': 3.0},
                     'SAM': {'epsilon': 0.03, 'inner_lr': math.inf}}}
METHODS = tuple(CHOSEN['sequences'])
CANDIDATES = [{'epsilon': 0.0},
              *({'epsilon': epsilon, 'inner_lr': zeta} for zeta in (0.3, 1.0, 3.0) for epsilon in (0.1, 0.3, 1.0)),
              *({'epsilon': epsilon, 'inner_lr': math.inf} for epsilon in (0.03, 0.1, 0.3, 1.0))]
RADII = 0.1, 0.3, 1.0  # distances from the weights at which the loss is looked at
ATTACK = 0.5           # on images: L2 size of the PGD attack


# ---------------------------------------------------------------------------------------------- the optimizer

class AMP(torch.optim.Optimizer):
    """Adversarial model perturbation (Zheng, Zhang and Mao, arXiv:2010.04925, Algorithm 1) around a torch optimizer.

    It minimises max ℓ(θ + Δ) over ‖Δ‖₂ ≤ ε instead of ℓ(θ). A step looks for Δ by `inner_iter` (N) steps of gradient
    ascent from Δ = 0, Δ ← Δ + ζ ∇ℓ(θ + Δ), each brought back into the ball, takes the gradient at θ + Δ, and lets the base
    optimizer move θ by it. The closure is called N + 1 times, for N + 1 gradients of the same minibatch. Dropout in it draws
    anew each time.

    Args:
        params: as of any optimizer. In parameter groups everything but the four arguments below may differ.
        lr: η, the base optimizer's.
        epsilon: ε ≥ 0, the radius. At 0 every step is the base optimizer's own.
        inner_lr: ζ > 0. math.inf takes each ascent step to the sphere, Δ = ε ∇ℓ / ‖∇ℓ‖₂; with one iteration that is
            sharpness-aware minimisation, SAM (Foret et al., arXiv:2010.01412).
        inner_iter: N ≥ 1.
        base_optimizer: a class such as torch.optim.Adam, whose step needs no closure (LBFGS does); further keyword arguments
            (`weight_decay`, …) are its.
        per_tensor: a ball of radius ε for each parameter tensor, as in the authors' code, instead of one for all together,
            as in their Algorithm 1. With n tensors Δ may then be √n times as long, and its direction is not the gradient's:
            a tensor of small gradients moves as far as one of large ones.
        model: a module whose batch-normalisation statistics then follow the passes at θ only, once a step.

    Raises ValueError for values out of these ranges, for a group that sets one of them for itself, and in `step` without
    a closure.
    """

    def __init__(self, params, lr, epsilon=0.5, inner_lr=1.0, inner_iter=1, base_optimizer=torch.optim.SGD, *,
                 per_tensor=False, model=None, **base_arguments):
        for name, value, fits in (('epsilon', epsilon, 0 <= epsilon < math.inf), ('inner_lr', inner_lr, inner_lr > 0),
                                  ('inner_iter', inner_iter, inner_iter >= 1 and inner_iter == int(inner_iter))):
            if not fits:
                expected = {'epsilon': 'a finite number from 0 up', 'inner_lr': 'a number above 0',
                            'inner_iter': 'a whole number from 1 up'}[name]
                raise ValueError(f'{name} is {value}, expected {expected}')
        self.base_optimizer = base_optimizer(params, lr=lr, **base_arguments)
        self.settings = {'epsilon': epsilon, 'inner_lr': inner_lr, 'inner_iter': int(inner_iter), 'per_tensor': per_tensor}
        self.batch_norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)] if model else []
        super().__init__(self.base_optimizer.param_groups, self.base_optimizer.defaults)
        self._share()

    def _share(self):
        # One state and one list of groups for both, so that schedulers, which look at this optimizer, reach the base.
        self.state, self.param_groups = self.base_optimizer.state, self.base_optimizer.param_groups

    @torch.no_grad()
    def step(self, closure=None):
        """One step on the minibatch of `closure`, which zeroes the gradients, computes the loss, calls backward, returns it.

        Returns the loss at θ. The weights are θ again, bit for bit, before the base optimizer's step, and if the closure
        raises.
        """
        if closure is None:
            raise ValueError('AMP needs a closure that computes loss and gradients anew: optimizer.step(closure)')
        closure = torch.enable_grad()(closure)
        loss = closure()
        if self.settings['epsilon'] > 0:
            weights = [p for group in self.param_groups for p in group['params'] if p.grad is not None]
            theta = [p.clone() for p in weights]
            try:
                with self._statistics_kept():
                    delta = [torch.zeros_like(p) for p in weights]
                    for _ in range(self.settings['inner_iter']):
                        delta = self._ascended(delta, [torch.zeros_like(p) if p.grad is None else p.grad for p in weights])
                        for p, t, d in zip(weights, theta, delta):
                            p.copy_(t + d)
                        closure()
            finally:
                for p, t in zip(weights, theta):
                    p.copy_(t)  # θ + Δ − Δ would not be θ
        self.base_optimizer.step()
        return loss

    def _ascended(self, delta, gradients):
        """Δ + ζ g, brought back into the ball; for ζ = ∞ its limit."""
        epsilon, zeta = self.settings['epsilon'], self.settings['inner_lr']
        sphere = zeta == math.inf
        delta = gradients if sphere else [d + zeta * g for d, g in zip(delta, gradients)]
        balls = [[d] for d in delta] if self.settings['per_tensor'] else [delta]
        return [d for ball in balls for d in within(ball, epsilon, sphere)]

    @contextlib.contextmanager
    def _statistics_kept(self):
        before = [m.track_running_stats for m in self.batch_norms]
        try:
            for m in self.batch_norms:
                m.track_running_stats = False  # it normalises by the batch as before, and records nothing
            yield
        finally:
            for m, tracked in zip(self.batch_norms, before):
                m.track_running_stats = tracked

    def add_param_group(self, group):
        if own := self.settings.keys() & group.keys():
            raise ValueError(f'{", ".join(sorted(own))}: the same for all parameter groups, so not an entry of one')
        super().add_param_group(group)

    def __getstate__(self):  # what copy and pickle take: Optimizer's own would leave the base optimizer behind
        return self.__dict__

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._share()

    def state_dict(self):
        """The base optimizer's, and under 'amp' epsilon, inner_lr, inner_iter and per_tensor."""
        return {**self.base_optimizer.state_dict(), 'amp': dict(self.settings)}

    def load_state_dict(self, state_dict):
        """Take over what state_dict() gave. Raises ValueError for that of another optimizer."""
        state_dict = dict(state_dict)
        settings = state_dict.pop('amp', None)
        if settings is None:
            raise ValueError("expected a state of AMP, which has an entry 'amp' beside the base optimizer's")
        self.base_optimizer.load_state_dict(state_dict)
        self.settings = dict(settings)
        self._share()


def within(delta, radius, sphere):
    """The tensors `delta`, scaled to a common L2 norm of `radius` if it is larger, or, with `sphere`, unless it is 0."""
    peak = max((d.abs().max().item() for d in delta if d.numel()), default=0)
    if peak == 0:
        return delta
    scaled = [d / peak for d in delta]  # first, because squares of very small or large entries would leave float32's range
    norm = math.hypot(*(d.norm().item() for d in scaled))
    return [d * (radius / norm) for d in scaled] if sphere or peak * norm > radius else delta


# ---------------------------------------------------------------------------------------------- sequences

def train_sequence_classifier(base, settings, seed, train, epochs, test=None):
    """Train on from the checkpoint `base` with AMP around training.py's Adam, as its ProxLSTM's control is trained on.

    Returns a checkpoint; with `test`, batches, its 'history' is the accuracy on them after each epoch.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LSTMClassifier(**base['arguments'])
        model.load_state_dict(base['state_dict'])
        optimizer = AMP(model.parameters(), **OPTIMISER['ProxLSTM'], **settings, base_optimizer=torch.optim.Adam, model=model)
        clip_value = settings_of_training([])[1].clip_value
        # Only the gradient that moves θ is clipped: Algorithm 1 ascends along the whole one.
        optimizer.base_optimizer.register_step_pre_hook(
            lambda *_: torch.nn.utils.clip_grad_value_(model.parameters(), clip_value))
        history = []
        for _ in range(epochs):
            model.train()
            for inputs, targets, lengths in train:

                def closure():
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(inputs, lengths), targets)
                    loss.backward()
                    return loss

                optimizer.step(closure)
            if not all(p.isfinite().all() for p in model.parameters()):
                raise ValueError(f'AMP with {settings}: the weights are no longer finite, seed {seed}')
            if test is not None:
                history.append(eval_model(model, test)[1])
    return {'arguments': base['arguments'], 'state_dict': model.state_dict(), 'history': history}


def amp_models(args, models, methods=('AMP', 'SAM'), epochs=EPOCHS):
    """Checkpoints of the methods by (name, seed), trained on from `models['base', seed]`, with their accuracy on UCI's 370."""
    train, _ = load_data(DEFAULT_PATH)
    _, test = load_data(UCI_PATH, EVALUATION_BATCH)
    _, settings = settings_of_training([])
    config = {**data_digests(), 'torch': torch.__version__, **hyperparameters(settings, 'ProxLSTM', epochs)}
    keys = [(method, seed) for method in methods for seed in range(args.seeds)]
    tasks = {f'{method.lower()}_seed{seed}': ({
        **config, **CHOSEN['sequences'][method], 'base': state_digest(models['base', seed])}, train_sequence_classifier, {
        'base': models['base', seed], 'settings': CHOSEN['sequences'][method], 'seed': seed, 'train': train, 'epochs': epochs,
        'test': test}) for method, seed in keys}
    return dict(zip(keys, obtained(args, tasks, ' and '.join(methods)).values()))


def validate_sequences(held_out, fold, candidates, epochs):
    """Accuracy of each candidate on the held-out training sequences; all start from one base, trained on the rest."""
    _, settings = settings_of_training([])
    train, _ = load_data(DEFAULT_PATH)
    train, test = fold_batches(sequences_of(train), targets_of(train), held_out, settings.batch_size)
    base = train_run('plain', 0.0, fold, '', {}, hyperparameters(settings, 'plain', epochs), None, train, test[:1],
                     torch.zeros(len(test[0].targets), dtype=torch.bool), 'cpu')
    return [train_sequence_classifier(base, candidate, fold, train, epochs, test)['history'][-1] for candidate in candidates]


def sequences_job(args):
    models = assignment_models(args, ('base',), args.epochs)
    models = amp_models(args, models, METHODS, args.epochs)
    tasks = [{'method': method, 'seed': seed, 'checkpoint': checkpoint} for (method, seed), checkpoint in models.items()]
    return in_parallel(args.jobs, describe_sequence_classifier, tasks, 'sequences')


def describe_sequence_classifier(method, seed, checkpoint):
    model = LSTMClassifier(**checkpoint['arguments'])
    model.load_state_dict(checkpoint['state_dict'])
    (inputs, targets, lengths), = load_data(DEFAULT_PATH, 270)[0]
    losses = loss_around(model.eval(), lambda: F.cross_entropy(model(inputs, lengths), targets))
    return {'job': 'sequences', 'method': method, 'seed': seed, 'history': checkpoint['history'], **losses}


def loss_around(model, loss_of):
    """The training loss, and that at RADII from the weights along its gradient: what a flat minimum keeps low."""
    parameters = list(model.parameters())
    loss = loss_of()
    gradients = torch.autograd.grad(loss, parameters)
    direction = within(gradients, 1.0, sphere=True)
    around = []
    with torch.no_grad():
        for radius in RADII:
            theta = [p.clone() for p in parameters]
            for p, d in zip(parameters, direction):
                p.add_(d, alpha=radius)
            around.append(loss_of().item())
            for p, t in zip(parameters, theta):
                p.copy_(t)
    return {'loss': loss.item(), 'loss_around': around}


# ---------------------------------------------------------------------------------------------- images

def images_job(args):
    source = source_of(args)
    name = images.load(*source).name
    tasks = [{'source': source, 'method': method, 'seed': seed, 'epochs': args.image_epochs, 'width': args.width}
             for method in METHODS for seed in range(args.seeds)]
    return in_parallel(args.jobs, train_on_images, tasks, name)


def source_of(args):
    """What images.load() takes."""
    return ('CIFAR-10', args.cifar10) if args.cifar10 else ('GTSRB', args.gtsrb) if args.gtsrb else ('digits', None)


def train_on_images(source, method, seed, epochs, width):
    data = images.load(*source)
    model = images.fit(data, lambda model: image_optimizer(model, CHOSEN['images'][method]), epochs, seed, width=width)
    x, y = data.test[:1000], data.test_labels[:1000]
    standing = images.logits(model, x).argmax(1) == y
    changed = pgd(model, x, y, ATTACK, norm=2, valid_range=(0, 1))
    losses = loss_around(model, lambda: F.cross_entropy(model(data.train[:2000]), data.train_labels[:2000]))
    return {'job': data.name, 'method': method, 'seed': seed, 'accuracy': images.accuracy(model, data.test, data.test_labels),
            'attacked': (standing & (images.logits(model, changed).argmax(1) == y)).float().mean().item(), **losses}


def image_optimizer(model, settings):
    return AMP(model.parameters(), lr=2e-3, **settings, base_optimizer=torch.optim.Adam, model=model)


def validate_images(source, held_out, fold, settings, epochs, width):
    data = images.load(*source)
    x, y, held_out = data.train, data.train_labels, torch.tensor(held_out)
    part = images.Images(data.name, x[~held_out], y[~held_out], x[held_out], y[held_out])
    model = images.fit(part, lambda model: image_optimizer(model, settings), epochs, fold, width=width)
    return images.accuracy(model, part.test, part.test_labels)


JOBS = {'sequences': sequences_job, 'images': images_job}


# ---------------------------------------------------------------------------------------------- figure and table

def measured(record):
    """A record's quantities, by the name of their column."""
    if record['job'] == 'sequences':
        shares = {'accuracy (%)': record['history'][-1], 'mean of the last ten epochs (%)': np.mean(record['history'][-10:])}
    else:
        shares = {'accuracy (%)': record['accuracy'], f'PGD, L2 {ATTACK:g} (%)': record['attacked']}
    return shares, [record['loss'], *record['loss_around']]


def comparison_table(records, job):
    """Markdown: accuracy, its paired difference to plain training, and the training loss around the weights."""
    runs = {(r['method'], r['seed']): measured(r) for r in records if r['job'] == job}
    seeds = sorted({seed for _, seed in runs})
    columns = list(runs[METHODS[0], seeds[0]][0])
    radii = ' | '.join(f'… at {radius:g} from them' for radius in RADII)
    lines = [f'| {job} | {" | ".join(f"{c} | minus plain" for c in columns)} | training loss (median) at the weights | {radii} |',
             '|---' * (2 * len(columns) + len(RADII) + 2) + '|']
    for method in METHODS:
        cells = []
        for column in columns:
            values = [runs[method, seed][0][column] for seed in seeds]
            difference = [v - runs['plain', seed][0][column] for v, seed in zip(values, seeds)]
            cells += [spread(values), spread(difference, sign='+') if method != 'plain' else '']
        cells += [f'{x:.3f}' for x in np.median([runs[method, seed][1] for seed in seeds], 0)]
        lines.append(f'| {method} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def plot_comparison(path, records):
    """Accuracy against epoch of the sequence classifier, and for each job the training loss against the distance."""
    jobs = list(dict.fromkeys(record['job'] for record in records))
    figure = Figure(figsize=(1 + 5 * (len(jobs) + ('sequences' in jobs)), 4.5), layout='constrained')
    axes = list(figure.subplots(1, len(jobs) + ('sequences' in jobs), squeeze=False)[0])
    if 'sequences' in jobs:
        ax = axes.pop(0)
        for method in METHODS:
            y = 100 * np.array([r['history'] for r in records if r['method'] == method and r['job'] == 'sequences'])
            deviation = y.std(0, ddof=1) if len(y) > 1 else np.zeros(y.shape[1])
            ax.errorbar(range(1, y.shape[1] + 1), y.mean(0), deviation, errorevery=(3 + 5 * METHODS.index(method), 20),
                        capsize=3, label=method)
        ax.set(title='sequences', xlabel='epoch, from the saved base model',
               ylabel="accuracy on UCI's 370 (%), mean ± standard deviation")
    for ax, job in zip(axes, jobs):
        for method in METHODS:
            y = np.array([measured(r)[1] for r in records if r['method'] == method and r['job'] == job])
            middle = np.median(y, 0)
            ax.errorbar([0, *RADII], middle, [middle - y.min(0), y.max(0) - middle], fmt='o-', capsize=3, label=method)
        ax.set(title=job, xlabel='distance from the weights, along the gradient', yscale='log',
               ylabel='training loss: median, least and greatest over seeds')
    for ax in figure.axes:
        ax.grid(alpha=0.3)
        ax.legend()
    save_figure(path, figure)


# ---------------------------------------------------------------------------------------------- choosing ε and ζ

def tune(args):
    """Stratified cross-validation within the training sets, paired by fold. Returns records."""
    records = []
    if args.job != 'images':
        train, _ = load_data(DEFAULT_PATH)
        folds = folds_of(args, targets_of(train))
        tasks = [{'held_out': held_out, 'fold': fold, 'candidates': CANDIDATES, 'epochs': args.epochs}
                 for fold, held_out in enumerate(folds)]
        rows = in_parallel(args.jobs, validate_sequences, tasks, 'sequences')
        records += [{'job': 'sequences', **settings, 'fold': fold, 'accuracy': value}
                    for fold, row in enumerate(rows) for settings, value in zip(CANDIDATES, row)]
    if args.job != 'sequences':
        source = source_of(args)
        data = images.load(*source)
        folds = folds_of(args, data.train_labels.numpy())
        tasks = [{'source': source, 'held_out': held_out, 'fold': fold, 'settings': settings, 'epochs': args.image_epochs,
                  'width': args.width} for fold, held_out in enumerate(folds) for settings in CANDIDATES]
        values = in_parallel(args.jobs, validate_images, tasks, data.name)
        records += [{'job': data.name, **task['settings'], 'fold': task['fold'], 'accuracy': value}
                    for task, value in zip(tasks, values)]
    return [{**record, 'inner_lr': 'inf' if record.get('inner_lr') == math.inf else record.get('inner_lr')}
            for record in records]


def folds_of(args, labels):
    if args.folds > (smallest := np.bincount(labels).min()):
        raise ValueError(f'--folds is {args.folds}, but the smallest class has {smallest} training examples')
    return list(stratified_folds(labels, args.folds, args.repeats))


def tuning_table(records, job):
    """Markdown: accuracy on the held-out folds, and the paired difference to ε = 0, its error without the folds' overlap."""
    lines = ['| method | ε | ζ | accuracy on held-out folds (%) | minus plain (mean ± standard error) |',
             '|---|---|---|---|---|']
    rows = {}
    for r in records:
        if r['job'] == job:
            rows.setdefault((r['epsilon'], r['inner_lr']), {})[r['fold']] = r['accuracy']
    plain = rows[0.0, None]
    for (epsilon, zeta), values in rows.items():
        method = 'plain' if epsilon == 0 else 'SAM' if zeta == 'inf' else 'AMP'
        difference = 100 * np.array([value - plain[fold] for fold, value in values.items()])
        error = difference.std(ddof=1) / math.sqrt(len(difference)) if len(difference) > 1 else math.nan
        shown = '' if epsilon == 0 else f'{epsilon:g}', '∞' if zeta == 'inf' else '' if zeta is None else f'{zeta:g}'
        lines.append(f'| {method} | {" | ".join(shown)} | {spread(list(values.values()))} | '
                     f'{difference.mean():+.2f} ± {error:.2f} |')
    return '\n'.join(lines)


# ---------------------------------------------------------------------------------------------- the command line

def get_args(argv=None):
    parser = argparse.ArgumentParser(description='AMP against plain training and SAM.',
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('job', nargs='?', choices=JOBS, help='both, unless one is named')
    add_arguments(parser)
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument('--cifar10', type=Path, metavar='DIR', default=argparse.SUPPRESS, help='images of CIFAR-10, binary '
                        'version, in this folder, instead of digits')
    folder.add_argument('--gtsrb', type=Path, metavar='DIR', default=argparse.SUPPRESS, help='… of the German Traffic Sign '
                        'Recognition Benchmark')
    parser.add_argument('--epochs', type=positive_int, default=EPOCHS, help='of the sequence classifiers')
    parser.add_argument('--image-epochs', type=positive_int, default=20, help='of the network for images')
    parser.add_argument('--width', type=positive_int, default=16, help='of that network: channels of its first layer')
    parser.add_argument('--tune', action='store_true', help='cross-validate ε and ζ within the training sets, instead')
    parser.add_argument('--folds', type=positive_int, default=5)
    parser.add_argument('--repeats', type=positive_int, default=3)
    args = parser.parse_args(argv)
    args.cifar10, args.gtsrb = getattr(args, 'cifar10', None), getattr(args, 'gtsrb', None)
    if args.folds < 2:
        parser.error('argument --folds: expected at least 2')
    if args.job == 'sequences' and (args.cifar10 or args.gtsrb):
        parser.error(f'argument --{"cifar10" if args.cifar10 else "gtsrb"}: goes with the job images')
    if args.dry_run:
        args.seeds, args.epochs, args.image_epochs = 1, 2, 1
        args.folds, args.repeats = 2, 1
    complete(args)
    return parser, args


def compare(args):
    make_folders(args)
    plots = args.output_dir / 'plots'
    if args.tune:
        records = tune(args)
        write(plots / 'tune_amp.json', records_json({'epochs': args.epochs, 'image_epochs': args.image_epochs}, records))
        for job in dict.fromkeys(record['job'] for record in records):
            print(f'\n{job}\n\n{tuning_table(records, job)}')
        return
    records = [record for name, job in JOBS.items() if args.job in (None, name) for record in job(args)]
    write(plots / 'amp.json', records_json({'chosen': {job: {method: {**s, 'inner_lr': str(s.get('inner_lr'))}
                                                       for method, s in methods.items()} for job, methods in CHOSEN.items()},
                                            'radii': RADII, 'attack': ATTACK}, records))
    plot_comparison(plots / 'amp.png', records)
    for job in dict.fromkeys(record['job'] for record in records):
        print(f'\n{comparison_table(records, job)}')


def main():
    parser, args = get_args()
    carry_out(parser, compare, args)
    print(f'\nWritten to {args.output_dir / "plots"}')


if __name__ == '__main__':
    main()
