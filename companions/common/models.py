"""Trained models that several companions attack, compare or train further.

The `*_models` functions return checkpoints by (name, seed). What is not in checkpoints/companions/,
or was made with other settings or from another base model, is trained in `args.jobs` processes, on
`device`. The tensors of a checkpoint are on the CPU.
"""

import contextlib
import time
from functools import partial

import torch
from torch.nn import functional as F

from Classifier import LSTMClassifier
from companions.amp.amp import AMP
from companions.best_recipe import recipe
from load_data import (DEFAULT_PATH, EVALUATION_BATCH, UCI_PATH, Batch, load_data, sequences_of,
                       targets_of)
from support.checkpoints import hash_file, to_cpu
from support.options import CHOSEN_EPSILON, OPTIMIZER, get_args, hyperparameters
from support.parallel import seeded
from support.sweep import Run, Sweep, load_or_train_all
from training import eval_model, train, train_model

EPOCHS = 100
MODELS = {'base': ('plain', 0.0),
          'Adv control': ('AdvLSTM', 0.0), 'Adv': ('AdvLSTM', CHOSEN_EPSILON['AdvLSTM']),
          'Prox control': ('ProxLSTM', 0.0), 'Prox': ('ProxLSTM', CHOSEN_EPSILON['ProxLSTM'])}
AMP_SETTINGS = {'plain': {'epsilon': 0.0}, 'AMP': {'epsilon': 0.3, 'inner_lr': 3.0},
                'SAM': {'epsilon': 0.3, 'inner_lr': 'inf'}}  # chosen in companions/amp
NOISY, WITH_NOISE, NOISE = ('base', 'Adv', 'Prox', 'AMP', 'best recipe'), ' with noise', 0.3


def assignment_models(args, names=tuple(MODELS), epochs=EPOCHS, device='cpu'):
    """Return the models of MODELS named in `names`, and their bases, trained as training.py does.

    training.py's own checkpoints are used where they have the same settings and are finished.
    """
    settings = get_args(['--output-dir', str(args.output_dir), '--device', device])
    batches, test = load_data(DEFAULT_PATH, settings.batch_size)
    # `train` evaluates after every epoch: on one batch, because nothing here uses the result.
    data = batches, test[:1], torch.zeros(len(test[0].targets), dtype=torch.bool)
    sweep = Sweep(train, lambda run: data, settings)  # for its configurations and paths only
    bases = {('base', seed): Run('plain', seed=seed, epochs=epochs) for seed in range(args.seeds)}
    others = {(name, seed): Run(*MODELS[name], seed, epochs=epochs, start=bases['base', seed])
              for name in names if name != 'base' for seed in range(args.seeds)}
    models = {}
    for runs in (bases, others):
        models |= load_or_train_all(args, {
            key: (run.name, sweep.config_of(run), partial(
                train_assignment_model, sweep, run, run.start and models['base', run.seed]))
            for key, run in runs.items()}, 'assignment models')
    return models


def train_assignment_model(sweep, run, start):
    """Load training.py's checkpoint of `run` if it is finished and fits, otherwise train it."""
    with contextlib.suppress(OSError):
        saved = sweep.load(run)
        if saved.get('config') == sweep.config_of(run) and \
                len(saved['run']['history']['train_loss']) == run.epochs:
            return saved
    checkpoint = train(run, sweep.args, sweep.data(run), start)
    if checkpoint['run']['diverged'] is not None:
        raise ValueError(f'{run}: the loss was not finite in epoch {checkpoint["run"]["diverged"]}')
    return checkpoint


def amp_models(args, models, methods=('AMP', 'SAM'), epochs=EPOCHS, device='cpu'):
    """Return the base models trained further with AMP, with their accuracy on UCI's 370."""
    batches, _ = load_data(DEFAULT_PATH)
    _, test = load_data(UCI_PATH, EVALUATION_BATCH)
    config = {**hyperparameters(get_args([]), Run('ProxLSTM', epochs=epochs)),
              'test_sha256': hash_file(UCI_PATH), 'keeps': ['history', 'losses', 'seconds']}
    return load_or_train_all(args, {
        (name, seed): (f'{name.lower()}_seed{seed}',
                       {**config, **AMP_SETTINGS[name], 'base': models['base', seed]['config']},
                       partial(train_sequence_classifier, models['base', seed], AMP_SETTINGS[name],
                               seed, batches, epochs, test, device))
        for name in methods for seed in range(args.seeds)}, ' and '.join(methods))


def train_sequence_classifier(base, settings, seed, batches, epochs, test, device='cpu', sigma=0):
    """Train the checkpoint `base` further with AMP(**settings), otherwise like ProxLSTM's control.

    With Gaussian noise of standard deviation `sigma` in the input. Returns a checkpoint: 'history'
    is the accuracy on the `test` batches after each epoch, 'losses' the mean training loss in it;
    'seconds' is the processor time of the training alone.
    """
    clip_value = get_args([]).clip_value
    batches, test = ([Batch(*(x.to(device) for x in batch)) for batch in part]
                     for part in (batches, test))
    history, losses, seconds = [], [], 0.0
    with seeded(seed, device):
        model = LSTMClassifier.from_checkpoint(base).to(device)
        optimizer = AMP(model.parameters(), **OPTIMIZER['ProxLSTM'], **settings,
                        base_optimizer=torch.optim.Adam, model=model)
        # Clip only the gradient that updates θ: Algorithm 1 ascends along the whole one.
        optimizer.base_optimizer.register_step_pre_hook(
            lambda *_: torch.nn.utils.clip_grad_value_(model.parameters(), clip_value))
        for _ in range(epochs):
            start, total, count = time.process_time(), 0.0, 0
            model.train()
            for inputs, targets, lengths in add_noise(batches, sigma):

                def closure():
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(inputs, lengths), targets)
                    loss.backward()
                    return loss

                total += optimizer.step(closure).item() * len(targets)
                count += len(targets)
            seconds += time.process_time() - start
            if not all(p.isfinite().all() for p in model.parameters()):
                raise ValueError(f'AMP with {settings}: weights are not finite, seed {seed}')
            history.append(eval_model(model, test)[1])
            losses.append(total / count)
    return {'arguments': base['arguments'], 'state_dict': to_cpu(model.state_dict()),
            'history': history, 'losses': losses, 'seconds': round(seconds, 2)}


def best_recipe_models(args, data=UCI_PATH):
    """Return the best recipe's models, 'best recipe' by seed; 'seconds' is their training time."""
    batches, _ = load_data(data, kernel_size=recipe.KERNEL_SIZE)
    settings = {'epochs': 2} if args.dry_run else {}
    function = partial(train_best_recipe, sequences_of(batches), targets_of(batches), settings)
    return load_or_train_all(args, {
        ('best recipe', seed): (f'best_seed{seed}', best_recipe_config(data, settings),
                                partial(function, seed))
        for seed in range(args.seeds)}, 'best recipe')


def best_recipe_config(data, settings):
    """Return all that a model of the best recipe depends on; `settings` replace the recipe's."""
    return {'data_sha256': hash_file(data), 'torch': torch.__version__,
            **recipe.recipe_of(recipe.CHOSEN), **settings, 'batch_size': recipe.BATCH_SIZE,
            'kernel_size': recipe.KERNEL_SIZE, 'lr': [recipe.PEAK_LR, recipe.CONSTANT_LR]}


def train_best_recipe(sequences, labels, settings, seed):
    start = time.process_time()
    model = recipe.fit(sequences, labels, seed, **settings)
    return {'arguments': model.arguments, 'state_dict': model.state_dict(),
            'seconds': round(time.process_time() - start, 2)}


def noise_models(args, models, epochs):
    """Return models like those of NOISY, but with Gaussian noise in the raw input in training.

    They are by (name + WITH_NOISE, seed), on the CPU; `models` has the ones without noise.
    """
    noisy = {}
    for names in (('base', 'best recipe'), ('Adv', 'Prox', 'AMP')):  # the base models first
        noisy |= load_or_train_all(args, {
            (name + WITH_NOISE, seed): (
                f'noise_{name.replace(" ", "_")}_seed{seed}',
                {'sigma': NOISE, 'like': models[name, seed]['config']},
                partial(train_noise_model, name, seed, models['base', seed]['arguments'],
                        noisy.get(('base' + WITH_NOISE, seed)), epochs,
                        {'epochs': 2} if args.dry_run else {}))
            for name in names for seed in range(args.seeds)}, 'models with noise')
    return noisy


def train_noise_model(name, seed, arguments, base, epochs, settings):
    """Train one of NOISY with noise: the base model from scratch, others from checkpoint `base`.

    `settings` replace the best recipe's. Raises ValueError if the weights are not finite.
    """
    batches, test = load_data(UCI_PATH if name == 'best recipe' else DEFAULT_PATH)
    if name == 'best recipe':
        return train_best_recipe(sequences_of(batches), targets_of(batches),
                                 {**settings, 'noise': NOISE}, seed)
    if name == 'AMP':
        return train_sequence_classifier(base, AMP_SETTINGS[name], seed, batches, epochs, test,
                                         sigma=NOISE)
    mode, epsilon = MODELS[name]
    with seeded(seed):
        model = LSTMClassifier(**arguments)
        if base is not None:
            model.load_state_dict(base['state_dict'], strict=True)
        optimizer = torch.optim.Adam(model.parameters(), **OPTIMIZER[mode])
        for _ in range(epochs):
            train_model(model, add_noise(batches, NOISE), optimizer, mode, epsilon)
    if not all(p.isfinite().all() for p in model.parameters()):
        raise ValueError(f'{name} with noise: weights are not finite, seed {seed}')
    return {'arguments': arguments, 'state_dict': model.state_dict()}


def add_noise(batches, sigma):
    """Return the batches with Gaussian noise of standard deviation `sigma` on all valid steps."""
    if sigma == 0:
        return batches
    return [batch._replace(inputs=batch.inputs + sigma * torch.randn_like(batch.inputs)
                           * valid_steps(batch.inputs, batch.lengths)) for batch in batches]


def valid_steps(x, lengths):
    """Return which steps of x [B, T, F] are not padding, bool [B, T, 1]."""
    return (torch.arange(x.shape[1], device=x.device) < lengths[:, None])[:, :, None]
