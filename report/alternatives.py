"""Train the base model further with what might do as well as AdvLSTM and ProxLSTM, or cost less.

noise: AdvLSTM's loss with a random direction in place of r. Does the direction matter?
augmentation: the loss on two random copies of each sequence in place of F(v) + F(v + εr), with the
crop and offset of companions/best_recipe. It takes two passes, too.
annealed: ProxLSTM whose ε falls to 0 over the last third. It is used as a plain LSTM, without the
cost of the proximal step.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional as F

import training
from Classifier import LSTMClassifier
from companions.best_recipe.recipe import augment, recipe_of
from load_data import DEFAULT_PATH, load_data, make_batches, sequences_of
from support.options import CHOSEN_EPSILON, OPTIMIZER
from support.parallel import seeded


def noise_loss(model, batch, state):
    """F(v) + F(v + ε u) with u random, of norm 1, and 0 where r is: on padded steps."""
    inputs, targets, lengths = batch
    loss = F.cross_entropy(model(inputs, lengths), targets)
    r = training.compute_perturbation(loss, model)
    noise = torch.randn_like(r) * (r != 0)
    # The gradient of Σ noise·v is the noise, so u is the noise with norm 1 per sequence.
    u = training.compute_perturbation((noise * model.v).sum(), model)
    perturbed = model(inputs, lengths, r=state.epsilon * u, mode='AdvLSTM')
    return loss + F.cross_entropy(perturbed, targets)


def augmented_loss(model, batch, state):
    """F on one random copy of each sequence, plus F on another."""
    sequences, recipe = sequences_of([batch]), recipe_of(['random crop', 'random offset'])
    loss = 0
    for _ in range(2):
        changed = [augment(x, state.deviation, recipe, state.generator) for x in sequences]
        (inputs, targets, lengths), = make_batches(changed, batch.targets.numpy(), len(changed))
        loss = loss + F.cross_entropy(model(inputs, lengths), targets)
    return loss


def annealed_loss(model, batch, state):
    """F of ProxLSTM, with ε decayed linearly to 0 over the last third of the epochs."""
    inputs, targets, lengths = batch
    epsilon = state.epsilon * min(1, 3 * state.left)
    logits = model(inputs, lengths, mode='ProxLSTM', epsilon=epsilon)
    return F.cross_entropy(logits, targets)


ALTERNATIVES = {'noise': ('AdvLSTM', noise_loss), 'augmentation': ('AdvLSTM', augmented_loss),
                'annealed': ('ProxLSTM', annealed_loss)}


def fine_tune(name, base, seed, epochs):
    """Train a checkpoint's model further with one of ALTERNATIVES; return it and its average.

    Everything else is that of `training.train`: the optimizer, the chosen ε, and the minibatches of
    AdvLSTM or ProxLSTM.
    """
    mode, loss = ALTERNATIVES[name]
    args = training.get_args([])
    batches, _ = load_data(DEFAULT_PATH, args.batch_size)
    state = SimpleNamespace(epsilon=CHOSEN_EPSILON[mode], generator=np.random.default_rng(seed),
                            deviation=np.concatenate(sequences_of(batches)).std(0))
    with seeded(seed):
        model = LSTMClassifier.from_checkpoint(base).train()
        optimizer = torch.optim.Adam(model.parameters(), **OPTIMIZER[mode])
        averaged = training.average_weights(model, optimizer, args.average_decay)
        for epoch in range(1, epochs + 1):
            state.left = 1 - epoch / epochs
            for batch in batches:
                optimizer.zero_grad()
                loss(model, batch, state).backward()
                torch.nn.utils.clip_grad_value_(model.parameters(), args.clip_value)
                optimizer.step()
    return model, averaged.module
