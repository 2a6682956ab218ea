"""The best recipe found here for the classifier on Japanese Vowels.

    model = BestClassifier.from_checkpoint('checkpoints/companions/best_seed0.pt')
    speaker = model(inputs, lengths).argmax(1)   # float32 [B, T, 12] zero-padded, int64 [B]

`python -m companions.best_recipe.experiment` writes that checkpoint. The inputs are not normalized.
To train on data of your own: `model = fit(sequences, labels)`.
"""

import math

import numpy as np
import torch
from torch.nn import functional as F

from Classifier import LSTMClassifier
from load_data import make_batches
from support.parallel import seeded
from training import train_model

# Each ingredient's setting in the full recipe, and without it, as in training.py's base model.
INGREDIENTS = {
    'raw values': {'raw': (True, False)},                  # as input, beside the normalized ones
    'batch norm, input': {'norm_input': (True, False)},
    'batch norm, before ReLU': {'norm_conv': (True, False)},
    'weight decay 5e-3': {'weight_decay': (5e-3, 1e-3)},
    'one-cycle schedule': {'one_cycle': (True, False)},    # of lr and beta1; without it, constant
    'shuffled batches': {'shuffle': (True, False)},
    'random crop': {'crop': (0.8, 1.0)},                   # smallest share of a sequence to keep
    'random offset': {'offset': (0.4, 0.0)},               # in standard deviations of a coefficient
}
CHOSEN = tuple(INGREDIENTS)  # by --tune: removing any of them costs more than its standard error
EPOCHS, BATCH_SIZE, KERNEL_SIZE, PEAK_LR, CONSTANT_LR = 80, 27, 3, 3e-3, 1e-3


class BestClassifier(LSTMClassifier):
    """`LSTMClassifier` that with `raw` reads each step twice: divided by its norm, and as it is."""

    def __init__(self, input_size=12, raw=True, **arguments):
        super().__init__(input_size * (1 + raw), **arguments)
        self.raw = raw
        self.arguments = {'input_size': input_size, 'raw': raw, **arguments}  # for a checkpoint

    def features(self, input):
        normalized = F.normalize(input, dim=2) if input.shape[2] > 1 else input
        return torch.cat([normalized, input], dim=2) if self.raw else normalized


def recipe_of(ingredients):
    """Return the settings of a recipe with these ingredients."""
    return {key: full if name in ingredients else without
            for name, settings in INGREDIENTS.items() for key, (full, without) in settings.items()}


def fit(sequences, labels, seed=0, ingredients=CHOSEN, mode='plain', epsilon=None, epochs=EPOCHS):
    """Train one model on float32 [T, F] arrays and their classes, int64 [N] from 0.

    It runs on the CPU, on one thread; `mode` and `epsilon` are those of training.train_model.
    Returns the model in evaluation mode. Raises ValueError if a sequence is shorter than the
    convolution kernel, or if batch normalization would get a minibatch of one value.
    """
    recipe = recipe_of(ingredients)
    alone = len(sequences) % BATCH_SIZE == 1  # the longest sequence, in a minibatch of its own
    if alone and recipe['norm_conv'] and max(map(len, sequences)) == KERNEL_SIZE:
        raise ValueError(f'batch normalization needs two values in every minibatch, but the last '
                         f'of {len(sequences)} sequences of {KERNEL_SIZE} steps leaves only one')
    generator = np.random.default_rng(seed)
    deviation = np.concatenate(sequences).std(0)
    with seeded(seed):
        model = BestClassifier(
            sequences[0].shape[1], recipe['raw'], output_size=int(labels.max()) + 1,
            kernel_size=KERNEL_SIZE,
            batch_norm=[place for place in ('input', 'conv') if recipe[f'norm_{place}']])
        optimizer = torch.optim.Adam(model.parameters(), CONSTANT_LR,
                                     weight_decay=recipe['weight_decay'])
        if recipe['one_cycle']:
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=epochs)
        for _ in range(epochs):
            order = generator.permutation(len(labels)) if recipe['shuffle'] else range(len(labels))
            changed = [augment(sequences[i], deviation, recipe, generator) for i in order]
            batches = make_batches(changed, labels[order], BATCH_SIZE)
            if recipe['shuffle']:
                batches = [batches[i] for i in generator.permutation(len(batches))]
            train_model(model, batches, optimizer, mode, epsilon)
            if recipe['one_cycle']:
                schedule.step()
    return model.eval()


def augment(x, deviation, recipe, generator):
    """Cut a random piece out of x [T, F] and add a random constant to each feature."""
    shortest = max(math.ceil(recipe['crop'] * len(x)), min(KERNEL_SIZE, len(x)))
    steps = generator.integers(shortest, len(x) + 1)
    start = generator.integers(len(x) - steps + 1)
    offset = recipe['offset'] * deviation * generator.standard_normal(len(deviation))
    return (x[start:start + steps] + offset).astype(np.float32)


@torch.no_grad()
def probabilities(model, sequences, mode='plain', epsilon=None):
    """Return class probabilities, float32 [N, C], of float32 [T, F] arrays."""
    inputs = torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, sequences)), batch_first=True)
    lengths = torch.tensor([len(x) for x in sequences])
    return model(inputs, lengths, mode=mode, epsilon=epsilon).softmax(1)


def accuracy(probabilities, labels):
    return (probabilities.argmax(1).numpy() == labels).mean().item()
