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
from load_data import DEFAULT_PATH, UCI_PATH, Batch, load_data, sequences_of, targets_of
from support.checkpoints import hash_file, to_cpu
from support.options import CHOSEN_EPSILON, OPTIMIZER, get_args, hyperparameters
from support.parallel import parallel_map, seeded
from support.sweep import Run, Sweep, load_or_train
from training import EVALUATION_BATCH, eval_model, train

EPOCHS = 100
MODELS = {'base': ('plain', 0.0),
          'Adv control': ('AdvLSTM', 0.0), 'Adv': ('AdvLSTM', CHOSEN_EPSILON['AdvLSTM']),
          'Prox control': ('ProxLSTM', 0.0), 'Prox': ('ProxLSTM', CHOSEN_EPSILON['ProxLSTM'])}
AMP_SETTINGS = {'plain': {'epsilon': 0.0}, 'AMP': {'epsilon': 0.3, 'inner_lr': 3.0},
                'SAM': {'epsilon': 0.3, 'inner_lr': 'inf'}}  # chosen in companions/amp


def load_or_train_all(args, tasks, description):
    """Return a checkpoint for each of {key: (file name, config, function)}, see load_or_train."""
    folder = args.output_dir / 'checkpoints' / 'companions'
    calls = [{'path': folder / f'{name}.pt', 'config': config, 'function': function}
             for name, config, function in tasks.values()]
    return dict(zip(tasks, parallel_map(load_or_train, calls, args.jobs, description)))


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
    """Return the base models trained further with AMP; 'history' is their accuracy on UCI's 370."""
    batches, _ = load_data(DEFAULT_PATH)
    _, test = load_data(UCI_PATH, EVALUATION_BATCH)
    config = {**hyperparameters(get_args([]), Run('ProxLSTM', epochs=epochs)),
              'test_sha256': hash_file(UCI_PATH)}
    return load_or_train_all(args, {
        (name, seed): (f'{name.lower()}_seed{seed}',
                       {**config, **AMP_SETTINGS[name], 'base': models['base', seed]['config']},
                       partial(train_sequence_classifier, models['base', seed], AMP_SETTINGS[name],
                               seed, batches, epochs, test, device))
        for name in methods for seed in range(args.seeds)}, ' and '.join(methods))


def train_sequence_classifier(base, settings, seed, batches, epochs, test, device='cpu'):
    """Train the checkpoint `base` further with AMP(**settings), otherwise like ProxLSTM's control.

    Returns a checkpoint whose 'history' is the accuracy on the `test` batches after each epoch.
    """
    clip_value = get_args([]).clip_value
    batches, test = ([Batch(*(x.to(device) for x in batch)) for batch in part]
                     for part in (batches, test))
    history = []
    with seeded(seed, device):
        model = LSTMClassifier.from_checkpoint(base).to(device)
        optimizer = AMP(model.parameters(), **OPTIMIZER['ProxLSTM'], **settings,
                        base_optimizer=torch.optim.Adam, model=model)
        # Clip only the gradient that updates θ: Algorithm 1 ascends along the whole one.
        optimizer.base_optimizer.register_step_pre_hook(
            lambda *_: torch.nn.utils.clip_grad_value_(model.parameters(), clip_value))
        for _ in range(epochs):
            model.train()
            for inputs, targets, lengths in batches:

                def closure():
                    optimizer.zero_grad()
                    loss = F.cross_entropy(model(inputs, lengths), targets)
                    loss.backward()
                    return loss

                optimizer.step(closure)
            if not all(p.isfinite().all() for p in model.parameters()):
                raise ValueError(f'AMP with {settings}: weights are not finite, seed {seed}')
            history.append(eval_model(model, test)[1])
    return {'arguments': base['arguments'], 'state_dict': to_cpu(model.state_dict()),
            'history': history}


def best_recipe_models(args, data=UCI_PATH):
    """Return the best recipe's models, 'best recipe' by seed; 'seconds' is their training time."""
    batches, _ = load_data(data, kernel_size=recipe.KERNEL_SIZE)
    config = best_recipe_config(data, 2 if args.dry_run else None)
    function = partial(train_best_recipe, sequences_of(batches), targets_of(batches),
                       config['epochs'])
    return load_or_train_all(args, {
        ('best recipe', seed): (f'best_seed{seed}', config, partial(function, seed))
        for seed in range(args.seeds)}, 'best recipe')


def best_recipe_config(data, epochs=None):
    """Return all that a model of the best recipe depends on; `epochs` replaces the recipe's."""
    settings = recipe.recipe_of(recipe.CHOSEN)
    return {'data_sha256': hash_file(data), 'torch': torch.__version__, **settings,
            'epochs': epochs or settings['epochs'], 'batch_size': recipe.BATCH_SIZE,
            'kernel_size': recipe.KERNEL_SIZE, 'lr': [recipe.PEAK_LR, recipe.CONSTANT_LR]}


def train_best_recipe(sequences, labels, epochs, seed):
    start = time.process_time()
    model = recipe.fit(sequences, labels, seed, epochs=epochs)
    return {'arguments': model.arguments, 'state_dict': model.state_dict(),
            'seconds': round(time.process_time() - start, 2)}
